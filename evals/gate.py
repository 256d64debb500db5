"""The gate: a pure function from a suite and results to a Decision. It reads no file, no clock and no random number.

Suite: INVALID > FAIL > INCONCLUSIVE > PASS. PASS only if every gating KPI passes at the level (an intersection-union
test, so no correction); FAIL if any gating KPI fails after Holm's correction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from evals.decision import SEVERITY, Decision, KpiVerdict, Verdict
from evals.evidence import gather
from evals.results import ControlResult, KpiResults, Results
from evals.rules import Assessment, assess, more_samples, reasons, tail_chances
from evals.stats.multiplicity import holm
from evals.suite import Kpi, SuiteSpec, ZeroTolerance

__all__ = ["ControlResult", "KpiResults", "Results", "decide"]


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One KPI and whom it is judged against; `opponent` is None for a rule on the candidate alone."""

    kpi: Kpi
    against: str
    opponent: Results | None


def decide(
    spec: SuiteSpec,
    candidate: Results,
    baseline: Results | None,
    *,
    anchor: Results | None = None,
    controls: Mapping[str, ControlResult],
) -> Decision:
    """Return the gate's decision on a candidate.

    Args:
        spec: the suite.
        candidate: the candidate's results.
        baseline: results of the rolling baseline on the same instrument; None for the first of its line, which is then
            judged by `floor`, `max_rate` and `zero_tolerance` alone (and by the anchor, where one is given).
        anchor: results of the last audited baseline; paired rules must hold against it as well.
        controls: results of the controls, by name. A gating KPI whose control does not FAIL it is INVALID.
    """
    judged: list[tuple[_Comparison, Assessment | KpiVerdict]] = []
    for kpi in spec.kpis:
        for comparison in _comparisons(spec, kpi, baseline, anchor):
            judged.append((comparison, _assess(spec, comparison, candidate, controls)))
    family = [item for comparison, item in judged if comparison.kpi.gating and isinstance(item, Assessment)]
    adjusted = dict(zip(map(id, family), holm([item.p_fail for item in family]), strict=True))
    verdicts = tuple(
        item if isinstance(item, KpiVerdict) else _conclude(spec, comparison.kpi, item, adjusted.get(id(item), 1.0))
        for comparison, item in judged
    )
    verdict, why = _suite_verdict(verdicts)
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
        kpis=verdicts,
        reasons=why,
    )


def _comparisons(spec: SuiteSpec, kpi: Kpi, baseline: Results | None, anchor: Results | None) -> list[_Comparison]:
    """Return whom a KPI is judged against: rolling baseline and anchor for paired rules, else nobody."""
    if not kpi.gating:
        return [_Comparison(kpi, "baseline" if baseline else "", baseline)]
    if not kpi.needs_baseline:
        return [_Comparison(kpi, "", None)]
    found = [_Comparison(kpi, "baseline", baseline)]
    named = spec.baseline is not None and spec.baseline.anchor is not None and baseline is not None
    if anchor is not None or named:
        found.append(_Comparison(kpi, "anchor", anchor))
    return found


def _assess(
    spec: SuiteSpec, comparison: _Comparison, candidate: Results, controls: Mapping[str, ControlResult]
) -> Assessment | KpiVerdict:
    """Return the assessment of one comparison, or the verdict where there is nothing to assess."""
    kpi, opponent = comparison.kpi, comparison.opponent
    if kpi.needs_baseline and opponent is None:
        if comparison.against == "anchor":
            return _without(comparison, "INVALID", ["the suite names an anchor, but no results of it were given"])
        return _without(comparison, "NOT_JUDGED", ["not judged: there is no baseline yet"])
    population = _population(spec, kpi)
    evidence, problems = gather(kpi, candidate, opponent, population)
    if evidence is None:
        verdict: Verdict = "INVALID" if kpi.gating else "ADVISORY"
        return _without(comparison, verdict, problems)
    found = assess(kpi, evidence, spec.gate.level, comparison.against)
    if not kpi.gating:
        return found
    control, problem = _control(spec, comparison, candidate, controls)
    figures = replace(found.figures, control_verdict=control)
    if problem:
        return replace(figures, verdict="INVALID", reasons=(problem,))
    return replace(found, figures=figures)


