"""A candidate's case before the gate: its suite, whom it is compared with, what the ledger knows, what is due next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from governance import candidates, ledger, roles
from registry import specs
from registry.errors import NotFound, NotYet, SpecError
from registry.records import Asset
from registry.workspace import Workspace

if TYPE_CHECKING:
    from evals.decision import Decision
    from evals.instrument import Instrument
    from evals.reading import Shelf
    from evals.suite import SuiteSpec


@dataclass(frozen=True, slots=True)
class Case:
    """One candidate before the gate: the suite, whom it is compared with, and what the ledger says of its tests."""

    candidate: Asset
    spec: SuiteSpec
    suite: Asset
    instruments: tuple[Instrument, ...]
    opponents: dict[str, Asset]
    standing: ledger.Standing
    evaluator: str

    @property
    def looks(self) -> int:
        """How many looks are planned."""
        gate = self.spec.gate
        return 1 if gate.mode == "fixed" else gate.looks

    def due(self, number: int, earlier: Decision | None) -> dict[str, int]:
        """Return how many samples each KPI must have at a look (from 1); one that is decided gets no more."""
        wanted = {each.kpi.id for each in self.instruments}
        if earlier is not None:
            wanted -= {kpi.id for kpi in self.spec.gating} - set(earlier.open_kpis)
        return {each.kpi.id: each.sizes(self.looks)[number - 1] for each in self.instruments if each.kpi.id in wanted}


def open_case(
    ws: Workspace, candidate: Asset, suite_path: Path, *, baseline: str | None = None, actor: str | None = None
) -> Case:
    """Return a candidate's case before the gate: suite registered, opponents found, ledger read.

    Raises Refused where the actor may not decide; SpecError, NotFound for the suite or a named baseline.
    """
    from evals.evaluate import open_suite

    principal = roles.require(ws, "decide", candidate.id, actor)
    spec = load_suite(suite_path)
    suite, instruments = open_suite(ws, suite_path, principal.name)
    opponents = _opponents(ws, spec, baseline)
    tests = ledger.tests_of(spec, instruments, candidate.id, {role: asset.id for role, asset in opponents.items()})
    standing = ledger.standing(ws, candidate.id, tests)
    return Case(candidate, spec, suite, tuple(instruments), opponents, standing, principal.name)


def baseline_of(ws: Workspace, spec: SuiteSpec, named: str | None) -> Asset | None:
    """Return the candidate to compare with: the one named, else what the suite's baseline alias points at, else None.

    Raises NotFound when a baseline was named and is not there; a suite's alias that was never promoted is None.
    """
    ref = named or (spec.baseline.ref if spec.baseline else "")
    if not ref:
        return None
    try:
        return ws.resolve(ws.release(ref).candidate, "candidate")
    except NotFound:
        if not named:
            return None
    except SpecError:  # a digest, or `name:3`: no alias, but it may be a candidate
        if not named:
            raise
    return candidates.existing_candidate(ws, ref)


def load_suite(path: Path) -> SuiteSpec:
    """Return the suite in a YAML file. Raises SpecError, NotFound."""
    from evals.suite import SuiteSpec

    return specs.load(path, SuiteSpec)


def _opponents(ws: Workspace, spec: SuiteSpec, named: str | None) -> dict[str, Asset]:
    """Return the candidates to compare with: `baseline`, and `anchor` where the suite names one."""
    found = {"baseline": baseline_of(ws, spec, named)}
    if spec.baseline and spec.baseline.anchor:
        found["anchor"] = baseline_of(ws, spec, spec.baseline.anchor)
    return {role: asset for role, asset in found.items() if asset}


def measured_by_all(
    ws: Workspace, suite: Asset, instruments: Sequence[Instrument], candidate_ids: Mapping[str, str]
) -> dict[str, int]:
    """Return how many samples of each KPI all candidates have, from the first of the seeded order on; none: absent.

    Args:
        ws: the workspace.
        suite: the registered suite.
        instruments: its instruments.
        candidate_ids: candidate id by the name that an error should give it.

    Raises NotYet, naming a candidate that has none.
    """
    from evals.reading import Shelf, runs_of

    shelf = Shelf(ws)
    least: dict[str, int] = {}
    for name, ident in candidate_ids.items():
        runs = runs_of(ws, suite, instruments, ident)
        counts = {each.kpi.id: _prefix(shelf, runs, each) for each in instruments}
        if not any(counts.values()):
            raise NotYet(f"`{name}` was not evaluated on this suite", hint=f"run `hallmark eval run {name}` first")
        least = {kpi: min(count, least.get(kpi, count)) for kpi, count in counts.items()}
    return {kpi: count for kpi, count in least.items() if count}


def _prefix(shelf: Shelf, runs: Sequence[Asset], instrument: Instrument) -> int:
    usable = [run for run in runs if instrument.digest in run.body["instruments"].values()]
    known = shelf.samples(usable, instrument)
    if not instrument.samples:
        return instrument.kpi.samples if known else 0
    return next((n for n, sample in enumerate(instrument.samples) if sample.id not in known), len(instrument.samples))
