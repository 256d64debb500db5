"""The chance of each verdict, for an effect that is supposed to be true: by the gate's own bounds, or normal theory.

Unclustered 0/1 pairs are summed exactly over the score test's own rejection region; small or clustered bounded data are
simulated through the bound that would judge them; large samples use the normal approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

from evals.stats import bounds, sequential
from evals.stats.bounds import ClusterSums

EXACT = 400
"""Up to this many unclustered 0/1 pairs the rejection region is computed; above it the normal theory is as good."""
RUNS = 100
"""Simulated samples for each effect: a chance is known to .05."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """If the true effect is `effect`, the chance to end with PASS and with FAIL; the rest is INCONCLUSIVE."""

    effect: float
    passes: float
    fails: float

    @property
    def open(self) -> float:
        """The chance of INCONCLUSIVE."""
        return max(0.0, 1.0 - self.passes - self.fails)


@dataclass(frozen=True, slots=True)
class Levels:
    """How sure the last look must be: nominal one-sided levels of PASS and of FAIL (Holm's first step)."""

    mode: str
    passing: float
    failing: float


def last_levels(mode: str, alpha: float, looks: int, gating: int) -> Levels:
    """Return the nominal levels at the last of equally spaced looks; the earlier looks add a little to every chance.

    Args:
        mode: of the gate.
        alpha: one-sided level of the suite.
        looks: how many are planned.
        gating: how many verdicts Holm's correction for FAIL is shared by.
    """
    shares = [(look + 1) / looks for look in range(looks)]
    alphas = (alpha, alpha / max(1, gating))
    if mode == "anytime":
        return Levels(mode, *(0.5 * math.erfc(math.sqrt(math.log(sequential.ANYTIME_PRICE / a))) for a in alphas))
    return Levels(mode, *(sequential.level(mode, a, shares) for a in alphas))


def normal(effects: Sequence[float], goal: float, errors: Callable[[float], float], levels: Levels) -> list[Outlook]:
    """Return outlooks by normal theory.

    Args:
        effects: true effects, larger is better.
        goal: the threshold that PASS must be shown to exceed.
        errors: the standard error of the observed effect, for a true one.
        levels: of the last look; in `whole_suite` mode that look knows the suite's value exactly.
    """
    cdf, reach = NormalDist().cdf, NormalDist().inv_cdf
    exactly = levels.mode == "whole_suite"
    up, down = (0.0, 0.0) if exactly else (reach(1.0 - levels.passing), reach(1.0 - levels.failing))
    found = []
    for effect in effects:
        error = max(errors(effect), 1e-12)
        distance = max(-1e6, min(1e6, (effect - goal) / error))
        found.append(Outlook(effect, cdf(distance - up), cdf(-distance - down)))
    return found


def exact_pairs(
    effects: Sequence[float], goal: float, n: int, discordance: float, levels: Levels
) -> list[Outlook]:  # fmt: skip
    """Return outlooks for n unclustered 0/1 pairs: the chances of all (gains, losses) that the score test rejects at.

    Args:
        effects: true differences in (-1, 1).
        goal: the threshold.
        n: pairs.
        discordance: share of pairs that differ; an effect beyond it makes all of them differ one way.
        levels: of the last look.
    """
    from scipy import stats

    rates = [max(discordance, abs(effect)) for effect in effects]
    most = int(min(n, math.ceil(max(n * q + 6.0 * math.sqrt(n * q * (1.0 - q)) + 6.0 for q in rates))))
    totals = np.arange(most + 1)
    gains, losses = _region(n, goal, levels.passing, 1, most), _region(n, goal, levels.failing, -1, most)
    found = []
    for effect, rate in zip(effects, rates, strict=True):
        weight = stats.binom.pmf(totals, n, rate)
        share = min(1.0, max(0.0, 0.5 * (1.0 + effect / rate))) if rate > 0 else 0.5
        passes = float((weight * stats.binom.sf(gains - 1.0, totals, share)).sum())
        fails = float((weight * stats.binom.sf(losses - 1.0, totals, 1.0 - share)).sum())
        found.append(Outlook(effect, min(1.0, passes), min(1.0, fails)))
    return found


@lru_cache(maxsize=256)
def _region(n: int, goal: float, level: float, side: int, most: int) -> Any:
    """Return for each number of discordant pairs the fewest gains (side -1: losses) that reject; one more for none.

    One more discordant pair never asks for more than one more of them, so each number is found from the one before.
    """
    needed: list[int] = []
    count = 0
    for total in range(most + 1):
        while count <= total and not _rejects(count, total, n, goal, level, side):
            count += 1
        needed.append(count)
        count = max(0, count - 1)
    return np.array(needed, dtype=float)


def _rejects(count: int, total: int, n: int, goal: float, level: float, side: int) -> bool:
    gains, losses = (count, total - count) if side > 0 else (total - count, count)
    candidate = np.concatenate([np.ones(gains), np.zeros(n - gains)])
    baseline = np.concatenate([np.zeros(gains), np.ones(losses), np.zeros(n - total)])
    sums = ClusterSums(candidate, baseline, np.ones(n), n, bounds=(0.0, 1.0), binary=True)
    test = bounds.p_at_most if side > 0 else bounds.p_at_least
    return test(sums, goal, "score") <= level


def simulated(
    effects: Sequence[float], goal: float, sizes: Sequence[int], discordance: float, icc: float, levels: Levels
) -> list[Outlook]:  # fmt: skip
    """Return outlooks for clusters of 0/1 pairs, each drawn `RUNS` times and judged by the bound that would judge it.

    A sample takes its cluster's outcome with chance sqrt(icc), else one of its own, so that two samples of a cluster
    correlate by `icc`. The seed is fixed: the same question has the same answer.
    """
    draws = np.random.default_rng(0)
    weights = np.asarray(sizes, dtype=float)
    owner: Any = np.repeat(np.arange(len(sizes)), sizes)
    found = []
    for effect in effects:
        rate = max(discordance, abs(effect))
        chances = [max(0.0, (rate - effect) / 2), 1.0 - rate, max(0.0, (rate + effect) / 2)]
        passed = failed = 0
        for _ in range(RUNS):
            shared = draws.choice((-1.0, 0.0, 1.0), len(sizes), p=chances)
            single = draws.choice((-1.0, 0.0, 1.0), len(owner), p=chances)
            outcome = np.where(draws.random(len(owner)) < math.sqrt(max(0.0, icc)), shared[owner], single)
            sums = _sums(outcome, owner, weights, levels.mode)
            name = bounds.choose(sums)
            passed += bounds.p_at_most(sums, goal, name) <= levels.passing
            failed += bounds.p_at_least(sums, goal, name) <= levels.failing
        found.append(Outlook(effect, passed / RUNS, failed / RUNS))
    return found


def _sums(outcome: Any, owner: Any, weights: Any, mode: str) -> ClusterSums:
    """Return cluster sums of differences, written as a candidate beside a baseline of 0/1 values."""
    candidate = np.bincount(owner, weights=(outcome > 0).astype(float), minlength=len(weights))
    baseline = np.bincount(owner, weights=(outcome < 0).astype(float), minlength=len(weights))
    return ClusterSums(
        candidate, baseline, weights, int(weights.sum()), bounds=(0.0, 1.0),
        binary=bool((weights == 1.0).all()), mode="fixed" if mode == "anytime" else mode,
    )  # fmt: skip
