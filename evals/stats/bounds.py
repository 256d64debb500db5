"""Which bound judges a KPI, and its p-values and interval.

| data | bound | holds because |
|---|---|---|
| every sample of the suite was run and the question is the suite (`whole_suite`) | `full suite` | no sampling error |
| bounded, looked at whenever one likes (`anytime`) | `e-process` | proven at every n and any number of looks |
| 0/1 per sample, unclustered, candidate alone | `binomial` | exact (Clopper-Pearson) |
| the same, part of a suite | `hypergeometric` | exact without replacement |
| 0/1 per sample, unclustered, paired | `score` | exact tail, worst discordance rate (see `score`), also of a suite |
| bounded; below 50 clusters, or below 20 that vary | `betting` | proven at every n, with or without replacement |
| bounded, else | `dirichlet` | simulated (benchmarks/gate.py); never narrower than t to first order |
| unbounded, not `anytime`, 50 clusters, most (or 100) vary, little skewness | `t` | central limit, corrected t |
| unbounded, else | `none` | nothing valid is known: declare a `range` |

Planned looks compare these p-values with the nominal level of `sequential.level`. For part of a suite `dirichlet` and
`t` judge the distance to the threshold stretched by 1 / sqrt(1 - share seen): the spread of what is not yet seen.

Every bound is a test of "effect <= t" (or ">= t"); intervals invert the test. Effects are oriented: larger is better.
Clusters with weights (bytes, words, several samples) are judged by the sum of numerators minus t times the weight,
which lies in a known range because the suite's largest cluster weight is known before any model is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from evals.stats import betting, binomial, dirichlet, paired, score

Array = np.ndarray[Any, np.dtype[np.float64]]

MIN_CLUSTERS = 50
"""Below this many clusters no bound that rests on the central limit theorem is used."""
MIN_VARIED = 20
"""Below this many clusters that differ from the commonest one, bounded data get the betting bound."""
MIN_VARIED_UNBOUNDED = 100
"""Unbounded data that are mostly ties need this many clusters that vary before t is used; or four fifths of all."""

PER_SKEWNESS = 25.0
"""Unbounded data need this many clusters times their squared skewness before t is used (Cochran 1977, ch. 2.15): with
log-normal losses t alone errs .13 at 50 clusters and level .05. What was never seen no such rule can know."""


@dataclass(frozen=True, slots=True)
class ClusterSums:
    """What a KPI measured, summed per cluster: all that any bound needs.

    `candidate` and `baseline` are sums of numerators, `weights` sums of weights (samples, bytes or words), each of
    shape (G,). `sign` is +1 where higher is better. `bounds` is the range of one value (numerator over weight).
    `population` is the number of samples in the full suite where the question is that suite; else None.
    """

    candidate: Array
    baseline: Array | None
    weights: Array
    samples: int
    sign: int = 1
    scale: Literal["absolute", "ratio"] = "absolute"
    bounds: tuple[float, float] | None = None
    binary: bool = False
    """Every cluster is one sample of weight 1 with the value 0 or 1."""
    population: int | None = None
    clusters_planned: int = 0
    """How many clusters the whole plan has; 0: known only through `population`."""
    largest: float = 0.0
    """The weight of the largest cluster of the whole plan; 0: that of those present. The range of a sum rests on it."""
    mode: str = "fixed"
    """How looks are taken: `fixed`, `group_sequential`, `anytime` or `whole_suite`."""

    @property
    def clusters(self) -> int:
        """How many clusters there are."""
        return len(self.weights)

    @property
    def discordant(self) -> int:
        """Clusters on which candidate and baseline differ (candidate alone: that differ from the commonest value)."""
        return self.varied if self.baseline is None else int(np.count_nonzero(self.candidate != self.baseline))

    @property
    def varied(self) -> int:
        """Clusters whose value differs from the commonest one: how much evidence of spread there is."""
        means = np.round(self.gain / self.weights, 12)
        return self.clusters - int(np.unique(means, return_counts=True)[1].max())

    @property
    def skewness(self) -> float:
        """The skewness of the clusters' residuals; 0 where there is no spread."""
        residuals: Array = self.contrast(self.effect)
        spread = float((residuals**2).mean()) ** 0.5
        return float((residuals**3).mean()) / spread**3 if spread > 0.0 else 0.0

    @property
    def effect(self) -> float:
        """The observed effect, larger is better: a difference, a share of the baseline, or the candidate's mean."""
        gain = float(self.gain.sum())
        if self.scale == "ratio" and self.baseline is not None:
            return gain / float(self.baseline.sum())
        return gain / float(self.weights.sum())

    @property
    def unseen(self) -> float:
        """By what factor a finite suite shrinks the standard error: sqrt(1 - share seen), 1 without a population."""
        if self.population is None:
            return 1.0
        seen = self.samples / self.population
        if self.clusters_planned:
            seen = min(seen, self.clusters / self.clusters_planned)
        return math.sqrt(max(0.0, 1.0 - seen))

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and largest effect the range of values allows; infinite where there is none."""
        if self.bounds is None or self.scale == "ratio":
            return (-math.inf, math.inf)
        low, high = self.bounds
        if self.baseline is not None:
            return (low - high, high - low)
        return (low, high) if self.sign > 0 else (-high, -low)

    @property
    def gain(self) -> Array:
        """The oriented numerators per cluster, shape (G,): differences where there is a baseline."""
        oriented: Array = self.sign * (self.candidate if self.baseline is None else self.candidate - self.baseline)
        return oriented

    def contrast(self, effect: float) -> Array:
        """Return per cluster what has mean 0 if the true effect is `effect`, shape (G,).

        On the ratio scale it is candidate - (1 + sign x effect) x baseline: exact, no delta method.
        """
        if self.scale == "ratio" and self.baseline is not None:
            scaled: Array = self.sign * (self.candidate - (1.0 + self.sign * effect) * self.baseline)
            return scaled
        difference: Array = self.gain - effect * self.weights
        return difference

    def reach(self, effect: float) -> tuple[float, float]:
        """Return the smallest and largest value `contrast(effect)` can take; needs `bounds`."""
        low, high = self.extremes
        if self.scale == "ratio" and self.baseline is not None and self.bounds is not None:
            factor = 1.0 + self.sign * effect
            ends = [self.sign * (c - factor * b) for c in self.bounds for b in self.bounds]
            low, high, effect = min(ends), max(ends), 0.0
        largest = max(self.largest, float(self.weights.max()))
        return largest * (low - effect), largest * (high - effect)


def choose(sums: ClusterSums) -> str:
    """Return the name of the bound that judges these data (the table above)."""
    if sums.population is not None and sums.samples >= sums.population:
        return "full suite"
    small = sums.clusters < MIN_CLUSTERS
    if sums.bounds is None:
        scarce = small or sums.varied < min(MIN_VARIED_UNBOUNDED, 0.8 * sums.clusters)
        skewed = sums.clusters < PER_SKEWNESS * sums.skewness**2
        return "none" if scarce or skewed or sums.mode == "anytime" else "t"
    if sums.mode == "anytime":
        return "e-process"
    if sums.binary and sums.scale == "absolute":
        alone = "binomial" if sums.population is None else "hypergeometric"
        return alone if sums.baseline is None else "score"
    return "betting" if small or sums.varied < MIN_VARIED else "dirichlet"


def p_at_most(sums: ClusterSums, effect: float, name: str) -> float:
    """Return the p-value of "the true effect is at most `effect`": small means it is shown to be larger."""
    return _TESTS[name](sums, effect, 1)


def p_at_least(sums: ClusterSums, effect: float, name: str) -> float:
    """Return the p-value of "the true effect is at least `effect`": small means it is shown to be smaller."""
    return _TESTS[name](sums, effect, -1)


def interval(sums: ClusterSums, alpha: float, name: str) -> tuple[float, float]:
    """Return the lower and upper bound of the effect, each at one-sided level alpha; infinite where there is none."""
    if name == "none":
        return (-math.inf, math.inf)
    if name == "full suite":
        return (sums.effect, sums.effect)
    least, most = sums.extremes
    step = _step(sums)
    lower = _invert(lambda t: p_at_most(sums, t, name), alpha, sums.effect, least, step)
    upper = -_invert(lambda t: p_at_least(sums, -t, name), alpha, -sums.effect, -most, step)
    return lower, upper


def _step(sums: ClusterSums) -> float:
    """Return a first step for the search: the standard error, but none that doubling would not bring anywhere."""
    _, error = paired.standard_error(sums.contrast(sums.effect), sums.weights)
    if sums.scale == "ratio" and sums.baseline is not None:
        error *= float(sums.weights.sum() / abs(sums.baseline.sum()))
    if not 0.0 < error < math.inf:
        return 1.0 / max(sums.clusters, 1)
    least, most = sums.extremes
    scale = max(abs(sums.effect), most - least if math.isfinite(most - least) else 0.0)
    return max(error, float(np.finfo(np.float64).eps) * scale)


def _invert(p_value: Callable[[float], float], alpha: float, centre: float, least: float, step: float) -> float:
    """Return the largest effect whose p-value is at most alpha, from below `centre`; `least` if there is none.

    Searches outwards from `centre`, then closes in by false position on the normal scale, where p-values are almost
    straight lines (Illinois variant); every answer lies on the rejected side.
    """
    reach = NormalDist().inv_cdf
    goal = reach(alpha)

    def excess(effect: float) -> float:
        return reach(min(1.0 - 1e-15, max(1e-300, p_value(effect)))) - goal

    kept, kept_excess, far, width = centre, reach(0.5) - goal, centre - step, step
    for _ in range(60):
        if far <= least:
            return _close(excess, (least, -1.0), (kept, kept_excess), step) if excess(least) <= 0.0 else least
        far_excess = excess(far)
        if far_excess <= 0.0:
            return _close(excess, (far, far_excess), (kept, kept_excess), step)
        kept, kept_excess, width = far, far_excess, 2.0 * width
        far = centre - width
    return least


def _close(excess: Callable[[float], float], far: tuple[float, float], kept: tuple[float, float], step: float) -> float:
    """Return a point within 1e-4 steps of where `excess` changes sign, on the side where it is not positive."""
    (low, below), (high, above) = far, kept
    last = 0
    for turn in range(60):
        if high - low <= 1e-4 * step:
            break
        share = below / (below - above) if turn % 4 != 3 and below < above else 0.5
        middle = low + min(0.999, max(0.001, share)) * (high - low)
        found = excess(middle)
        side = -1 if found <= 0.0 else 1
        if side < 0:
            low, below, above = middle, found, 0.5 * above if last == side else above
        else:
            high, above, below = middle, found, 0.5 * below if last == side else below
        last = side
    return low


def _distinct(columns: list[Array]) -> tuple[list[Array], Array]:
    rows, counts = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)
    return [rows[:, index] for index in range(len(columns))], counts.astype(np.float64)


def _full_suite(sums: ClusterSums, effect: float, side: int) -> float:
    return 0.0 if side * (sums.effect - effect) > 1e-12 * max(1.0, abs(effect)) else 1.0


def _none(sums: ClusterSums, effect: float, side: int) -> float:
    return 1.0


def _binomial(sums: ClusterSums, effect: float, side: int) -> float:
    events, rate = round(float(sums.candidate.sum())), min(1.0, max(0.0, sums.sign * effect))
    test = binomial.p_at_most if side * sums.sign > 0 else binomial.p_at_least
    return test(events, sums.samples, rate)


def _hypergeometric(sums: ClusterSums, effect: float, side: int) -> float:
    events, population = round(float(sums.candidate.sum())), sums.population or sums.samples
    upward = side * sums.sign > 0
    test = binomial.p_finite_at_most if upward else binomial.p_finite_at_least
    return test(events, sums.samples, population, sums.sign * effect)


def _score(sums: ClusterSums, effect: float, side: int) -> float:
    gain: Array = side * sums.gain
    if abs(effect) >= 1.0:
        return 0.0 if side * effect <= -1.0 and bool((gain > -1).any()) else 1.0
    gains, losses = int((gain > 0).sum()), int((gain < 0).sum())
    return score.p_value(gains, losses, sums.samples, side * effect, sums.population)


def _bounded(test: Callable[[Array, Array, float], Array], sums: ClusterSums, effect: float, side: int) -> float:
    low, high = sums.reach(effect)
    worst = low if side > 0 else -high
    if worst >= 0.0:
        return 0.0 if float((side * sums.contrast(effect)).max()) > 0.0 else 1.0
    (values,), counts = _distinct([side * sums.contrast(effect)])
    return float(test(values, counts, worst))


def _certain(sums: ClusterSums, effect: float, side: int) -> bool:
    """Return whether the suite's effect is beyond `effect` whatever the samples not yet run say (equal weights)."""
    if sums.population is None or not bool((sums.weights == sums.weights[0]).all()):
        return False
    done = sums.samples / sums.population
    worst = done * sums.effect + (1.0 - done) * sums.extremes[0 if side > 0 else 1]
    return side * (worst - effect) > 1e-12


def _betting(sums: ClusterSums, effect: float, side: int) -> float:
    return 0.0 if _certain(sums, effect, side) else _bounded(betting.p_value, sums, effect, side)


def _e_process(sums: ClusterSums, effect: float, side: int) -> float:
    return _bounded(betting.e_process, sums, effect, side)


def _dirichlet(sums: ClusterSums, effect: float, side: int) -> float:
    if _certain(sums, effect, side):
        return 0.0
    distance, unseen = sums.effect - effect, sums.unseen
    stretched = sums.effect - distance / unseen if side * distance > 0 and unseen > 0 else effect
    return _bounded(dirichlet.p_value, sums, stretched, side)


def _student(sums: ClusterSums, effect: float, side: int) -> float:
    (values, weights), counts = _distinct([side * sums.contrast(effect), sums.weights])
    return float(paired.p_value(values, counts, weights, sums.unseen))


_TESTS: dict[str, Callable[[ClusterSums, float, int], float]] = {
    "full suite": _full_suite,
    "none": _none,
    "binomial": _binomial,
    "hypergeometric": _hypergeometric,
    "score": _score,
    "betting": _betting,
    "e-process": _e_process,
    "dirichlet": _dirichlet,
    "t": _student,
}
