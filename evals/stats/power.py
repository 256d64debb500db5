"""How many samples are needed: for a planned margin, or to end an inconclusive test.

Normal theory (Julious 2004 for non-inferiority): n = (z_alpha + z_power)^2 x variance x design effect / gap^2, where
the gap is the distance between the true effect and the threshold and the design effect is 1 + (m - 1) x ICC for
clusters of m samples. All-tied data need n >= ln(alpha) / ln(1 - margin) whatever the variance.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from evals.stats import binomial

_LARGEST = 10_000_000


def design_effect(cluster_size: float, icc: float) -> float:
    """Return by what factor clustering inflates the variance of a mean."""
    return 1.0 + (cluster_size - 1.0) * icc


def samples_needed(gap: float, variance: float, alpha: float, power: float) -> int | None:
    """Return n such that a one-sided test at alpha sees an effect `gap` away from the threshold; None if gap <= 0.

    Args:
        gap: true effect minus threshold, on the scale of one sample.
        variance: of one sample's difference, design effect included.
        alpha: one-sided level.
        power: chance of deciding.
    """
    if gap <= 0 or not math.isfinite(gap):
        return None
    reach = NormalDist().inv_cdf(1.0 - alpha) + NormalDist().inv_cdf(power)
    n = math.ceil(reach**2 * variance / gap**2)
    return n if n <= _LARGEST else None


def ties_needed(margin: float, alpha: float) -> int:
    """Return how many tied samples show that the loss is below `margin` (149 at .02, 59 at .05): ln(a) / ln(1 - m)."""
    return 1 if margin >= 1 else math.ceil(math.log(alpha) / math.log(1.0 - margin))


def power_at(n: int, gap: float, variance: float, alpha: float) -> float:
    """Return the chance that n samples decide, for an effect `gap` away from the threshold."""
    if variance <= 0.0:
        return 1.0 if gap > 0 else 0.0
    return NormalDist().cdf(gap / math.sqrt(variance / n) - NormalDist().inv_cdf(1.0 - alpha))


def detectable(n: int, variance: float, alpha: float, power: float) -> float:
    """Return the smallest gap that n samples decide with the given power, never below what ties alone allow."""
    reach = NormalDist().inv_cdf(1.0 - alpha) + NormalDist().inv_cdf(power)
    return max(reach * math.sqrt(variance / n), 1.0 - math.exp(math.log(alpha) / n))


def rate_samples_needed(rate: float, limit: float, alpha: float, power: float) -> int | None:
    """Return n such that exact bounds show a true `rate` to be at most `limit` with the given power; None if never."""
    if not 0.0 <= rate < limit:
        return None
    low, high = 0, ties_needed(limit, alpha)
    while rate_power(high, rate, limit, alpha) < power:
        low, high = high, 2 * high
        if high > _LARGEST:
            return None
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if rate_power(middle, rate, limit, alpha) >= power else (middle, high)
    return high


def rate_power(n: int, rate: float, limit: float, alpha: float) -> float:
    """Return the chance that n samples with a true `rate` show exactly that the rate is at most `limit`."""
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if binomial.p_at_least(middle, n, limit) <= alpha else (low, middle)
    return 0.0 if low < 0 else binomial.p_at_least(low, n, rate)
