"""The power planner: how many samples each KPI needs, and what the suite at hand can and cannot detect.

The question is always "if the candidate is truly as expected, how likely is PASS?". Paired figures use normal theory
with the expected discordance; rates use the exact bound. The finite-sample bounds need somewhat more at small n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evals.stats import power
from evals.suite import Floor, Kpi, MaxRate, Noninferior, SuiteSpec, Superior
from registry.records import plain


@dataclass(frozen=True, slots=True)
class Expectation:
    """What to expect of a KPI.

    `discordance` is the share of samples on which candidate and baseline will differ (0/1 metrics); `spread`, where
    given, replaces it by the standard deviation of one sample's difference (or value, for a floor), in units of the
    metric (of the baseline's mean for `scale: ratio`). `gain` is the true gain over the baseline, 0 for an equal model;
    `value` the candidate's true value (floor) or rate (max_rate; default a tenth of the limit). Clusters hold
    `cluster_size` samples with intra-cluster correlation `icc`.
    """

    discordance: float = 0.1
    spread: float | None = None
    gain: float = 0.0
    value: float | None = None
    cluster_size: float = 1.0
    icc: float = 0.0


@dataclass(frozen=True, slots=True)
class KpiPlan:
    """What one KPI's samples can do. `chance` is that of PASS; `detectable` the smallest distance they can show."""

    kpi: str
    rule: str
    samples: int
    needed: int | None
    chance: float | None
    detectable: float | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a suite; `chance` is that of the suite passing if its KPIs were independent."""

    suite: str
    alpha: float
    power: float
    chance: float | None
    kpis: tuple[KpiPlan, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return the plan as plain JSON data."""
        value: dict[str, Any] = plain(self)
        return value

    def render_lines(self) -> list[str]:
        """Return the plan as plain text lines."""
        lines = [f"suite {self.suite}, one-sided level {self.alpha:g}, wanted power {self.power:g}"]
        for item in self.kpis:
            lines += ["", f"  {item.kpi}  ({item.rule})  {item.samples} samples"]
            if item.chance is not None:
                lines.append(f"    passes with chance {item.chance:.2f} if the candidate is as expected")
            if item.needed is not None:
                more = f", {item.needed - item.samples} more" if item.needed > item.samples else ", which it has"
                lines.append(f"    needs {item.needed} for power {self.power:g}{more}")
            if item.detectable is not None:
                lines.append(f"    can show a distance of {item.detectable:.4g} from the threshold, no less")
            if item.note:
                lines.append(f"    {item.note}")
        if self.chance is not None:
            lines += ["", f"  the whole suite passes with chance {self.chance:.2f} if its KPIs are independent"]
        return lines


def plan(spec: SuiteSpec, expected: Mapping[str, Expectation] | None = None) -> Plan:
    """Return what a suite can decide.

    Args:
        spec: the suite; its level and power are used.
        expected: what to expect by KPI id; the default is an equal model with a tenth of the samples discordant.
    """
    found = tuple(_plan(spec, kpi, (expected or {}).get(kpi.id, Expectation())) for kpi in spec.gating)
    chances = [item.chance for item in found if item.chance is not None]
    whole = math.prod(chances) if len(chances) == len(found) else None
    return Plan(spec.suite, spec.gate.level, spec.gate.power, whole, found)


def _plan(spec: SuiteSpec, kpi: Kpi, expected: Expectation) -> KpiPlan:
    match kpi.rule:
        case MaxRate(limit=limit):
            return _rate(spec, kpi, limit, expected)
        case Noninferior(margin=margin):
            return _mean(spec, kpi, expected.gain + margin, _variance(kpi, expected), expected)
        case Superior(min_gain=gain):
            return _mean(spec, kpi, expected.gain - gain, _variance(kpi, expected), expected)
        case Floor(value=value):
            return _floor(spec, kpi, value, expected)
        case _:
            return KpiPlan(kpi.id, kpi.rule.type, kpi.samples, kpi.samples, None, None, "a census: one hit fails")


def _variance(kpi: Kpi, expected: Expectation) -> float | None:
    if expected.spread is not None:
        return expected.spread**2
    return expected.discordance - expected.gain**2 if kpi.bounds == (0.0, 1.0) else None


def _mean(spec: SuiteSpec, kpi: Kpi, gap: float, variance: float | None, expected: Expectation) -> KpiPlan:
    level, wanted = spec.gate.level, spec.gate.power
    if variance is None:
        return KpiPlan(
            kpi.id, kpi.rule.type, kpi.samples, None, None, None,
            "unknown: give the expected spread of one sample's difference, for example from two earlier runs",
        )  # fmt: skip
    inflated = variance * power.design_effect(expected.cluster_size, expected.icc)
    needed = power.samples_needed(gap, inflated, level, wanted)
    if needed is not None and kpi.bounds is not None and 0 < gap < kpi.bounds[1] - kpi.bounds[0]:
        ties = power.ties_needed(gap / (kpi.bounds[1] - kpi.bounds[0]), level)
        needed = max(needed, math.ceil(ties * expected.cluster_size))
    chance = power.power_at(kpi.samples, gap, inflated, level)
    if kpi.bounds is not None and kpi.samples < (needed or 0) and expected.discordance == 0.0:
        chance = 0.0
    detectable = power.detectable(kpi.samples, inflated, level, wanted)
    note = "" if gap > 0 else "the expected candidate does not satisfy this rule: no number of samples helps"
    return KpiPlan(kpi.id, kpi.rule.type, kpi.samples, needed, chance, detectable, note)


def _floor(spec: SuiteSpec, kpi: Kpi, threshold: float, expected: Expectation) -> KpiPlan:
    if expected.value is None:
        note = "unknown: give the value you expect of the candidate"
        return KpiPlan(kpi.id, kpi.rule.type, kpi.samples, None, None, None, note)
    variance = expected.spread**2 if expected.spread is not None else None
    if variance is None and kpi.bounds == (0.0, 1.0):
        variance = expected.value * (1.0 - expected.value)
    return _mean(spec, kpi, kpi.sign * (expected.value - threshold), variance, expected)


def _rate(spec: SuiteSpec, kpi: Kpi, limit: float, expected: Expectation) -> KpiPlan:
    level, wanted = spec.gate.level, spec.gate.power
    rate = limit / 10.0 if expected.value is None else expected.value
    needed = power.rate_samples_needed(rate, limit, level, wanted)
    chance = power.rate_power(kpi.samples, rate, limit, level)
    note = f"expected rate {rate:.4g}; at zero events {power.ties_needed(limit, level)} samples are needed"
    return KpiPlan(kpi.id, kpi.rule.type, kpi.samples, needed, chance, None, note)
