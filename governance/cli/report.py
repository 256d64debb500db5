"""`hallmark report`: dossiers and CI renderings."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command

FORMATS = ("html", "json", "md", "bundle")


@click.group()
def report() -> None:
    """Dossier and bill of materials of a version; CI renderings of a decision."""


@report.command("dossier")
@click.argument("version")
@click.option(
    "--format", "kind", type=click.Choice(["html", "json", "md", "bundle"]), default="html", show_default=True
)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write it; default: reports/ in the workspace.")
@click.option("--with-weights", is_flag=True, help="With `bundle`: copy the weights into it.")
@command
def dossier(session: Session, version: str, kind: str, out: Path | None, with_weights: bool) -> None:
    """Write everything known of a version as one self-contained document.

    `bundle` writes a folder that outsiders check offline: records with proofs, signatures, manifests, documents.

    Example: hallmark report dossier code --format bundle --out evidence
    """
    import reports
    from registry.workspace import file_digest

    ws = session.ws
    if kind == "bundle":
        _bundle(session, version, out, with_weights)
        return
    asset = ws.resolve(version, "version")
    actor = session.actor("read", asset.id)
    target = out or ws.root / "reports" / f"{asset.name}-{asset.number}.{kind}"
    target.parent.mkdir(parents=True, exist_ok=True)
    path = reports.render(ws, "dossier", asset.id, format=kind, out=target)
    ws.record("report.rendered", asset.id, {"format": kind, "digest": file_digest(path)}, actor=actor)
    session.emit({"path": str(path), "digest": file_digest(path)}, str(path))


def _bundle(session: Session, version: str, out: Path | None, with_weights: bool) -> None:
    from governance import evidence

    ws = session.ws
    certificate = evidence.certificate_of(ws, version)
    target = out or ws.root / "reports" / f"evidence-{certificate.id[7:19]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    path = evidence.export(ws, certificate.id, target, actor=session.as_name, with_weights=with_weights)
    root = ws.settings.workspace_id
    command_line = f"hallmark verify {path} --root {root}"
    session.emit(
        {"path": str(path), "certificate": certificate.id, "root": root}, [str(path), f"check: {command_line}"]
    )


@report.command("bom")
@click.argument("version")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where to write it; default: stdout.")
@command
def bom(session: Session, version: str, out: Path | None) -> None:
    """Write the CycloneDX 1.6 bill of materials of a version: files, data, base, engine, libraries.

    Example: hallmark report bom code --out code.cdx.json
    """
    from registry.workspace import file_digest
    from reports import bom as writer

    ws = session.ws
    asset = ws.resolve(version, "version")
    actor = session.actor("read", asset.id)
    if out is None:
        document = writer.build(ws, asset.id)
        session.emit(document, writer.render(document))
        return
    path = writer.write(ws, asset.id, out)
    ws.record("report.rendered", asset.id, {"format": "cyclonedx", "digest": file_digest(path)}, actor=actor)
    session.emit({"path": str(path), "digest": file_digest(path)}, str(path))


@report.command("ci")
@click.argument("decision")
@click.option("--format", "kind", type=click.Choice(["junit", "summary", "sarif"]), default="junit", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write it; default: stdout.")
@command
def ci(session: Session, decision: str, kind: str, out: Path | None) -> None:
    """Render a decision for CI; the exit code is the gate's.

    Example: hallmark report ci code --format junit --out gate.xml
    """
    import reports
    from evals.decision import EXIT_CODES

    asset = session.ws.resolve(decision, "decision")
    text = reports.render_ci(session.ws, asset.id, format=kind, out=out)
    session.emit({"decision": asset.id, "format": kind, "text": text}, str(out) if out else text)
    session.exit(EXIT_CODES[asset.body["verdict"]])
