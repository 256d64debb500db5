"""`hallmark eval`: run, compare, plan."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command


@click.group("eval")
def group() -> None:
    """Measure a candidate on a suite; compare; plan."""


@group.command("run")
@click.argument("version")
@click.option("--suite", required=True, type=click.Path(path_type=Path), help="The suite's YAML file.")
@click.option("--dry-run", is_flag=True, help="Check suite and candidate and stop.")
@command
def run(session: Session, version: str, suite: Path, dry_run: bool) -> None:
    """Measure every KPI; KPIs of the guarded endpoint run under an evaluation permit.

    Example: hallmark eval run code --suite specs/suite.yaml
    """
    from evals.suite import SuiteSpec
    from governance import candidates, gating
    from registry.specs import load

    spec = load(suite, SuiteSpec)
    actor = session.actor("evaluate", version)
    asset = candidates.candidate_of(session.ws, version, actor=actor)
    if dry_run:
        lines = [f"{kpi.id:<20} {kpi.harness:<8} {kpi.samples} samples, {kpi.endpoint}" for kpi in spec.kpis]
        session.emit({"candidate": asset.id, "suite": spec.digest}, lines)
        return
    found = gating.evaluate(
        session.ws, asset, suite, actor=actor, passphrase=session.passphrase, progress=session.progress
    )
    body = found.body
    session.emit(
        found,
        [
            f"eval run {found.id[7:19]}  candidate {body['candidate'][7:19]}",
            *[
                f"  {kpi:<20} {done:>5} of {body['planned'][kpi]} samples, {body['errors'].get(kpi, 0)} errors,"
                f" {body['target'][kpi]}"
                for kpi, done in body["completed"].items()
            ],
        ],
    )


@group.command("compare")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--suite", required=True, type=click.Path(path_type=Path), help="The suite's YAML file.")
@command
def compare(session: Session, first: str, second: str, suite: Path) -> None:
    """Compare two evaluated candidates pair by pair: differences, intervals, worst items.

    Example: hallmark eval compare base code --suite specs/suite.yaml
    """
    from evals import compare as room
    from evals import samples
    from evals.evaluate import find_run, register_suite
    from evals.suite import SuiteSpec
    from governance import candidates
    from registry.errors import NotYet
    from registry.specs import load

    actor = session.actor("evaluate", suite.name)
    registered = register_suite(session.ws, suite, actor)
    results = []
    for ref in (first, second):
        asset = candidates.existing_candidate(session.ws, ref)
        found = find_run(session.ws, asset.id, registered)
        if found is None:
            raise NotYet(
                f"`{ref}` was not evaluated on this suite", hint=f"run `hallmark eval run {ref} --suite {suite}`"
            )
        results.append(samples.read_results(session.ws, found.id))
    table = room.compare(load(suite, SuiteSpec), results[0], results[1])
    session.emit(table, table.render_lines())


@group.command("plan")
@click.argument("suite", type=click.Path(path_type=Path))
@click.option("--discordance", default=0.1, show_default=True, help="Expected share of items that differ.")
@command
def plan(session: Session, suite: Path, discordance: float) -> None:
    """Say how many samples each KPI needs, and what the suite at hand can detect.

    Example: hallmark eval plan specs/suite.yaml
    """
    from evals import plan as room
    from evals.suite import SuiteSpec
    from registry.specs import load

    spec = load(suite, SuiteSpec)
    found = room.plan(spec, {kpi.id: room.Expectation(discordance=discordance) for kpi in spec.kpis})
    session.emit(found, found.render_lines())
