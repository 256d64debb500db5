"""`hallmark eval`: run, import, compare, plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from governance.cli.app import Session, command


@click.group("eval")
def group() -> None:
    """Measure a candidate on a suite; import what another harness measured; compare; plan."""


_suite = click.option("--suite", required=True, type=click.Path(path_type=Path), help="The suite's YAML file.")


@group.command("run")
@click.argument("version")
@_suite
@click.option("--url", help="The OpenAI-compatible endpoint that KPIs with `endpoint: url` ask.")
@click.option("--model", default="", help="The model to name there; default: the one it serves.")
@click.option("--api-key-env", metavar="NAME", default="", help="The environment variable that holds its key.")
@click.option("--dry-run", is_flag=True, help="Check suite and candidate, show what the run may cost, and stop.")
@command
def run(
    session: Session, version: str, suite: Path, url: str | None, model: str, api_key_env: str, dry_run: bool
) -> None:
    """Measure every KPI in full; KPIs of the guarded endpoint run under an evaluation permit.

    What was measured before is not measured again; after a crash the run goes on where it was.

    Example: hallmark eval run code --suite specs/suite.yaml
    """
    from evals.budget import estimate
    from evals.evaluate import open_suite
    from governance import candidates, endpoints, gating

    actor = session.actor("evaluate", version)
    asset = candidates.candidate_of(session.ws, version, actor=actor)
    registered, instruments = open_suite(session.ws, suite, actor)
    cost = estimate(session.ws, registered, instruments)
    if dry_run:
        lines = [f"candidate {asset.id[7:19]}", *cost.render_lines()]
        session.emit({"candidate": asset.id, "suite": registered.id, "estimate": cost.to_plain()}, lines)
        return
    session.say("\n".join(cost.render_lines()))
    outside = endpoints.outside_url(url, model, api_key_env) if url else None
    runs = gating.evaluate(
        session.ws, asset, suite, actor=actor, passphrase=session.passphrase, outside=outside, progress=session.progress
    )
    session.emit(runs, [line for found in runs for line in _run_lines(found.id, found.body)])


def _run_lines(ident: str, body: dict[str, Any]) -> list[str]:
    return [
        f"eval run {ident[7:19]}  candidate {body['candidate'][7:19]}" + ("  imported" if body["imported"] else ""),
        *[
            f"  {kpi:<20} {done:>5} of {body['planned'][kpi]} samples, {body['errors'].get(kpi, 0)} errors,"
            f" {body['target'][kpi]}"
            for kpi, done in body["completed"].items()
        ],
    ]


@group.command("import")
@click.argument("version")
@_suite
@click.option("--file", "file", required=True, type=click.Path(path_type=Path), help="JSONL or Parquet rows.")
@click.option("--control", default="", help="These rows are a control's: `null_model` or `planted_violator`.")
@click.option("--format", "form", default="rows", show_default=True, help="`rows`, `lm-eval` or `inspect`.")
@click.option("--kpi", default="", help="The KPI that a file of `lm-eval` or `inspect` is for.")
@command
def import_(session: Session, version: str, suite: Path, file: Path, control: str, form: str, kpi: str) -> None:
    """Take results of any other harness for the KPIs with `harness: import`; all of them or nothing.

    Rows: sample, kpi, value, and where there are any weight, cluster, epoch, error, output, slices. They are marked as
    imported evidence in decision and certificate. `--format lm-eval` takes a `samples_*.jsonl` of `--log_samples`,
    `--format inspect` a log.

    Example: hallmark eval import code --suite specs/suite.yaml --file results.jsonl
    """
    from evals.imports import import_rows
    from governance import candidates

    actor = session.actor("evaluate", version)
    asset = candidates.candidate_of(session.ws, version, actor=actor)
    found = import_rows(session.ws, asset.id, suite, file, actor=actor, control=control, form=form, kpi=kpi)
    session.emit(found, _run_lines(found.id, found.body))


@group.command("compare")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@_suite
@click.option("--plot", type=click.Path(path_type=Path), help="Also draw it there: .svg, .html or .png.")
@command
def compare(session: Session, first: str, second: str, suite: Path, plot: Path | None) -> None:
    """Compare two evaluated candidates pair by pair: differences, intervals, worst items. It judges nothing.

    Example: hallmark eval compare base code --suite specs/suite.yaml --plot compare.html
    """
    from evals import compare as room
    from governance.case import load_suite

    sides, _ = _measured(session, suite, (first, second))
    table = room.compare(load_suite(suite), sides[0][0], sides[1][0], (sides[0][1], sides[1][1]))
    lines = table.render_lines()
    if plot is not None:
        _draw(table.to_plain(), plot)
        lines.append(f"drawn in {plot}")
    session.emit(table, lines)


def _measured(session: Session, suite: Path, refs: tuple[str, str]) -> tuple[list[tuple[Any, Any]], Any]:
    """Return for each of two candidates the results and rows of the samples that both have, and the instruments."""
    from evals.evaluate import open_suite
    from evals.reading import read
    from evals.samples import read_runs
    from governance import candidates
    from governance.case import measured_by_all

    actor = session.actor("evaluate", suite.name)
    registered, instruments = open_suite(session.ws, suite, actor)
    idents = [candidates.existing_candidate(session.ws, ref).id for ref in refs]
    due = measured_by_all(session.ws, registered, instruments, dict(zip(refs, idents, strict=True)))
    sides = []
    for ident in idents:
        results, runs = read(session.ws, registered, instruments, ident, due)
        sides.append((results, read_runs(session.ws, [run.id for run in runs])))
    return sides, tuple(instruments)


def _draw(table: dict[str, Any], path: Path) -> None:
    """Draw a comparison as SVG, as a page that needs no network, or as PNG by a browser of this machine."""
    from registry.artifacts import replace_file
    from registry.errors import SpecError
    from reports import comparisons

    drawing = {
        ".svg": lambda: comparisons.draw(table).encode(),
        ".html": lambda: comparisons.page(table).encode(),
        ".png": lambda: comparisons.png(table),
    }.get(path.suffix)
    if drawing is None:
        raise SpecError(f"cannot draw `{path.suffix}`", field="--plot", hint="name a .svg, .html or .png file")
    replace_file(path, drawing())


@group.command("plan")
@click.argument("suite", type=click.Path(path_type=Path))
@click.option("--from", "candidates_", nargs=2, metavar="A B", help="Expect what the stored results of these two show.")
@click.option("--discordance", type=float, default=0.1, show_default=True, help="Expected share of items that differ.")
@click.option("--gain", type=float, default=0.0, show_default=True, help="Expected true gain over the baseline.")
@click.option("--cluster-size", type=float, default=1.0, show_default=True, help="Samples a cluster.")
@click.option("--icc", type=float, default=0.0, show_default=True, help="Correlation within a cluster.")
@click.option("--expect", multiple=True, metavar="KPI:NAME=VALUE,...", help="The same for one KPI; may be repeated.")
@command
def plan(
    session: Session, suite: Path, candidates_: tuple[str, str] | None, discordance: float, gain: float,
    cluster_size: float, icc: float, expect: tuple[str, ...],
) -> None:  # fmt: skip
    """Say how many samples each KPI needs, and what the suite at hand can and cannot detect.

    Example: hallmark eval plan specs/suite.yaml --discordance 0.05
    """
    from evals import expectation
    from evals import plan as room
    from governance.case import load_suite

    spec = load_suite(suite)
    default = expectation.Expectation(discordance=discordance, gain=gain, cluster_size=cluster_size, icc=icc)
    expected = expectation.expectations((), default, spec)
    instruments: tuple[Any, ...] = ()
    if candidates_:
        sides, instruments = _measured(session, suite, candidates_)
        expected |= expectation.expectations_from(spec, sides[0][0], sides[1][0])
    found = room.plan(spec, expectation.overridden(expected, expect), instruments=instruments)
    session.emit(found, found.render_lines())
