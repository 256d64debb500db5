"""The power planner: how many samples each KPI needs, and what the suite at hand can and cannot detect.

The question is always "if the candidate is truly so, how likely is PASS, how likely FAIL?". Expectations come from
earlier results (`evals/expectation.py`) or from the user; cluster sizes and slices from the suite's own samples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evals import outlook
from evals.expectation import Expectation, scale_of
from evals.outlook import Outlook
from evals.stats import bounds, power, sequential
from evals.suite import Floor, Kpi, MaxRate, Noninferior, SuiteSpec, Superior, ZeroTolerance
from registry.records import plain

if TYPE_CHECKING:
    from evals.instrument import Instrument
    from evals.samples import Sample

__all__ = ["Expectation", "KpiPlan", "Plan", "plan"]


@dataclass(frozen=True, slots=True)
class KpiPlan:
    """What one KPI's samples can do; `slice` names the part of them (`field=value`) that a slice rule judges.

    `needed` is the largest number of samples for the wanted power, looks included; `chance` that of PASS for the
    expected candidate and `equal` for one as good as the baseline; `detectable` the smallest distance from the
    threshold that is shown with the wanted power, and `shows` the true effect (units of the rule, larger is better)
    from which down FAIL is shown with it. `share` is the mean share of the planned samples that is used. `table` says
    what other effects would lead to; `method` how all this was found: `exact`, `simulated`, `normal` or `census`.
    """

    kpi: str
    rule: str
    samples: int
    needed: int | None
    chance: float | None
    detectable: float | None
    note: str = ""
    slice: str = ""
    clusters: int = 0
    equal: float | None = None
    shows: float | None = None
    share: float | None = None
    method: str = "normal"
    table: tuple[Outlook, ...] = ()

    @property
    def name(self) -> str:
        """The KPI, with its slice."""
        return f"{self.kpi} [{self.slice}]" if self.slice else self.kpi


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a suite.

    `chance` is that of the suite passing if its KPIs were independent; `equal` the same for a candidate exactly as good
    as the baseline.
    """

    suite: str
    alpha: float
    power: float
    chance: float | None
    kpis: tuple[KpiPlan, ...]
    equal: float | None = None
    mode: str = "fixed"
    looks: int = 1

    def to_plain(self) -> dict[str, Any]:
        """Return the plan as plain JSON data."""
        value: dict[str, Any] = plain(self)
        return value

    def render_lines(self) -> list[str]:
        """Return the plan as plain text lines."""
        how = self.mode if self.mode == "fixed" else f"{self.mode}, {self.looks} looks"
        lines = [f"suite {self.suite}, one-sided level {self.alpha:g}, wanted power {self.power:g}, {how}"]
        for item in self.kpis:
            lines += ["", *_lines(item, self.power)]
        if self.equal is not None and self.equal != self.chance:
            lines += ["", f"  an equal model passes the whole suite with chance {self.equal:.2f}"]
        if self.chance is not None:
            lines += ["", f"  the whole suite passes with chance {self.chance:.2f} if its KPIs are independent"]
        return lines


