"""Paired 0/1 outcomes, unclustered: Tango's score statistic with its exact tail, maximised over the discordance rate.

Tango (1998) orders the outcomes (gains, losses); its normal tail is too small when discordance is rare or one-sided, so
the tail is summed exactly and maximised over the unknown discordance rate q inside a confidence interval for q whose
own error is added (Berger & Boos 1994; Hsueh, Liu & Chen 2001). False promotion is then at most alpha at every q and n.
For part of a finite suite the binomial laws are replaced by hypergeometric ones: exact without replacement.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

NUISANCE_SHARE = 0.01
"""The error of the confidence interval for q, added to the p-value, in units of the decade below the p-value: 1e-4 for
p-values in (.01, 1], 1e-5 in (.001, .01] and so on. All ties at margin .02 still pass at n = 149, level .05."""
_DECADES = 14
_RATES = 41
_RATES_FINITE = 17
_WIDTH = 8.0
_NEGLIGIBLE = 1e-5
"""Totals rarer than this share of the interval's error are not told apart: they count as extreme."""


def statistic(gains: Array, losses: Array, n: int, effect: float) -> Array:
    """Return Tango's score statistic of "gain rate - loss rate = effect"; large values speak for a larger effect."""
    spread = 2.0 * n
    linear = -gains - losses + (2.0 * n - gains + losses) * effect
    constant = -losses * effect * (1.0 - effect)
    loss_rate = (np.sqrt(np.maximum(linear**2 - 4.0 * spread * constant, 0.0)) - linear) / (2.0 * spread)
    variance = n * np.maximum(2.0 * loss_rate + effect * (1.0 - effect), 1e-300)
    value: Array = (gains - losses - n * effect) / np.sqrt(variance)
    return value


def p_value(gains: int, losses: int, n: int, effect: float, population: int | None = None) -> float:
    """Return the p-value of "gain rate - loss rate is at most `effect`", valid at every n.

    For every level a, "p <= a" implies that the tail with the interval for q that belongs to a's decade is at most a;
    so p is valid at every level although small ones use wider intervals.

    Args:
        gains: samples on which the candidate is right and the baseline is not.
        losses: samples on which the baseline is right and the candidate is not.
        n: all samples, ties included.
        effect: the difference to be refuted, in (-1, 1).
        population: samples of the full suite where these are drawn from it without replacement and the question is
            the suite's own difference; None for the difference in the long run.
    """
    if gains - losses <= n * effect:  # Above the observed effect the null holds easily.
        return 1.0
    if population is not None and gains - losses - (population - n) > population * effect + 1e-9:
        return 0.0  # whatever the rest of the suite says
    ceiling = 1.0
    for decade in range(1, _DECADES):
        floor = 0.1 ** (decade + 1)
        chance = _tail((gains, losses), n, effect, population, NUISANCE_SHARE * floor)
        if chance > ceiling:
            return ceiling if decade == 1 else ceiling * (1.0 + 1e-12)
        if chance > floor:
            return chance
        ceiling = floor
    return ceiling


def _tail(seen: tuple[int, int], n: int, effect: float, population: int | None, error: float) -> float:
    """Return the largest chance over plausible discordance of data as extreme as (gains, losses), plus `error`."""
    gains, losses = seen
    if population is None:
        low, high = _plausible_rates(gains + losses, n, error)
        rates: Array = np.linspace(max(low, abs(effect), 1e-12), high, _RATES)
    else:
        least, most = _plausible_counts(gains + losses, n, population, error)
        low, high = max(float(least), abs(np.floor(population * effect + 1e-9))), float(most)
        rates = np.unique(np.rint(np.linspace(low, max(low, high), _RATES_FINITE))) / population
    if low > high:
        return error
    centre: Array = n * rates
    spread: Array = np.sqrt(n * rates * (1.0 - rates)) + 1.0
    first = int(max(0.0, np.floor((centre - _WIDTH * spread).min())))
    last = int(min(float(n), np.ceil((centre + _WIDTH * spread).max())))
    totals: Array = np.arange(first, last + 1, dtype=np.float64)
    observed = float(statistic(np.array(float(gains)), np.array(float(losses)), n, effect))
    needed = _gains_needed(totals, n, effect, observed)
    law = _endless if population is None else _finite
    return float(law(totals, needed, rates, (n, effect, population or 0), error).max()) + error


