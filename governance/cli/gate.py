"""`hallmark gate`: run, decide, show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from governance.cli.app import Session, command


@click.group()
def gate() -> None:
    """Judge a candidate: exit 0 PASS, 1 FAIL, 2 INVALID, 3 INCONCLUSIVE."""


def _options(function: Any) -> Any:
    function = click.option("--baseline", metavar="REF", help="Compare with this; default: the suite's baseline.")(
        function
    )
    suite = click.option("--suite", required=True, type=click.Path(path_type=Path), help="The suite's YAML file.")
    return click.argument("version")(suite(function))


@gate.command("run")
@_options
@command
def run(session: Session, version: str, suite: Path, baseline: str | None) -> None:
    """Evaluate what is missing, controls included, then judge.

    Example: hallmark gate run code --suite specs/suite.yaml
    """
    from governance import candidates, gating

    asset = candidates.candidate_of(session.ws, version, actor=session.actor("evaluate", version))
    decision, value = gating.run(
        session.ws, asset, suite, baseline=baseline, actor=session.as_name, passphrase=session.passphrase,
        progress=session.progress,
    )  # fmt: skip
    session.emit(decision, [*gating.render(session.ws, decision, value), f"decision {decision.id[7:19]}"])
    session.exit(value.exit_code)


@gate.command("decide")
@_options
@command
def decide(session: Session, version: str, suite: Path, baseline: str | None) -> None:
    """Judge stored results without measuring anything.

    Example: hallmark gate decide code --suite specs/suite.yaml --baseline prod
    """
    from governance import candidates, gating

    asset = candidates.existing_candidate(session.ws, version)
    decision, value = gating.decide(session.ws, asset, suite, baseline=baseline, actor=session.as_name)
    session.emit(decision, [*gating.render(session.ws, decision, value), f"decision {decision.id[7:19]}"])
    session.exit(value.exit_code)


@gate.command("show")
@click.argument("ref", metavar="ID")
@command
def show(session: Session, ref: str) -> None:
    """Show a decision again, with every reason.

    Example: hallmark gate show code
    """
    import msgspec

    from evals.decision import Decision
    from governance import gating

    asset = session.ws.resolve(ref, "decision")
    value = msgspec.convert(asset.body["report"], Decision)
    made = f"decision {asset.id[7:19]} by {asset.owner}, {asset.created[:19]}"
    session.emit(asset, [*gating.render(session.ws, asset, value), made])
    session.exit(value.exit_code)
