"""`hallmark gate`: run, decide, show, ledger."""

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
@click.option("--dry-run", is_flag=True, help="Show the tests, the planned looks and what they may cost, and stop.")
@command
def run(session: Session, version: str, suite: Path, baseline: str | None, dry_run: bool) -> None:
    """Evaluate look by look, controls included, and stop as soon as the verdict stands.

    A rerun goes on after the last look; a test that is over is shown again.

    Example: hallmark gate run code --suite specs/suite.yaml
    """
    from evals.budget import estimate
    from governance import candidates, gating, ledger
    from governance.case import Case, open_case

    asset = candidates.candidate_of(session.ws, version, actor=session.actor("evaluate", version))
    if dry_run:
        case = open_case(session.ws, asset, suite, baseline=baseline, actor=session.as_name)
        cost = estimate(session.ws, case.suite, case.instruments)
        said = {**ledger.describe(case.spec, case.standing), "estimate": cost.to_plain()}
        session.emit(said, [*ledger.describe_lines(case.spec, case.standing), *cost.render_lines()])
        return

    def announce(case: Case) -> None:
        session.say("\n".join(estimate(session.ws, case.suite, case.instruments).render_lines()))

    decision, value = gating.run(
        session.ws, asset, suite, baseline=baseline, actor=session.as_name, passphrase=session.passphrase,
        announce=announce, progress=session.progress,
    )  # fmt: skip
    session.emit(decision, [*gating.render(session.ws, decision, value), f"decision {decision.id[7:19]}"])
    session.exit(value.exit_code)


@gate.command("decide")
@_options
@command
def decide(session: Session, version: str, suite: Path, baseline: str | None) -> None:
    """Look once at stored results, measuring nothing; it counts as a look.

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


@gate.command("ledger")
@click.option("--suite", metavar="NAME", help="Only this suite; default: all.")
@command
def ledger_(session: Session, suite: str | None) -> None:
    """List every look that was taken: who was judged with which samples, at which level, and what came out.

    Example: hallmark gate ledger --suite quickstart
    """
    from governance import ledger

    rows = ledger.looks(session.ws, suite)
    session.emit(rows, ledger.look_lines(rows))
