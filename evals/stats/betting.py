"""A one-sided test of a bounded mean by betting: valid at every sample size and for every distribution in the range.

Waudby-Smith & Ramdas (2024, "Estimating means of bounded random variables by betting"): a gambler who bets a fixed
share on "the mean is above 0" multiplies the capital by 1 + share x value; if the mean is at most 0 the expected
capital never exceeds 1, so by Markov's inequality it reaches 1 / alpha with chance at most alpha. The capital here is
hedged over a fixed grid of shares instead of following a predictable rule: it is then the same for every order of the
values and grows with every value, which the gate's laws ask for. It also holds for sampling without replacement
(the product of factors has then an even smaller expectation, by Maclaurin's inequality).

`e_process` hedges over shares that do not depend on how many values there are. Its capital, followed over looks, is
then a non-negative supermartingale while the mean is at most 0, so it ever reaches 1 / alpha with chance at most alpha
(Ville 1939): it may be looked at any number of times, and values may be appended for ever.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

_STEPS = np.arange(12)
ENDLESS_SHARES = 0.6**_STEPS
"""Shares of the e-process: from all that is safe down to 0.4 %, each best for its own ratio of effect to variance."""
ENDLESS_WEIGHTS = np.where(_STEPS == 0, 0.15, 0.85 / np.sqrt(_STEPS + 2.0) / (1.0 / np.sqrt(_STEPS[1:] + 2.0)).sum())
"""Their weights. Against the best share known in advance they cost 30 to 75 % more samples (median, to reach 20)."""


def p_value(z: Array, counts: Array, low: Array | float) -> Array:
    """Return the p-value (one over the hedged capital) of "the mean of z is at most 0".

    Args:
        z: distinct values, shape (..., V).
        counts: how often each occurs, same shape.
        low: the smallest value z can take, negative; scalar or shape (...).

    Returns:
        p-values, shape (...), at most 1.
    """
    total = float(
        np.broadcast_to(counts, np.broadcast_shapes(np.shape(z), np.shape(counts))).sum(axis=-1).max(initial=0.0)
    )
    weights, parts = zip(*shares(int(total)), strict=True)
    chance: Array = np.minimum(1.0, np.exp(-log_capital(z, counts, low, np.array(parts), np.array(weights))))
    return chance


def e_process(z: Array, counts: Array, low: Array | float) -> Array:
    """Return the p-value (one over the capital) of "the mean of z is at most 0", good at any number of looks.

    Arguments and result are those of `p_value`; `low` must be the same at every look.
    """
    chance: Array = np.minimum(1.0, np.exp(-log_capital(z, counts, low, ENDLESS_SHARES, ENDLESS_WEIGHTS)))
    return chance


def log_capital(z: Array, counts: Array, low: Array | float, parts: Array, weights: Array) -> Array:
    """Return the logarithm of the hedged capital, shape (...), for shares `parts` of the largest safe bet."""
    z, counts = np.broadcast_arrays(np.asarray(z, dtype=np.float64), np.asarray(counts, dtype=np.float64))
    worst = np.broadcast_to(np.asarray(low, dtype=np.float64), z.shape[:-1])
    capital: Array = np.full(z.shape[:-1], -np.inf)
    for weight, share in zip(weights.tolist(), parts.tolist(), strict=True):
        factors = 1.0 + share * z / -worst[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(counts > 0, counts * np.log(np.maximum(factors, 0.0)), 0.0)
        capital = np.logaddexp(capital, math.log(weight) + logs.sum(axis=-1))
    return capital


def shares(total: int) -> list[tuple[float, float]]:
    """Return (weight, share of the largest safe bet) pairs for a number of values.

    Half of the capital bets almost all it may, which is best when nearly all values tie; the other half is spread over
    shares that are best for standard deviations from the whole range down (share = sqrt(2 ln(1/.05) / n) / deviation).
    """
    smallest = min(0.5, math.sqrt(6.0 / max(total, 1)))
    steps = 1 + math.ceil(math.log(1.0 / smallest, 2.0))
    others = [0.5**step for step in range(1, steps)] or [0.5]
    return [(0.5, 1.0)] + [(0.5 / len(others), share) for share in others]


def mean_bounds(values: Array, low: float, high: float, alpha: float) -> tuple[float, float]:
    """Return the lower and upper bound, each at one-sided level alpha, of the mean of values in [low, high]."""
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    centre = float(np.average(distinct, weights=counts))
    floor = _bisect(distinct, counts, low, centre, alpha)
    ceiling = -_bisect(-distinct, counts, -high, -centre, alpha)
    return floor, ceiling


def _bisect(distinct: Array, counts: Array, low: float, centre: float, alpha: float) -> float:
    """Return the largest mean that is rejected from below (to 1e-9 of the range), or `low` where none is."""
    rejected, kept = low, centre
    for _ in range(40):
        middle = 0.5 * (rejected + kept)
        small = middle > low and float(p_value(distinct - middle, counts, low - middle)) <= alpha
        rejected, kept = (middle, kept) if small else (rejected, middle)
    return rejected
