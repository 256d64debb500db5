"""Whether a KPI can fail at all: its control must FAIL under the same rule and kind of level before it may gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evals.evidence import gather
from evals.looks import Past, nominal, share
from evals.opponents import Comparison
from evals.results import ControlResult, Results
from evals.rules import tail_chances
from evals.suite import SuiteSpec


@dataclass(frozen=True, slots=True)
class Standing:
    """The control's verdict; `problem` says why the KPI may not gate, `waiting` why it may not gate yet."""

    verdict: str
    problem: str = ""
    waiting: str = ""


def standing(
    spec: SuiteSpec,
    comparison: Comparison,
    candidate: Results,
    controls: Mapping[str, ControlResult],
    past: Past,
) -> Standing:
    """Return how the control of a comparison stands.

    A slice's control is judged on all samples of the KPI, under the slice's rule. A control that failed at an earlier
    look has shown what it is there for.
    """
    kpi, name = comparison.kpi, comparison.kpi.control or ""
    if past.control_failed(comparison.key):
        return Standing("FAIL")
    if not name:
        return Standing("missing", "no `control` is named: it may not gate")
    control = controls.get(name)
    if control is None or kpi.id not in control.results.kpis:
        return Standing("missing", f"control `{name}` was not evaluated on this KPI: it may not gate")
    if control.results.kpis[kpi.id].instrument != candidate.kpis[kpi.id].instrument:
        return Standing("INVALID", f"control `{name}` was measured with another instrument: evaluate it again")
    mode, level = spec.gate.mode, spec.gate.level
    population = kpi.samples if mode == "whole_suite" and kpi.rule.type != "zero_tolerance" else None
    evidence, problems = gather(kpi, control.results, comparison.opponent, population, mode)
    if evidence is None:
        return Standing("INVALID", f"control `{name}`: {problems[0].replace('the candidate', 'it', 1)}")
    done = share(evidence.sums, kpi.samples)
    level = nominal(mode, level, past.fractions(comparison.key, done))
    _, p_pass, p_fail = tail_chances(kpi, evidence)
    if p_fail <= level:
        return Standing("FAIL")
    if p_pass <= level or done >= 1.0:
        verdict = "PASS" if p_pass <= level else "INCONCLUSIVE"
        wrong = f"control `{name}` should fail this KPI but got {verdict}: the KPI cannot tell bad from good"
        return Standing(verdict, wrong)
    return Standing("INCONCLUSIVE", waiting=f"control `{name}` is not shown to fail this KPI yet: more samples may")
