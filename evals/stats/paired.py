"""The clustered paired difference: its variance, and a one-sided t test that also allows for skewness.

Variance as in Miller (2024, arXiv 2411.00640): G/(G-1) x sum over clusters of (sum of residuals)^2 / (sum of
weights)^2, with G-1 degrees of freedom. With weights (bytes, words) it is the ratio-of-sums estimator: residuals are
numerator - theta x weight, summed per cluster.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def standard_error(sums: Array, weights: Array) -> tuple[float, float]:
    """Return theta = sum(sums)/sum(weights) and its clustered standard error; NaN below two clusters.

    Args:
        sums: one sum of numerators per cluster, shape (G,).
        weights: one sum of weights per cluster, shape (G,).
    """
    theta = float(sums.sum() / weights.sum())
    groups = len(sums)
    if groups < 2:
        return theta, float("nan")
    residuals = sums - theta * weights
    variance = groups / (groups - 1) * float((residuals**2).sum()) / float(weights.sum()) ** 2
    return theta, float(np.sqrt(variance))


def p_value(sums: Array, counts: Array, weights: Array, shrink: float = 1.0) -> Array:
    """Return the p-value of "the mean is at most 0": Student's t, or Hall's skewness-corrected t if that is larger.

    A t bound is liberal when the bad differences are rare and large (negative skewness). Hall's monotone cubic (1992,
    "On the removal of skewness by transformation") removes the first-order error; the larger p-value is kept, so the
    result is never more liberal than t.

    Args:
        sums: cluster sums, shape (..., V).
        counts: how often each occurs, same shape.
        weights: cluster weights, same shape.
        shrink: factor on the standard error, below 1 for a sample without replacement from a finite suite.

    Returns:
        p-values, shape (...); 1 where all residuals are zero (there is no spread to judge by).
    """
    from scipy import stats

    groups = counts.sum(axis=-1)
    total = (counts * weights).sum(axis=-1)
    theta = (counts * sums).sum(axis=-1) / total
    residuals = sums - theta[..., None] * weights
    second = (counts * residuals**2).sum(axis=-1) / groups
    third = (counts * residuals**3).sum(axis=-1) / groups
    scale = np.sqrt(np.maximum(second, 0.0))
    flat = scale <= 1e-12 * np.maximum(np.abs(sums).max(axis=-1), 1e-300)
    scale = np.where(flat, 1.0, scale)
    error = shrink * scale * np.sqrt(groups / (groups - 1)) * np.sqrt(groups) / total
    t = theta / error
    bend = third / scale**3 / np.sqrt(groups)
    hall = t + bend * (t**2 / 3.0 + 1.0 / 6.0) + bend**2 * t**3 / 27.0
    worse: Array = np.where(flat, 1.0, stats.t.sf(np.minimum(t, hall), groups - 1))
    return worse
