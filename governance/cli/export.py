"""`hallmark export`: lineage and certified versions in the formats and registries of others."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command

MLFLOW = "mlflow"


@click.command()
@click.argument("format", metavar="FORMAT")
@click.argument("ref", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="The file to write; default stdout.")
@click.option("--uri", metavar="URI", help="mlflow: its tracking URI: a folder, file:, http: or https:.")
@click.option("--registry-uri", metavar="URI", help="mlflow: its registry URI, where that differs.")
@click.option("--files", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="mlflow: copy model folders to DIR, verified, and name them as sources.")  # fmt: skip
@command
def export(
    session: Session,
    format: str,
    ref: str | None,
    out: Path | None,
    uri: str | None,
    registry_uri: str | None,
    files: Path | None,
) -> None:
    """Write lineage as openlineage (JSON lines) or prov (PROV-JSON), or register versions in mlflow.

    Lineage is that of REF, or of every asset. mlflow gets version REF, or every certified version, with aliases and
    certificates as tags; what it has already is left as it is.

    Example: hallmark export openlineage code --out code.jsonl

    hallmark export mlflow code --uri https://mlflow.example
    """
    if format == MLFLOW:
        if out is not None or uri is None:
            raise click.UsageError("`mlflow` needs `--uri` and takes no `--out`")
        _to_mlflow(session, ref or "", uri, registry_uri or "", files)
        return
    if uri or registry_uri or files:
        raise click.UsageError("`--uri`, `--registry-uri` and `--files` are for `mlflow`")
    _write(session, format, ref, out)


def _write(session: Session, format: str, ref: str | None, out: Path | None) -> None:
    from registry import lineage
    from registry.artifacts import replace_file
    from registry.errors import UnknownName
    from reports.exports import EXPORTS

    if format not in EXPORTS:
        raise UnknownName("export", format, [*EXPORTS, MLFLOW])
    render = EXPORTS.load(format)
    session.actor("export", ref or "*")
    text: str = render(session.ws, lineage.find(session.ws, ref).id if ref else "")
    if out is None:
        session.emit({"format": format, "text": text}, text.rstrip("\n"))
        return
    replace_file(out, text.encode("utf-8"))
    session.emit({"format": format, "out": str(out), "bytes": len(text.encode())}, f"wrote {out}")


def _to_mlflow(session: Session, ref: str, uri: str, registry_uri: str, files: Path | None) -> None:
    from governance import mlflow_registry

    done = mlflow_registry.export(session.ws, ref, uri, registry_uri=registry_uri, files=files, actor=session.as_name)
    for note in done.notes:
        session.say(note)
    if not done.models:
        text = ["nothing was certified yet"]
    else:
        text = [*done.changes] or [f"{done.uri} has it all already ({len(done.models)} model versions)"]
    session.emit(done, text)
