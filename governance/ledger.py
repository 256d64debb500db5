"""The ledger of looks: which candidate was looked at with which samples, by which rule, how often, and what came out.

A test is a candidate against an opponent on one instrument. It never starts again: a rerun goes on where the last look
ended, or repeats its verdict. Whoever changes the rule of a test that has been looked at needs samples not yet seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from registry import seals
from registry.records import Asset, digest_of, plain
from registry.workspace import Workspace

if TYPE_CHECKING:
    from evals.decision import Decision, KpiVerdict
    from evals.instrument import Instrument
    from evals.suite import Kpi, SuiteSpec

LOOKED = "gate.looked"
ANCHOR = "anchor"


@dataclass(frozen=True, slots=True)
class Test:
    """One question asked of a hold-out: `id` names candidate, opponent and instrument, `plan` how it is judged."""

    id: str
    kpi: str
    against: str
    opponent: str
    instrument: str
    plan: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What the ledger knows before a look: earlier looks of these tests, and what stands in the way of another.

    `judged` is how many candidates these samples have judged, this one included: for each KPI every pair of candidate
    and baseline counts, and the largest number is kept. `conflicts` are sentences; one is enough to judge nothing.
    """

    tests: tuple[Test, ...]
    history: tuple[Decision, ...]
    judged: int
    conflicts: tuple[str, ...]


def tests_of(
    spec: SuiteSpec, instruments: Sequence[Instrument], candidate: str, opponents: Mapping[str, str]
) -> tuple[Test, ...]:
    """Return the tests of a suite's gating KPIs; `opponents` maps `baseline` and `anchor` to candidate ids."""
    found = []
    for each in instruments:
        kpi = each.kpi
        # Appended samples are the same test where its bounds hold at any time: it is known by its ruler.
        measure = each.ruler if spec.gate.mode == "anytime" else each.digest
        for against, opponent in _roles(kpi, opponents).items():
            ident = digest_of({"candidate": candidate, "opponent": opponent, "instrument": measure, "as": against})
            found.append(Test(ident, kpi.id, against, opponent, measure, _plan(spec, kpi)))
    return tuple(found)


def gates(kpi: Kpi) -> bool:
    """Return whether a KPI can stop a promotion, by its own rule or by that of its slices."""
    return kpi.gating or kpi.slice_rule is not None


def _roles(kpi: Kpi, opponents: Mapping[str, str]) -> dict[str, str]:
    """Return against whom a KPI and its slices are judged: opponents, and nobody (an empty name) for limits."""
    rules = [rule for rule in (kpi.rule, kpi.slice_rule) if rule is not None and rule.type != "advisory"]
    found: dict[str, str] = {}
    for rule in rules:
        found |= opponents if rule.type in ("noninferior", "superior") else {"": ""}
    return found


def standing(ws: Workspace, candidate: str, tests: Sequence[Test]) -> Standing:
    """Return what earlier looks say. Raises Tampered, Refused where a look in the journal does not hold."""
    import msgspec

    from evals.decision import Decision

    by_id = {test.id: test for test in tests}
    history: list[Decision] = []
    conflicts: dict[str, str] = {}
    for event in seals.sealed(ws, LOOKED, candidate):
        kept = set()
        for look in event.body["looks"]:
            test = by_id.get(look["test"])
            if test is None:
                continue
            if look["plan"] != test.plan:
                conflicts[test.kpi] = _conflict(test, look, event.ts)
            kept.add((look["kpi"], look["against"]))
        if kept:
            value = msgspec.convert(event.body["report"], Decision)
            names = {test.kpi for test in tests}
            verdicts = tuple(item for item in value.kpis if (item.kpi, item.against) in kept and item.kpi in names)
            history.append(replace(value, kpis=verdicts))
    return Standing(tuple(tests), tuple(history), _judged(ws, candidate, tests), tuple(conflicts.values()))


def write(ws: Workspace, candidate: str, suite: Asset, tests: Sequence[Test], value: Decision, *, actor: str) -> None:
    """Write one look into the journal, sealed by the evaluator. What is latched from an earlier look is not repeated.

    A KPI without a p-value (INVALID evidence, no baseline yet) was not looked at: nothing was learnt of its effect.
    """
    by_name = {(test.kpi, test.against): test for test in tests}
    looks = []
    for item in value.kpis:
        test = by_name.get((item.kpi, item.against))
        if test is None or item.latched or item.p_pass is None:
            continue
        looks.append(_row(test, item, value.look))
    if looks:
        ws.record(LOOKED, candidate, {"suite": suite.id, "looks": looks, "report": plain(value)}, actor=actor)