def _population(spec: SuiteSpec, kpi: Kpi) -> int | None:
    """Return how many samples the full suite has, where the full suite is the question."""
    return kpi.samples if spec.gate.mode == "whole_suite" and not isinstance(kpi.rule, ZeroTolerance) else None


def _control(
    spec: SuiteSpec, comparison: _Comparison, candidate: Results, controls: Mapping[str, ControlResult]
) -> tuple[str, str]:
    """Return the control's verdict under the same rule, and what is wrong with it (empty if it failed as it must)."""
    kpi = comparison.kpi
    name = kpi.control or ""
    control = controls.get(name)
    if control is None or kpi.id not in control.results.kpis:
        return "missing", f"control `{name}` was not evaluated on this KPI: it may not gate"
    if control.results.kpis[kpi.id].instrument != candidate.kpis[kpi.id].instrument:
        return "INVALID", f"control `{name}` was measured with another instrument: evaluate it again"
    evidence, problems = gather(kpi, control.results, comparison.opponent, _population(spec, kpi))
    if evidence is None:
        return "INVALID", f"control `{name}`: {problems[0].replace('the candidate', 'it', 1)}"
    _, p_pass, p_fail = tail_chances(kpi, evidence)
    if p_fail <= spec.gate.level:
        return "FAIL", ""
    verdict = "PASS" if p_pass <= spec.gate.level else "INCONCLUSIVE"
    return verdict, f"control `{name}` should fail this KPI but got {verdict}: the KPI cannot tell bad from good"


def _without(comparison: _Comparison, verdict: Verdict, why: list[str]) -> KpiVerdict:
    kpi = comparison.kpi
    return KpiVerdict(
        kpi=kpi.id,
        rule=kpi.rule.type,
        verdict=verdict,
        gating=kpi.gating,
        against=comparison.against,
        unit=kpi.unit,
        owner=kpi.owner,
        control=kpi.control or "",
        reasons=tuple(why),
    )


def _conclude(spec: SuiteSpec, kpi: Kpi, found: Assessment, adjusted: float) -> KpiVerdict:
    """Return the verdict of an assessed KPI, given its Holm-adjusted p-value of failing."""
    level = spec.gate.level
    verdict: Verdict = "ADVISORY"
    if kpi.gating:
        verdict = "PASS" if found.p_pass <= level else "FAIL" if adjusted <= level else "INCONCLUSIVE"
    needed = None
    if verdict == "INCONCLUSIVE":
        needed = more_samples(kpi, found.evidence, found.figures.bound, level, spec.gate.power)
    return replace(
        found.figures,
        verdict=verdict,
        p_pass=found.p_pass if kpi.gating else None,
        p_fail=adjusted if kpi.gating else None,
        samples_needed=needed,
        reasons=reasons(found, verdict, adjusted, level, needed),
    )


def _suite_verdict(verdicts: tuple[KpiVerdict, ...]) -> tuple[Verdict, tuple[str, ...]]:
    """Return the suite's verdict and a sentence per KPI that decides it."""
    gating = [item for item in verdicts if item.gating and item.verdict != "NOT_JUDGED"]
    if not gating:
        return "INVALID", (
            "nothing can be judged without a baseline: give the suite a `floor`, `max_rate` or `zero_tolerance` KPI",
        )
    verdict: Verdict = next(level for level in SEVERITY if any(item.verdict == level for item in gating))
    if verdict == "PASS":
        return verdict, (f"all {len(gating)} gating verdicts pass",)
    decisive = [item for item in gating if item.verdict == verdict]
    return verdict, tuple(f"{item.kpi}{_opponent(item)}: {'; '.join(item.reasons)}" for item in decisive)


def _opponent(item: KpiVerdict) -> str:
    return " (anchor)" if item.against == "anchor" else ""
