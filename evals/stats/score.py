"""Paired 0/1 outcomes, unclustered: Tango's score statistic with its exact tail, maximised over the discordance rate.

Tango (1998) orders the outcomes (gains, losses); its normal tail is too small when discordance is rare or one-sided, so
the tail is summed exactly and maximised over the unknown discordance rate q inside a confidence interval for q whose
own error is added (Berger & Boos 1994; Hsueh, Liu & Chen 2001). False promotion is then at most alpha at every q and n.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

NUISANCE_ERROR = 1e-4
"""The error of the confidence interval for q, added to the p-value: all ties at margin .02 still pass at n = 149."""
_RATES = 41
_WIDTH = 8.0


def statistic(gains: Array, losses: Array, n: int, effect: float) -> Array:
    """Return Tango's score statistic of "gain rate - loss rate = effect"; large values speak for a larger effect."""
    spread = 2.0 * n
    linear = -gains - losses + (2.0 * n - gains + losses) * effect
    constant = -losses * effect * (1.0 - effect)
    loss_rate = (np.sqrt(np.maximum(linear**2 - 4.0 * spread * constant, 0.0)) - linear) / (2.0 * spread)
    variance = n * np.maximum(2.0 * loss_rate + effect * (1.0 - effect), 1e-300)
    value: Array = (gains - losses - n * effect) / np.sqrt(variance)
    return value


def p_value(gains: int, losses: int, n: int, effect: float) -> float:
    """Return the p-value of "gain rate - loss rate is at most `effect`", valid at every n.

    Args:
        gains: samples on which the candidate is right and the baseline is not.
        losses: samples on which the baseline is right and the candidate is not.
        n: all samples, ties included.
        effect: the difference to be refuted, in (-1, 1).
    """
    from scipy import stats

    # Above the observed effect the null holds easily. Below it, the largest chance over the whole null is on its edge.
    if gains - losses <= n * effect:
        return 1.0
    discordant = gains + losses
    rates = _plausible_rates(discordant, n, effect)
    if rates is None:
        return NUISANCE_ERROR
    centre: Array = n * rates
    spread: Array = np.sqrt(n * rates * (1.0 - rates)) + 1.0
    first = int(max(0.0, np.floor((centre - _WIDTH * spread).min())))
    last = int(min(float(n), np.ceil((centre + _WIDTH * spread).max())))
    totals: Array = np.arange(first, last + 1, dtype=np.float64)
    observed = float(statistic(np.array(float(gains)), np.array(float(losses)), n, effect))
    needed = _gains_needed(totals, n, effect, observed)
    share = np.clip(0.5 * (1.0 + effect / rates), 0.0, 1.0)
    tails = stats.binom.sf(needed[None, :] - 1.0, totals[None, :], share[:, None])
    chance = (stats.binom.pmf(totals[None, :], n, rates[:, None]) * tails).sum(axis=1)
    return float(min(1.0, chance.max() + NUISANCE_ERROR))


def _plausible_rates(discordant: int, n: int, effect: float) -> Array | None:
    """Return discordance rates that the data and `effect` allow; None if they contradict one another."""
    from scipy import stats

    half = NUISANCE_ERROR / 2.0
    low = 0.0 if discordant == 0 else float(stats.beta.ppf(half, discordant, n - discordant + 1))
    high = 1.0 if discordant == n else float(stats.beta.ppf(1.0 - half, discordant + 1, n - discordant))
    low = max(low, abs(effect), 1e-12)
    if low > high:
        return None
    rates: Array = np.linspace(low, high, _RATES)
    return rates


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
