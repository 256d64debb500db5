"""Judges one KPI on its evidence: the two p-values that decide, the figures, and the sentences that explain them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evals.decision import KpiVerdict, WorstItem, number
from evals.evidence import Evidence
from evals.stats import bounds, paired, power, sequential
from evals.suite import Floor, GateSpec, Kpi, MaxRate, Noninferior, Superior, ZeroTolerance

WORST_ITEMS = 10
LEAST_LEVEL = 1e-9
"""Below this level no interval is given: numerical tails are not trusted that far out."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """One KPI against one opponent, before the correction for several KPIs.

    `p_pass` is the p-value of "the rule is broken", `p_fail` of "the rule is kept"; both lie in [0, 1].
    `figures` holds everything else, with the verdict still open.
    """

    p_pass: float
    p_fail: float
    figures: KpiVerdict
    evidence: Evidence


def threshold(kpi: Kpi) -> float | None:
    """Return the effect a rule asks for (oriented, larger is better); None where no effect is asked for."""
    match kpi.rule:
        case Noninferior(margin=margin):
            return -margin
        case Superior(min_gain=gain):
            return gain
        case Floor(value=value):
            return kpi.sign * value
        case MaxRate(limit=limit):
            return -limit
        case _:
            return None


def assess(kpi: Kpi, evidence: Evidence, level: float, against: str) -> Assessment:
    """Return how the evidence speaks for and against a KPI at a one-sided level."""
    bound, p_pass, p_fail = tail_chances(kpi, evidence)
    return Assessment(p_pass, p_fail, _figures(kpi, evidence, against, bound, level), evidence)


def tail_chances(kpi: Kpi, evidence: Evidence) -> tuple[str, float, float]:
    """Return the bound used, the p-value of "the rule is broken" (small: PASS) and of "it is kept" (small: FAIL)."""
    sums, goal = evidence.sums, threshold(kpi)
    if isinstance(kpi.rule, ZeroTolerance):
        return _census(kpi, evidence)
    bound = bounds.choose(sums)
    if goal is None:
        return bound, 1.0, 1.0
    p_pass, p_fail = bounds.p_at_most(sums, goal, bound), bounds.p_at_least(sums, goal, bound)
    if bound == "full suite" and isinstance(kpi.rule, Floor | MaxRate) and p_fail > 0.0:
        p_pass = 0.0  # these two allow equality, and the full suite knows its value exactly
    return bound, p_pass, p_fail


def _census(kpi: Kpi, evidence: Evidence) -> tuple[str, float, float]:
    """Judge listed cases: a hit settles it at once, no hit only once every case was run."""
    if bool((evidence.candidate.values > 0.0).any()):
        return "full suite", 1.0, 0.0
    done = evidence.sums.samples >= kpi.samples
    return ("full suite", 0.0, 1.0) if done else ("none", 1.0, 1.0)


def _figures(kpi: Kpi, evidence: Evidence, against: str, bound: str, level: float) -> KpiVerdict:
    sums, goal = evidence.sums, threshold(kpi)
    interval = bounds.interval(sums, level, bound if level >= LEAST_LEVEL or bound == "full suite" else "none")
    weight = float(sums.weights.sum())
    turn = kpi.sign if sums.baseline is None else 1
    low, high = sorted((turn * interval[0] + 0.0, turn * interval[1] + 0.0))
    return KpiVerdict(
        kpi=kpi.id,
        rule=kpi.rule.type,
        verdict="ADVISORY",
        gating=kpi.gating,
        against=against if sums.baseline is not None else "",
        unit=kpi.unit,
        owner=kpi.owner,
        scale=sums.scale,
        level=level,
        threshold=None if goal is None else turn * goal,
        candidate=float(sums.candidate.sum()) / weight,
        baseline=None if sums.baseline is None else float(sums.baseline.sum()) / weight,
        estimate=turn * sums.effect + 0.0,
        lower=low if math.isfinite(low) else None,
        upper=high if math.isfinite(high) else None,
        bound=bound,
        n=sums.samples,
        clusters=sums.clusters,
        discordant=sums.discordant,
        clipped=evidence.candidate.clipped + (evidence.baseline.clipped if evidence.baseline else 0),
        control=kpi.control or "",
        worst=worst_items(kpi, evidence),
    )


def worst_items(kpi: Kpi, evidence: Evidence, most: int = WORST_ITEMS) -> tuple[WorstItem, ...]:
    """Return the samples that speak most against the candidate, the worst first, ties by sample id."""
    column, other = evidence.candidate, evidence.baseline
    values = column.values / column.weights
    if other is None:
        limit = kpi.rule.value if isinstance(kpi.rule, Floor) else 0.0
        differences = kpi.sign * (values - limit)
    else:
        differences = kpi.sign * (column.values - other.values) / column.weights
    order = np.argsort(differences, kind="stable")[:most]
    return tuple(
        WorstItem(
            sample_id=str(column.ids[index]),
            candidate=float(values[index]),
            baseline=None if other is None else float(other.values[index] / other.weights[index]),
            difference=float(differences[index]),
        )
        for index in order
        if differences[index] < 0.0
    )


def more_samples(kpi: Kpi, evidence: Evidence, bound: str, level: float, chance: float) -> int | None:
    """Return how many more samples like these would probably decide in one look; None where that cannot be foreseen."""
    sums, goal = evidence.sums, threshold(kpi)
    n = sums.samples
    if goal is None or bound == "full suite":
        return None
    if bound == "none":
        return math.ceil(n * bounds.MIN_CLUSTERS / sums.clusters) - n if sums.clusters < bounds.MIN_CLUSTERS else None
    if bound == "binomial" and isinstance(kpi.rule, MaxRate) and -sums.effect < kpi.rule.limit:
        total = power.rate_samples_needed(-sums.effect, kpi.rule.limit, level, chance)
        return None if total is None else max(total - n, 1)
    _, error = paired.standard_error(sums.contrast(goal), sums.weights)
    if sums.scale == "ratio" and sums.baseline is not None:
        error *= float(sums.weights.sum() / sums.baseline.sum())
    gap = abs(sums.effect - goal)
    total = power.samples_needed(gap, n * error**2 if math.isfinite(error) else 0.0, level, chance)
    if total is None:
        return None
    low, high = sums.extremes
    if math.isfinite(high - low):
        room = (sums.effect - low) if sums.effect > goal else (high - sums.effect)
        total = max(total, power.ties_needed(min(1.0, gap / max(room, gap)), level) * n // sums.clusters)
    if bound == "betting" and sums.population is None:
        total = max(total, math.ceil(n * bounds.MIN_CLUSTERS / sums.clusters))
    return max(total, n + max(1, n // 10)) - n


def needed_at_looks(kpi: Kpi, evidence: Evidence, bound: str, gate: GateSpec, left: int) -> int | None:
    """Return how many more samples would probably decide, the price of several looks included.

    Args:
        kpi: what was measured.
        evidence: what there is.
        bound: the bound that judged it.
        gate: level, power, mode and looks.
        left: how many samples of the plan are not measured yet.
    """
    if isinstance(kpi.rule, ZeroTolerance):
        return left or None
    more = more_samples(kpi, evidence, bound, gate.level, gate.power)
    if gate.mode == "whole_suite" and left:
        return left if more is None else min(more, left)
    if more is None:
        return None
    n = evidence.sums.samples
    return math.ceil((n + more) * sequential.inflation(gate.mode, gate.level, gate.power, gate.looks)) - n


def reasons(found: Assessment, item: KpiVerdict, gate: GateSpec, left: int) -> tuple[str, ...]:
    """Return readable sentences that say why a judged KPI has its verdict.

    Args:
        found: the assessment.
        item: the verdict, with the p-values and the levels they were compared with.
        gate: how sure the gate must be, and how it looks.
        left: how many samples of the plan are not measured yet.
    """
    if item.verdict == "ADVISORY":
        return ("advisory: reported, does not gate",)
    if item.rule == "zero_tolerance":
        hits = int(np.count_nonzero(found.evidence.candidate.values > 0.0))
        if hits:
            return (f"{hits} of {item.n} listed cases were hit, none may be",)
        return (f"none of {item.n} was hit" + (f", {left} listed cases are still to be run" if left else ""),)
    if item.verdict == "PASS":
        return (f"{_claim(item)}: {_limit(found, best=False)} ({_sureness(item, gate)})",)
    if item.verdict == "FAIL":
        return (f"{_claim(item, holds=False)}: {_limit(found, best=True)} ({_failure(item, gate)})",)
    return _undecided(found, item, gate, left)


def _sureness(item: KpiVerdict, gate: GateSpec) -> str:
    if item.bound == "full suite":
        return "the full suite was run"
    if gate.mode == "fixed":
        return f"one-sided confidence {1.0 - item.level:.4g}"
    return f"p {item.p_pass or 0.0:.2g}, at most {item.pass_level or 0.0:.2g} at this look"


def _failure(item: KpiVerdict, gate: GateSpec) -> str:
    if gate.mode == "fixed":
        return f"Holm-adjusted p {item.p_fail or 0.0:.2g}"
    return f"p {item.p_fail or 0.0:.2g}, at most {item.fail_level or 0.0:.2g} at this look by Holm's procedure"


def _undecided(found: Assessment, item: KpiVerdict, gate: GateSpec, left: int) -> tuple[str, ...]:
    said = [f"not yet shown: {_claim(item)}; {_span(item)}"]
    if found.p_fail <= (item.pass_level or 0.0):
        said = [f"looks like {_claim(item, holds=False)} (p {found.p_fail:.2g}), but not after Holm's correction"]
    if item.bound == "none":
        said.append(
            f"no valid bound for {item.clusters} clusters of an unbounded metric, {item.discordant} of which differ: "
            f"at least {bounds.MIN_CLUSTERS} are needed, most of them different and none far out, or a declared `range`"
        )
    if item.bound == "full suite":
        return (*said, "the full suite lies exactly on the threshold")
    holds = f"the plan holds {left} more" if left else ""
    if item.samples_needed is not None:
        more = f"about {item.samples_needed} more samples like these would probably decide"
        said.append(f"{more}; {holds}" if holds else more)
    elif holds:
        said.append(holds)
    if not left:
        said.append(_afterwards(item, gate))
    return tuple(said)


def _afterwards(item: KpiVerdict, gate: GateSpec) -> str:
    """Return what is left to do when the last look did not decide."""
    if gate.mode == "anytime":
        return "all planned samples are used: append samples to the suite, this mode allows it"
    many = "" if item.samples_needed is None else f" of about {item.n + item.samples_needed} samples"
    return f"no look is left: judge on a fresh hold-out{many}, or in `mode: anytime`, which allows more to be appended"


def _claim(item: KpiVerdict, *, holds: bool = True) -> str:
    """Return what the rule asks, or its opposite, in words."""
    goal = item.threshold or 0.0
    match item.rule:
        case "noninferior":
            loss = f"{-goal:.2%}" if item.scale == "ratio" else f"{-goal:.4g}"
            return f"{'no ' if holds else ''}more than {loss} worse than the {item.against}"
        case "superior":
            return f"{'' if holds else 'not '}better than the {item.against} by more than {_text(item, goal)}"
        case "max_rate":
            return f"a rate {'of at most' if holds else 'above'} {_text(item, goal)}"
        case _:
            return f"{'reaches' if holds else 'misses'} {_text(item, goal)}"


def _limit(assessment: Assessment, *, best: bool) -> str:
    """Return the end of the interval that decides: the best that the candidate could be, or the worst."""
    item = assessment.figures
    upward = bool(item.against) or assessment.evidence.sums.sign > 0
    end, name = (item.upper, "upper") if best == upward else (item.lower, "lower")
    what = "gain" if item.against else "rate" if item.rule == "max_rate" else "value"
    return f"observed {_text(item, item.estimate)}, the {name} bound of the {what} is {_text(item, end)}"


def _span(item: KpiVerdict) -> str:
    return f"observed {_text(item, item.estimate)}, interval [{_text(item, item.lower)}, {_text(item, item.upper)}]"


def _text(item: KpiVerdict, value: float | None) -> str:
    return "unknown" if value is None else number(item, value)