def plan(
    spec: SuiteSpec,
    expected: Mapping[str, Expectation] | None = None,
    *,
    instruments: Sequence[Instrument] = (),
) -> Plan:
    """Return what a suite can decide.

    Args:
        spec: the suite; its level, power, mode and looks are used.
        expected: what to expect by KPI id; the default is an equal model with a tenth of the samples discordant.
        instruments: the suite's own samples, for their clusters and slices; without them every cluster has the expected
            size and slices are not planned.
    """
    samples = {each.kpi.id: each.samples for each in instruments}
    parts = [part for kpi in spec.gating for part in _parts(spec, kpi, samples.get(kpi.id, ()))]
    default = Expectation()
    found = tuple(_plan(part, (expected or {}).get(part.kpi.id, default), len(parts)) for part in parts)
    chances = [item.chance for item in found if item.chance is not None]
    equals = [item.equal for item in found if item.equal is not None]
    return Plan(
        suite=spec.suite,
        alpha=spec.gate.level,
        power=spec.gate.power,
        chance=math.prod(chances) if len(chances) == len(found) else None,
        kpis=found,
        equal=math.prod(equals) if len(equals) == len(found) else None,
        mode=spec.gate.mode,
        looks=1 if spec.gate.mode == "fixed" else spec.gate.looks,
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """The samples that one gating verdict rests on: of a KPI, or of one slice of it. `sizes` are its clusters'."""

    spec: SuiteSpec
    kpi: Kpi
    samples: int
    sizes: tuple[int, ...] = ()
    slice: str = ""

    @property
    def looks(self) -> int:
        """How many looks are planned."""
        return 1 if self.spec.gate.mode == "fixed" else self.spec.gate.looks

    def mean_size(self, expected: Expectation) -> float:
        """Return the size of clusters that the design effect goes by: sum of squares over sum (Kish 1965)."""
        if not self.sizes:
            return expected.cluster_size
        return sum(size * size for size in self.sizes) / sum(self.sizes)

    def clusters(self, expected: Expectation) -> tuple[int, ...]:
        """Return the clusters' sizes, made up from the expected one where they are not known."""
        if self.sizes:
            return self.sizes
        size = max(1, round(expected.cluster_size))
        whole, rest = divmod(self.samples, size)
        return (size,) * whole + ((rest,) if rest else ())


def _parts(spec: SuiteSpec, kpi: Kpi, samples: Sequence[Sample]) -> list[_Part]:
    parts = [_Part(spec, kpi, len(samples) or kpi.samples, _sizes(samples))]
    if kpi.slice_rule is None:
        return parts
    inside: dict[str, list[Sample]] = {}
    for sample in samples:
        for name, value in sample.slices:
            inside.setdefault(f"{name}={value}", []).append(sample)
    judged = kpi.model_copy(update={"rule": kpi.slice_rule})
    return parts + [_Part(spec, judged, len(each), _sizes(each), name) for name, each in sorted(inside.items())]


def _sizes(samples: Sequence[Sample]) -> tuple[int, ...]:
    return tuple(sorted(Counter(sample.cluster for sample in samples).values(), reverse=True))


def _plan(part: _Part, expected: Expectation, gating: int) -> KpiPlan:
    match part.kpi.rule:
        case MaxRate(limit=limit):
            found = _rate(part, limit, expected)
        case Noninferior(margin=margin):
            found = _mean(part, -margin, expected, gating)
        case Superior(min_gain=gain):
            found = _mean(part, gain, expected, gating)
        case Floor(value=value):
            found = _floor(part, value, expected, gating)
        case ZeroTolerance():
            note = "a census: one hit fails"
            found = KpiPlan(
                part.kpi.id, "zero_tolerance", part.samples, part.samples, None, None, note, method="census"
            )
        case _:
            found = KpiPlan(part.kpi.id, part.kpi.rule.type, part.samples, None, None, None)
    note = found.note
    if part.kpi.slice_rule is not None and not part.slice and not part.sizes:
        note = f"{note}; its slices are known once its samples are" if note else "its slices are not planned here"
    return replace(found, slice=part.slice, clusters=len(part.clusters(expected)), note=note)


def _mean(part: _Part, goal: float, expected: Expectation, gating: int) -> KpiPlan:
    """Return the plan of a rule on a mean: of differences, or of the candidate's own values (`_floor`)."""
    kpi, gate = part.kpi, part.spec.gate
    if expected.variance(kpi, expected.gain) is None:
        return KpiPlan(
            kpi.id, kpi.rule.type, part.samples, None, None, None,
            "unknown: give the expected spread of one sample's difference, for example from two earlier runs",
        )  # fmt: skip
    if kpi.bounds is None and (gate.mode == "anytime" or len(part.clusters(expected)) < bounds.MIN_CLUSTERS):
        return _boundless(part, expected)
    design = power.design_effect(part.mean_size(expected), expected.icc)

    def variance(effect: float) -> float:
        return max(0.0, expected.variance(kpi, effect) or 0.0) * design

    levels = outlook.last_levels(gate.mode, gate.level, part.looks, gating)
    effects = _effects(goal, expected.gain)
    table, method = _outlooks(part, expected, goal, effects, levels, variance)
    gap = expected.gain - goal
    by = {item.effect: item for item in table}
    price = sequential.inflation(gate.mode, gate.level, gate.power, part.looks)
    error = math.sqrt(variance(expected.gain) / part.samples)
    drift = min(gap / error, 40.0) if error > 0 else 40.0
    return KpiPlan(
        kpi.id,
        kpi.rule.type,
        part.samples,
        needed=_needed(part, expected, gap, variance(expected.gain), price),
        chance=by[expected.gain].passes,
        detectable=power.detectable(max(1, int(part.samples / price)), variance(goal), gate.level, gate.power),
        note="" if gap > 0 else "the expected candidate does not satisfy this rule: no number of samples helps",
        equal=by[0.0].passes if 0.0 in by else None,
        shows=_shown(part, goal, variance, levels),
        share=sequential.expected_share(gate.mode, gate.level, part.looks, drift),
        method=method,
        table=tuple(table),
    )


def _boundless(part: _Part, expected: Expectation) -> KpiPlan:
    """Return the plan of an unbounded metric that no valid bound can judge: it stays INCONCLUSIVE."""
    enough = math.ceil(bounds.MIN_CLUSTERS * part.mean_size(expected))
    needed: int | None = max(enough, part.samples + 1)
    note = f"below {bounds.MIN_CLUSTERS} clusters it stays INCONCLUSIVE"
    if part.spec.gate.mode == "anytime":
        needed, note = None, "in mode `anytime` it stays INCONCLUSIVE"
    note = f"no valid bound for an unbounded metric: {note}; declare a `range`"
    return KpiPlan(part.kpi.id, part.kpi.rule.type, part.samples, needed, 0.0, None, note, equal=0.0)


def _effects(goal: float, gain: float) -> list[float]:
    """Return the effects to show: the expected one, none, the threshold, and both sides of it."""
    step = abs(goal) or 0.02
    return sorted({round(e, 12) for e in (goal - 2 * step, goal - step, 0.0, step, 2 * step)} | {goal, gain})


def _outlooks(
    part: _Part, expected: Expectation, goal: float, effects: Sequence[float], levels: outlook.Levels, variance: Any
) -> tuple[list[Outlook], str]:
    """Return outlooks and how they were found: by the bounds themselves where normal theory is wrong."""
    kpi, sizes = part.kpi, part.clusters(expected)
    pairs = kpi.needs_baseline and kpi.bounds == (0.0, 1.0) and scale_of(kpi) == "absolute" and expected.spread is None
    usual = part.spec.gate.mode in ("fixed", "group_sequential")
    within = [effect for effect in effects if -1.0 < effect < 1.0]
    if pairs and usual and len(within) == len(effects):
        if max(sizes, default=1) == 1 and part.samples <= outlook.EXACT:
            return outlook.exact_pairs(effects, goal, part.samples, expected.discordance, levels), "exact"
        few = len(sizes) < 50 or len(sizes) * expected.discordance < 40
        if few and max(sizes, default=1) > 1 and part.samples <= 4000:
            few_effects = sorted({goal, 0.0, expected.gain})
            found = outlook.simulated(few_effects, goal, sizes, expected.discordance, expected.icc, levels)
            return found, "simulated"
    found = outlook.normal(effects, goal, lambda effect: math.sqrt(variance(effect) / part.samples), levels)
    if pairs and part.samples < _ties(part, expected, abs(goal)) and expected.discordance == 0.0:
        found = [Outlook(item.effect, 0.0, item.fails) for item in found]
    return found, "normal"


def _needed(part: _Part, expected: Expectation, gap: float, variance: float, price: float) -> int | None:
    gate = part.spec.gate
    needed = power.samples_needed(gap, variance, gate.level, gate.power)
    if needed is not None and part.kpi.bounds is not None and 0 < gap < part.kpi.bounds[1] - part.kpi.bounds[0]:
        needed = max(needed, _ties(part, expected, gap))
    return None if needed is None else math.ceil(needed * price)


def _ties(part: _Part, expected: Expectation, gap: float) -> int:
    """Return how many samples are needed even if all of them are tied."""
    low, high = part.kpi.bounds or (0.0, 1.0)
    if not 0 < gap < high - low:
        return 1
    return math.ceil(power.ties_needed(gap / (high - low), part.spec.gate.level) * part.mean_size(expected))


def _shown(part: _Part, goal: float, variance: Any, levels: outlook.Levels) -> float:
    """Return the true effect from which down FAIL is shown with the wanted power (normal theory)."""
    low, high = 0.0, 1.0
    errors = [math.sqrt(variance(goal) / part.samples)]

    def fails(distance: float) -> float:
        return outlook.normal([goal - distance], goal, lambda _: errors[0], levels)[0].fails

    while fails(high) < part.spec.gate.power and high < 1e6:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if fails(middle) >= part.spec.gate.power else (middle, high)
    return goal - high


def _floor(part: _Part, threshold: float, expected: Expectation, gating: int) -> KpiPlan:
    kpi = part.kpi
    if expected.value is None:
        note = "unknown: give the value you expect of the candidate"
        return KpiPlan(kpi.id, kpi.rule.type, part.samples, None, None, None, note)
    if kpi.bounds == (0.0, 1.0) and expected.spread is None and part.mean_size(expected) == 1.0:
        return _exact_floor(part, threshold, expected.value)
    spread = expected.spread
    if spread is None:
        if kpi.bounds != (0.0, 1.0):
            note = "unknown: give the expected spread of one sample's value"
            return KpiPlan(kpi.id, kpi.rule.type, part.samples, None, None, None, note)
        spread = math.sqrt(expected.value * (1.0 - expected.value))
    gain = kpi.sign * (expected.value - threshold)
    found = _mean(part, 0.0, replace(expected, spread=spread, gain=gain), gating)
    return replace(found, equal=found.chance, shows=None, table=())


def _exact_floor(part: _Part, threshold: float, value: float) -> KpiPlan:
    """Return the plan of a floor on unclustered 0/1 values: misses are events whose rate the floor limits."""
    kpi = part.kpi
    rate, limit = (1.0 - value, 1.0 - threshold) if kpi.sign > 0 else (value, threshold)
    if not 0.0 < limit < 1.0:
        return KpiPlan(kpi.id, kpi.rule.type, part.samples, None, None, None, "every candidate, or none, satisfies it")
    found = _rate(part, limit, Expectation(value=rate))
    note = "" if rate < limit else "the expected candidate does not satisfy this rule: no number of samples helps"
    return replace(found, rule=kpi.rule.type, note=note)


def _rate(part: _Part, limit: float, expected: Expectation) -> KpiPlan:
    gate = part.spec.gate
    rate = limit / 10.0 if expected.value is None else expected.value
    price = sequential.inflation(gate.mode, gate.level, gate.power, part.looks)
    levels = outlook.last_levels(gate.mode, gate.level, part.looks, 1)
    needed = power.rate_samples_needed(rate, limit, levels.passing, gate.power)
    if needed is not None and gate.mode == "anytime":
        needed = math.ceil(power.rate_samples_needed(rate, limit, gate.level, gate.power) or needed * price)
    chance = power.rate_power(part.samples, rate, limit, levels.passing)
    design = power.design_effect(part.mean_size(expected), expected.icc)
    least = power.ties_needed(limit, levels.passing)
    note = f"expected rate {rate:.4g}; at zero events {least} samples are needed"
    if design > 1.0:
        needed = None if needed is None else math.ceil(needed * design)
        chance = power.rate_power(max(1, int(part.samples / design)), rate, limit, levels.passing)
        note += f"; clustered: counted as {int(part.samples / design)} samples"
    return KpiPlan(
        part.kpi.id, part.kpi.rule.type, part.samples, needed, chance, None, note, equal=chance, method="exact"
    )


def _lines(item: KpiPlan, wanted: float) -> list[str]:
    where = f" in {item.clusters} clusters" if 0 < item.clusters < item.samples else ""
    lines = [f"  {item.name}  ({item.rule})  {item.samples} samples{where}"]
    if item.chance is not None:
        lines.append(f"    passes with chance {item.chance:.2f} if the candidate is as expected")
    if item.needed is not None:
        more = f", {item.needed - item.samples} more" if item.needed > item.samples else ", which it has"
        lines.append(f"    needs {item.needed} for power {wanted:g}{more}")
    if item.share is not None and item.share < 1.0:
        lines.append(f"    uses {100 * item.share:.0f} % of its samples on average before it is decided")
    if item.detectable is not None:
        lines.append(f"    can show a distance of {item.detectable:.4g} from the threshold, no less")
    if item.shows is not None:
        lines.append(f"    FAIL is shown with power {wanted:g} from a true effect of {item.shows:+.4g} down")
    if item.table:
        lines.append(f"    true effect      PASS   FAIL   INCONCLUSIVE   ({item.method})")
        lines += [
            f"    {row.effect:>+11.4g}      {row.passes:.2f}   {row.fails:.2f}   {row.open:.2f}" for row in item.table
        ]
    return [*lines, f"    {item.note}"] if item.note else lines
