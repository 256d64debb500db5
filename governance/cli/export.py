"""`hallmark export`: lineage in the formats of others."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command


@click.command()
@click.argument("format", metavar="FORMAT")
@click.argument("ref", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="The file to write; default stdout.")
@command
def export(session: Session, format: str, ref: str | None, out: Path | None) -> None:
    """Write lineage as openlineage (JSON lines) or prov (PROV-JSON): of REF, or of every asset.

    Example: hallmark export openlineage code --out code.jsonl
    """
    from registry import lineage
    from registry.artifacts import replace_file
    from reports.exports import EXPORTS

    render = EXPORTS.load(format)
    session.actor("export", ref or "*")
    text: str = render(session.ws, lineage.find(session.ws, ref).id if ref else "")
    if out is None:
        session.emit({"format": format, "text": text}, text.rstrip("\n"))
        return
    replace_file(out, text.encode("utf-8"))
    session.emit({"format": format, "out": str(out), "bytes": len(text.encode())}, f"wrote {out}")