def _endless(totals: Array, needed: Array, rates: Array, where: tuple[int, float, int], error: float) -> Array:
    """Return, per discordance rate, the chance of `needed` gains or more at the edge of the null, binomially."""
    from scipy import stats

    n, effect, _ = where
    share = np.clip(0.5 * (1.0 + effect / rates), 0.0, 1.0)
    weights = _binomial(totals[None, :], n, rates[:, None])
    row, column = np.nonzero(weights > error * _NEGLIGIBLE)
    tails = np.ones_like(weights)  # what is too rare to matter counts against the candidate
    tails[row, column] = stats.binom.sf(needed[column] - 1.0, totals[column], share[row])
    chance: Array = (weights * tails).sum(axis=1)
    return chance


def _finite(totals: Array, needed: Array, rates: Array, where: tuple[int, float, int], error: float) -> Array:
    """Return the same for n samples of a suite that holds `rates` x population discordant ones.

    The largest difference under the null is the largest whole number of samples that has the parity of the discordant.
    """
    from scipy import stats

    n, effect, population = where
    discordant = np.rint(rates * population)
    gaining = np.floor(0.5 * (discordant + np.floor(population * effect + 1e-9)))
    possible = (gaining >= 0.0) & (gaining <= discordant)
    discordant, gaining = discordant[possible], gaining[possible]
    if len(discordant) == 0:
        return np.zeros(1)
    weights = _hypergeometric(totals[None, :], population, discordant[:, None], n)
    row, column = np.nonzero(weights > error * _NEGLIGIBLE)
    tails = np.ones_like(weights)
    tails[row, column] = stats.hypergeom.sf(needed[column] - 1.0, discordant[row], gaining[row], totals[column])
    chance: Array = (weights * tails).sum(axis=1)
    return chance


def _ways(top: Array | float, bottom: Array) -> Array:
    """Return the logarithm of the binomial coefficient."""
    from scipy.special import gammaln

    found: Array = gammaln(np.add(top, 1.0)) - gammaln(bottom + 1.0) - gammaln(np.subtract(top, bottom) + 1.0)
    return found


def _binomial(totals: Array, n: int, rates: Array) -> Array:
    """Return the chance of `totals` events among n at these rates."""
    from scipy.special import xlog1py, xlogy

    chance: Array = np.exp(_ways(float(n), totals) + xlogy(totals, rates) + xlog1py(n - totals, -rates))
    return chance


def _hypergeometric(totals: Array, population: int, marked: Array, n: int) -> Array:
    """Return the chance that n of a population hold `totals` of the `marked`."""
    outside = (totals > marked) | (n - totals > population - marked)
    inside = np.where(outside, np.maximum(0.0, n - population + marked), totals)
    logs = _ways(marked, inside) + _ways(population - marked, n - inside) - _ways(float(population), np.array(float(n)))
    chance: Array = np.where(outside, 0.0, np.exp(logs))
    return chance


@lru_cache(maxsize=65536)
def _plausible_rates(discordant: int, n: int, error: float) -> tuple[float, float]:
    """Return the discordance rates that the data allow: Clopper & Pearson's interval with this error."""
    from scipy import stats

    half = error / 2.0
    low = 0.0 if discordant == 0 else float(stats.beta.ppf(half, discordant, n - discordant + 1))
    high = 1.0 if discordant == n else float(stats.beta.ppf(1.0 - half, discordant + 1, n - discordant))
    return low, high


@lru_cache(maxsize=65536)
def _plausible_counts(discordant: int, n: int, population: int, error: float) -> tuple[int, int]:
    """Return how many discordant samples the suite may hold: the exact interval with this error."""
    from scipy.stats import hypergeom

    least, most = discordant, population - n + discordant
    low = _first(lambda marked: bool(hypergeom.sf(discordant - 1, population, marked, n) > error / 2), least, most)
    high = _first(lambda marked: bool(hypergeom.cdf(discordant, population, marked, n) <= error / 2), low, most + 1)
    return low, max(low, high - 1)


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the smallest whole number in [low, high] at which `holds` turns true; `high` if it never does before."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _gains_needed(totals: Array, n: int, effect: float, observed: float) -> Array:
    """Return, for each number of discordant samples, the fewest gains as extreme as observed (one more if none)."""
    low: Array = np.zeros_like(totals)
    high: Array = totals + 1.0
    limit = observed - 1e-9 * max(1.0, abs(observed))
    while bool((low < high).any()):
        middle = np.floor(0.5 * (low + high))
        extreme = statistic(middle, totals - middle, n, effect) >= limit
        low, high = np.where(extreme, low, np.minimum(middle + 1.0, high)), np.where(extreme, middle, high)
    return high
