"""A candidate's case before the gate: its suite, whom it is compared with, what the ledger knows, what is due next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from governance import candidates, ledger, roles
from registry import specs
from registry.errors import NotFound, NotYet, SpecError
from registry.records import Asset
from registry.workspace import Workspace

if TYPE_CHECKING:
    from evals.instrument import Instrument
    from evals.reading import Shelf
    from evals.suite import SuiteSpec

FINAL = ("PASS", "FAIL")


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

    @property
    def closed(self) -> frozenset[str]:
        """The gating KPIs that need no more samples: all their tests passed or failed, or nothing can be asked yet."""
        last = {(v.kpi, v.against, v.slice): v for decision in self.standing.history for v in decision.kpis}
        found = set()
        for kpi in self.spec.kpis:
            asked = {test.against for test in self.standing.tests if test.kpi == kpi.id}
            judged = [
                v for (name, _, _), v in last.items() if name == kpi.id and v.gating and v.verdict != "NOT_JUDGED"
            ]
            settled = asked <= {v.against for v in judged} and all(v.verdict in FINAL for v in judged)
            if ledger.gates(kpi) and settled:
                found.add(kpi.id)
        return frozenset(found)

    @property
    def over(self) -> bool:
        """Whether the ledger leaves nothing to look at: a KPI failed, or every open one had all its looks."""
        if any(v.gating and v.verdict == "FAIL" for decision in self.standing.history for v in decision.kpis):
            return True
        waiting = {test.kpi for test in self.standing.tests} - self.closed
        return bool(self.standing.tests) and all(self.taken(kpi) >= self.looks for kpi in waiting)

    def taken(self, kpi: str) -> int:
        """Return how many looks a KPI had; evidence that could not be judged was none. Appended data grant one more."""
        judged = [
            [v for v in decision.kpis if v.kpi == kpi and not v.latched and v.p_pass is not None]
            for decision in self.standing.history
        ]
        count = sum(1 for verdicts in judged if verdicts)
        return min(count, self.looks - 1) if self.appended(kpi) else count

    def appended(self, kpi: str) -> bool:
        """Whether the last look at a KPI was at other samples than it has now (`anytime` only: at fewer of them)."""
        digest = next(each.digest for each in self.instruments if each.kpi.id == kpi)
        seen = [v.instrument for decision in self.standing.history for v in decision.kpis if v.kpi == kpi]
        return bool(seen) and bool(seen[-1]) and seen[-1] != digest

    def due(self, number: int = 1) -> dict[str, int]:
        """Return how many samples each KPI must have at its next look, or at its look `number` where that is later.

        A KPI that is closed gets none; samples that were appended are looked at all at once.
        """
        found = {}
        for each in self.instruments:
            kpi = each.kpi
            if kpi.id in self.closed:
                continue
            taken = self.taken(kpi.id) if ledger.gates(kpi) else len(self.standing.history)
            place = self.looks - 1 if self.appended(kpi.id) else min(max(taken, number - 1), self.looks - 1)
            found[kpi.id] = each.sizes(self.looks)[place]
        return found


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
    case = Case(candidate, spec, suite, tuple(instruments), opponents, standing, principal.name)
    lost = tuple(_lost(ws, case, each) for each in instruments if case.appended(each.kpi.id))
    conflicts = (*standing.conflicts, *(sentence for sentence in lost if sentence))
    return replace(case, standing=replace(standing, conflicts=conflicts))


def _lost(ws: Workspace, case: Case, instrument: Instrument) -> str:
    """Return what is wrong where samples that were looked at have left the plan: data may be appended, not replaced."""
    from evals.reading import Shelf, eval_runs

    kpi = instrument.kpi.id
    earlier = {v.instrument for decision in case.standing.history for v in decision.kpis if v.kpi == kpi}
    shelf, seen = Shelf(ws), set()
    for digest in earlier - {instrument.digest, ""}:
        then = replace(instrument, digest=digest)
        runs = [run for run in eval_runs(ws, case.candidate.id, "") if digest in run.body["instruments"].values()]
        seen |= shelf.samples(runs, then)
    gone = seen - {sample.id for sample in instrument.samples}
    if not gone:
        return ""
    return f"{kpi}: {len(gone)} sample(s) of earlier looks have left the plan: samples may be appended, never replaced"


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
