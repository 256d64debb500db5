"""The gate: a pure function from a suite and results to a Decision. It reads no file, no clock and no random number.

Suite: INVALID > FAIL > INCONCLUSIVE > PASS. PASS only if every gating comparison passes at its level (an
intersection-union test, so no correction); FAIL if any fails by Holm's step-down procedure. A comparison is a KPI, or
one slice of it, against one opponent. What earlier looks settled stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evals import looks, rules, slicing, validity
from evals.control_check import standing
from evals.decision import SEVERITY, Decision, KpiVerdict, Verdict
from evals.evidence import Evidence, Plan, gather, part
from evals.looks import Failing, Past
from evals.opponents import Comparison, Opponents, listed
from evals.results import ControlResult, KpiResults, Results
from evals.rules import Assessment
from evals.slicing import Slice
from evals.stats.multiplicity import holm
from evals.suite import SuiteSpec

__all__ = ["ControlResult", "KpiResults", "Results", "decide"]


@dataclass(frozen=True, slots=True)
class _Case:
    """What every comparison of one decision is judged with."""

    spec: SuiteSpec
    candidate: Results
    controls: Mapping[str, ControlResult]
    past: Past
    obstacle: str


@dataclass(frozen=True, slots=True)
class _Judged:
    """One comparison: its verdict so far, and the assessment where p-values are still to be compared with levels."""

    comparison: Comparison
    item: KpiVerdict
    found: Assessment | None = None
    fractions: tuple[float, ...] = ()
    left: int = 0


def decide(
    spec: SuiteSpec,
    candidate: Results,
    baseline: Results | None,
    *,
    anchor: Results | None = None,
    controls: Mapping[str, ControlResult],
    history: Sequence[Decision] = (),
    judged: int = 1,
) -> Decision:
    """Return the gate's decision on a candidate, at one look of its test.

    Args:
        spec: the suite.
        candidate: the candidate's results.
        baseline: results of the rolling baseline on the same instrument; None for the first of its line, which is then
            judged by `floor`, `max_rate` and `zero_tolerance` alone (and by the anchor, where one is given).
        anchor: results of the last audited baseline; paired rules must hold against it as well.
        controls: results of the controls, by name. A gating KPI whose control does not FAIL it is INVALID.
        history: the earlier decisions of the same test, in their order.
        judged: how many candidates this hold-out has judged, this one included.
    """
    past = Past(tuple(history))
    named = spec.baseline is not None and spec.baseline.anchor is not None
    ids = [candidate.candidate, *(each.candidate if each else None for each in (baseline, anchor))]
    obstacle = validity.spent_budget(spec, judged) or validity.foreign_history(spec, ids, history)
    case = _Case(spec, candidate, controls, past, obstacle)
    found = [_judge(case, each) for each in listed(spec, candidate, Opponents(baseline, anchor, named), past)]
    verdicts = _concluded(case, found)
    look = past.look(verdicts)
    verdicts = [item if item.latched else replace(item, look=look) for item in verdicts]
    verdict, why = _suite_verdict(verdicts)
    undecided = verdict == "INCONCLUSIVE" and not any(item.open for item in verdicts)
    return Decision(
        suite=spec.suite,
        suite_version=spec.version,
        suite_digest=spec.digest,
        candidate=candidate.candidate,
        baseline=baseline.candidate if baseline else None,
        anchor=anchor.candidate if anchor else None,
        verdict=verdict,
        bootstrap=baseline is None,
        mode=spec.gate.mode,
        alpha=spec.gate.alpha,
        level=spec.gate.level,
        kpis=tuple(verdicts),
        reasons=(obstacle,) if obstacle else why,
        look=look,
        looks=1 if spec.gate.mode == "fixed" else spec.gate.looks,
        final=verdict in ("PASS", "FAIL") or undecided,
        judged=judged,
        familywise=min(1.0, judged * spec.gate.level),
    )


def _judge(case: _Case, comparison: Comparison) -> _Judged:
    """Return one comparison with all that can be said of it before the levels of the family are known."""
    kpi, rows = comparison.kpi, case.candidate.kpis.get(comparison.kpi.id)
    if case.obstacle and comparison.gating:
        return _without(comparison, rows, "INVALID", case.obstacle)
    settled = case.past.latched(comparison.key) if comparison.gating else None
    if settled is not None:
        return _Judged(comparison, settled)
    if kpi.needs_baseline and comparison.opponent is None:
        if comparison.against == "anchor":
            return _without(comparison, rows, "INVALID", "the suite names an anchor, but no results of it were given")
        return _without(comparison, rows, "NOT_JUDGED", "not judged: there is no baseline yet")
    broken: Verdict = "INVALID" if comparison.gating else "ADVISORY"
    mode = case.spec.gate.mode
    population = kpi.samples if mode == "whole_suite" and kpi.rule.type != "zero_tolerance" else None
    evidence, problems = gather(kpi, case.candidate, comparison.opponent, population, mode)
    if evidence is None or rows is None:
        return _without(comparison, rows, broken, *problems)
    if comparison.gating:
        earlier = case.past.about(comparison.key)
        problem = validity.unfit(case.spec, kpi, case.candidate, comparison.opponent, earlier)
        if problem:
            return _without(comparison, rows, "INVALID", problem)
    if comparison.part is None:
        return _assess(case, comparison, evidence, kpi.samples)
    return _slice(case, comparison, comparison.part, evidence, rows)


def _slice(case: _Case, comparison: Comparison, chosen: Slice, evidence: Evidence, rows: KpiResults) -> _Judged:
    """Return one slice, judged on its samples alone."""
    problem = slicing.missing(rows, chosen.field)
    if problem and (comparison.gating or not chosen.value):
        return _without(comparison, rows, "INVALID" if comparison.gating else "ADVISORY", problem)
    if not chosen.value:
        why = f"the values of `{chosen.field}` are known for certain only when all samples are measured"
        return _without(comparison, rows, "INCONCLUSIVE", why)
    mask = slicing.members(rows, chosen)
    samples, complete = int(mask.sum()), evidence.sums.samples >= comparison.kpi.samples
    if not samples:
        why = f"none of the {chosen.planned} samples of this slice is measured yet"
        open_yet: Verdict = "INVALID" if complete else "INCONCLUSIVE"
        return _without(comparison, rows, open_yet if comparison.gating else "ADVISORY", why)
    planned = samples if complete else chosen.planned
    mode = case.spec.gate.mode
    plan = Plan(population=planned or None if mode == "whole_suite" else None, largest=rows.largest, mode=mode)
    return _assess(case, comparison, part(comparison.kpi, evidence, mask, plan), planned)


def _assess(case: _Case, comparison: Comparison, evidence: Evidence, planned: int) -> _Judged:
    """Return a comparison with its p-values and figures; `planned` is how many samples its whole plan holds."""
    kpi, gate = comparison.kpi, case.spec.gate
    samples, done = evidence.sums.samples, looks.share(evidence.sums, planned)
    left = max(0, planned - samples)
    marks = _marks(case, comparison)
    if not comparison.gating:
        found = rules.assess(kpi, evidence, gate.level, comparison.against)
        worst = () if comparison.part else found.figures.worst
        return _Judged(comparison, replace(found.figures, worst=worst, fraction=done, **marks), found, left=left)
    held = case.past.held(comparison.key)
    if samples < held:
        why = f"an earlier look held {held} samples, this one {samples}: a test only ever gains samples"
        return _without(comparison, case.candidate.kpis.get(kpi.id), "INVALID", why)
    fractions = case.past.fractions(comparison.key, done)
    level = looks.nominal(gate.mode, gate.level, fractions)
    control = standing(case.spec, comparison, case.candidate, case.controls, case.past)
    found = rules.assess(kpi, evidence, level, comparison.against)
    item = replace(found.figures, fraction=done, pass_level=level, control_verdict=control.verdict, **marks)
    if control.problem:
        return _Judged(comparison, replace(item, verdict="INVALID", reasons=(control.problem,)))
    if control.waiting:
        item = replace(item, verdict="INCONCLUSIVE", p_pass=found.p_pass, p_fail=found.p_fail)
        return _Judged(comparison, replace(item, reasons=(control.waiting,)))
    return _Judged(comparison, item, found, fractions, left)


def _marks(case: _Case, comparison: Comparison) -> dict[str, Any]:
    rows = case.candidate.kpis.get(comparison.kpi.id)
    return {**validity.marks(rows, comparison.opposed), "slice": comparison.key.slice}


def _without(comparison: Comparison, rows: KpiResults | None, verdict: Verdict, *why: str) -> _Judged:
    """Return a verdict without figures: there was nothing to judge."""
    kpi = comparison.kpi
    marks: dict[str, Any] = {**validity.marks(rows, comparison.opposed), "slice": comparison.key.slice}
    item = KpiVerdict(
        kpi=kpi.id,
        rule=kpi.rule.type,
        verdict=verdict,
        gating=kpi.gating,
        against=comparison.against,
        unit=kpi.unit,
        owner=kpi.owner,
        control=kpi.control or "",
        reasons=why,
        **marks,
    )
    return _Judged(comparison, item)


def _concluded(case: _Case, judged: Sequence[_Judged]) -> list[KpiVerdict]:
    """Return the verdicts, every p-value compared with the level that its looks and the family leave it."""
    gate = case.spec.gate
    family = sum(each.comparison.gating and each.item.verdict != "NOT_JUDGED" for each in judged)
    failed = sum(each.item.latched and each.item.verdict == "FAIL" for each in judged)
    tests = {
        index: Failing(each.found.p_fail, each.fractions)
        for index, each in enumerate(judged)
        if each.found is not None and each.comparison.gating
    }
    outcome = dict(zip(tests, looks.step_down(gate.mode, gate.level, [*tests.values()], family, failed), strict=True))
    padded = [test.p for test in tests.values()] + [1.0] * (family - failed - len(tests))
    adjusted = dict(zip(tests, holm(padded), strict=False))
    return [
        _conclude(case, each, *outcome.get(index, (False, 0.0)), adjusted.get(index, 1.0))
        for index, each in enumerate(judged)
    ]


def _conclude(case: _Case, each: _Judged, fails: bool, level: float, adjusted: float) -> KpiVerdict:
    """Return the verdict of one comparison."""
    gate, item, found, kpi = case.spec.gate, each.item, each.found, each.comparison.kpi
    if item.latched:
        return item
    said = validity.remarks(item, each.comparison.opposed)
    if found is None:
        return replace(item, reasons=(*item.reasons, *said))
    if not each.comparison.gating:
        return replace(item, reasons=(*rules.reasons(found, item, gate, each.left), *said))
    verdict: Verdict = "FAIL" if fails else "PASS" if found.p_pass <= (item.pass_level or 0.0) else "INCONCLUSIVE"
    fixed = gate.mode == "fixed"
    item = replace(
        item,
        verdict=verdict,
        p_pass=found.p_pass,
        p_fail=adjusted if fixed else found.p_fail,
        fail_level=gate.level if fixed else level,
    )
    if verdict == "INCONCLUSIVE":
        needed = rules.needed_at_looks(kpi, found.evidence, item.bound, gate, each.left)
        item = replace(item, samples_needed=needed)
    return replace(item, reasons=(*rules.reasons(found, item, gate, each.left), *said))


def _suite_verdict(verdicts: Sequence[KpiVerdict]) -> tuple[Verdict, tuple[str, ...]]:
    """Return the suite's verdict and a sentence per comparison that decides it."""
    gating = [item for item in verdicts if item.gating and item.verdict != "NOT_JUDGED"]
    if not gating:
        return "INVALID", (
            "nothing can be judged without a baseline: give the suite a `floor`, `max_rate` or `zero_tolerance` KPI",
        )
    verdict: Verdict = next(level for level in SEVERITY if any(item.verdict == level for item in gating))
    if verdict == "PASS":
        return verdict, (f"all {len(gating)} gating verdicts pass",)
    decisive = [item for item in gating if item.verdict == verdict]
    return verdict, tuple(f"{item.kpi}{_which(item)}: {'; '.join(item.reasons)}" for item in decisive)


def _which(item: KpiVerdict) -> str:
    """Return which of a KPI's comparisons it is, in brackets; nothing for the plain one."""
    names = [item.slice] if item.slice else []
    names += ["anchor"] if item.against == "anchor" else []
    return f" ({', '.join(names)})" if names else ""
