"""`hallmark report`: dossiers and CI renderings."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command


@click.group()
def report() -> None:
    """Dossier of a version; CI renderings of a decision."""


@report.command("dossier")
@click.argument("version")
@click.option("--format", "kind", type=click.Choice(["html", "json", "md"]), default="html", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write it; default: reports/ in the workspace.")
@command
def dossier(session: Session, version: str, kind: str, out: Path | None) -> None:
    """Write everything known of a version as one self-contained document.

    Example: hallmark report dossier code --format html
    """
    import reports

    ws = session.ws
    asset = ws.resolve(version, "version")
    actor = session.actor("read", asset.id)
    target = out or ws.root / "reports" / f"{asset.name}-{asset.number}.{kind}"
    target.parent.mkdir(parents=True, exist_ok=True)
    path = reports.render(ws, "dossier", asset.id, format=kind, out=target)
    from registry.workspace import file_digest

    ws.record("report.rendered", asset.id, {"format": kind, "digest": file_digest(path)}, actor=actor)
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
