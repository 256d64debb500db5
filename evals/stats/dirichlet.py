"""A one-sided test of a bounded mean by Dirichlet weights: sharp from about fifty values on, and aware of skewness.

Gaffke's bound (2005; also Learned-Miller & Thomas 2019, Phan, Thomas & Learned-Miller 2021): put random flat Dirichlet
weights on the observed values and on one extra value at the worst end of the range. It is Clopper-Pearson on 0/1 data
and tends to the t bound from the safe side. Validity is proven for two-valued data and checked here by simulation
otherwise, so the gate uses it only where many values differ and the betting bound elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

_NODES = np.linspace(0.0, 12.0, 161)
"""Trapezoid nodes in x, where the contour's height is scale * sinh(x): resolves both narrow and wide factors."""

_BLOCK = 500_000
"""How many complex numbers are worked on at once."""


def p_value(z: Array, counts: Array, low: Array | float) -> Array:
    """Return the p-value of "the mean of z is at most 0".

    It is P(sum_i E_i z_i + E_0 low <= 0) with independent unit exponentials E: the chance that the weighted mean is not
    positive. Computed exactly, by integrating the moment generating function along a vertical line through its
    saddlepoint (Gil-Pelaez; Daniels 1987).

    Args:
        z: distinct values, shape (..., V).
        counts: how often each occurs, same shape; zeros are allowed.
        low: the smallest value z can take, negative; scalar or shape (...).

    Returns:
        p-values, shape (...).
    """
    z, counts = np.broadcast_arrays(np.asarray(z, dtype=np.float64), np.asarray(counts, dtype=np.float64))
    worst = np.broadcast_to(np.asarray(low, dtype=np.float64), z.shape[:-1])[..., None]
    values = np.concatenate([z, worst], axis=-1)
    times = np.concatenate([counts, np.ones_like(worst)], axis=-1)
    values = np.where(times > 0, values, 0.0)
    values = values / np.abs(values).max(axis=-1, keepdims=True)
    values = np.where(np.abs(values) < 1e-9, 0.0, values)
    top = values.max(axis=-1)
    possible = top > 0
    safe = np.where(possible[..., None], values, np.concatenate([np.ones_like(z), -np.ones_like(worst)], axis=-1))
    chance: Array = np.where(possible, _chance_of_not_positive(safe, times), 1.0)
    return chance


def _chance_of_not_positive(values: Array, times: Array) -> Array:
    left, right = 1.0 / values.min(axis=-1), 1.0 / values.max(axis=-1)
    saddle = _saddlepoint(values, times, left, right)
    spread = np.sqrt((times * values**2).sum(axis=-1))
    gap = np.minimum(0.5 / spread, 0.5 * np.minimum(-left, right))
    below = saddle <= 0  # the chance is a small tail: integrate left of the pole at zero, else take the complement
    line = np.where(below, np.minimum(saddle, -gap), np.maximum(saddle, gap))
    tilted = values / (1.0 - line[..., None] * values)
    scale = 1.0 / np.sqrt((times * tilted**2).sum(axis=-1))
    height = scale[..., None] * np.sinh(_NODES)
    log_size = -(times * np.log(1.0 - line[..., None] * values)).sum(axis=-1)
    exponent = np.zeros(height.shape, dtype=np.complex128)
    step = max(1, _BLOCK // height.size)
    for first in range(0, values.shape[-1], step):
        part = np.s_[..., first : first + step, None]
        exponent -= (times[part] * np.log(1.0 - 1j * height[..., None, :] * tilted[part])).sum(axis=-2)
    integrand = np.exp(exponent + log_size[..., None]) / (line[..., None] + 1j * height)
    weights = scale[..., None] * np.cosh(_NODES) * (_NODES[1] - _NODES[0])
    weights[..., 0] *= 0.5
    tail = np.abs((integrand.real * weights).sum(axis=-1)) / np.pi
    chance: Array = np.clip(np.where(below, tail, 1.0 - tail), 0.0, 1.0)
    return chance


def _saddlepoint(values: Array, times: Array, left: Array, right: Array) -> Array:
    """Return where the derivative of the cumulant generating function vanishes, by bisection between its poles."""
    low, high = left.copy(), right.copy()
    for _ in range(60):
        middle = 0.5 * (low + high)
        slope = (times * values / (1.0 - middle[..., None] * values)).sum(axis=-1)
        low, high = np.where(slope < 0, middle, low), np.where(slope < 0, high, middle)
    root: Array = 0.5 * (low + high)
    return root
