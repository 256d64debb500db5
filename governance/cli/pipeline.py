"""`hallmark pipeline`: the whole walk."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command


@click.group()
def pipeline() -> None:
    """Data, train, evaluate, gate, promote in one walk."""


@pipeline.command("run")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Check the spec and everything it names, and stop.")
@command
def run(session: Session, spec: Path, dry_run: bool) -> None:
    """Walk from data to promotion; finished steps are skipped by digest. Exits with the gate's code.

    Example: hallmark pipeline run specs/pipeline.yaml
    """
    from governance import pipeline as room
    from registry.specs import load

    if dry_run:
        checked = room.check(session.ws, spec)
        session.emit(checked, [f"{name:<24} fine" for name in checked])
        return
    load(spec, room.PipelineSpec)
    code, steps = 0, []
    for step in room.walk(session.ws, spec, passphrase=session.passphrase, progress=session.progress):
        code = step.exit_code
        steps.append({"step": step.name, "text": step.text, "id": step.asset.id if step.asset else None})
        if not session.as_json:
            session.finish()
            click.echo(
                "\n".join(f"{step.name if i == 0 else '':<10} {line}" for i, line in enumerate(step.text.split("\n")))
            )
    if session.as_json:
        session.emit({"exit_code": code, "steps": steps}, "")
    session.exit(code)