def _row(test: Test, item: KpiVerdict, number: int) -> dict[str, Any]:
    return {
        "test": test.id, "kpi": test.kpi, "slice": item.slice, "against": test.against, "opponent": test.opponent,
        "instrument": test.instrument, "plan": test.plan, "number": number, "samples": item.n,
        "clusters": item.clusters, "fraction": item.fraction, "level": item.pass_level, "p_pass": item.p_pass,
        "p_fail": item.p_fail, "verdict": item.verdict,
    }  # fmt: skip


def _plan(spec: SuiteSpec, kpi: Kpi) -> str:
    """Return the digest of how a KPI is judged: everything that, changed after a look, would be a second chance.

    In `anytime` mode the number of samples may grow: data may be appended to such a test.
    """
    gate = spec.gate
    judged = kpi.model_dump(mode="json", include={"rule", "slices", "slice_rule", "direction", "range", "cluster"})
    size: dict[str, Any] = {} if gate.mode == "anytime" else {"samples": kpi.samples, "looks": gate.looks}
    return digest_of({**judged, "mode": gate.mode, "level": gate.level, "order_seed": gate.order_seed, **size})


def _judged(ws: Workspace, candidate: str, tests: Sequence[Test]) -> int:
    """Return the largest number of (candidate, baseline) pairs that one of these instruments has judged."""
    wanted = {(test.instrument, test.opponent) for test in tests if test.against != ANCHOR}
    rows = ws.store.query(
        "SELECT DISTINCT instrument, candidate, opponent FROM look WHERE against <> ? AND list_contains(?, instrument)",
        [ANCHOR, sorted({instrument for instrument, _ in wanted})],
    )
    pairs: dict[str, set[tuple[str, str]]] = {instrument: {(candidate, other)} for instrument, other in wanted}
    for row in rows:
        pairs[row["instrument"]].add((row["candidate"], row["opponent"]))
    return max((len(found) for found in pairs.values()), default=1)


def _conflict(test: Test, look: Mapping[str, Any], ts: str) -> str:
    said = f"{look['verdict']} at look {look['number']}, {ts[:19]}"
    return (
        f"{test.kpi}: this candidate was judged on these samples before, by another rule or plan ({said}); "
        "a verdict is not changed by changing its rule: give the KPI samples that this candidate has not seen"
    )


def describe(spec: SuiteSpec, found: Standing) -> dict[str, Any]:
    """Return what is asked and what was looked at, as plain data."""
    level = spec.gate.level
    return {
        "mode": spec.gate.mode,
        "looks": 1 if spec.gate.mode == "fixed" else spec.gate.looks,
        "looked": len(found.history),
        "judged": found.judged,
        "level": level,
        "familywise": min(1.0, found.judged * level),
        "conflicts": list(found.conflicts),
        "tests": [plain(test) for test in found.tests],
    }


def describe_lines(spec: SuiteSpec, found: Standing) -> list[str]:
    """Return the same as lines for people."""
    said = describe(spec, found)
    size = f" of {spec.gate.max_candidates}" if spec.gate.budget == "family" else ""
    return [
        f"{said['mode']}, one-sided level {said['level']:g}, look {said['looked']} of {said['looks']} taken",
        f"these samples judge candidate {said['judged']}{size}: the chance that any was promoted wrongly is at most "
        f"{said['familywise']:.3g}",
        *[f"  {test.kpi:<24} against {test.against or 'its limit':<9} {test.opponent[7:19]}" for test in found.tests],
        *said["conflicts"],
    ]


def looks(ws: Workspace, suite: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of the table `look`, oldest first, each with the names of its suite and candidate."""
    return ws.store.query(
        "SELECT l.*, s.name AS suite_name, c.name AS candidate_name FROM look l"
        " JOIN asset s ON s.id = l.suite JOIN asset c ON c.id = l.candidate"
        " WHERE ? IS NULL OR s.name = ? OR s.id = ? ORDER BY l.seq, l.kpi, l.slice",
        [suite, suite, suite],
    )


def look_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return looks as lines for people: when, on whom, at which look and level, and the verdict."""
    if not rows:
        return ["no sample was looked at yet"]
    return [
        f"{row['ts'][:19]}  {row['candidate_name']} {row['candidate'][7:15]}  {row['suite_name']}/{row['kpi']}"
        + (f"[{row['slice']}]" if row["slice"] else "")
        + f"  look {row['number']}, {row['samples']} samples ({row['fraction']:.0%}), level {row['level'] or 0.0:.4g}"
        + f"  {row['verdict']}"
        for row in rows
    ]
