"""Looks: the nominal level at the last of several looks, so that all of them together err with chance at most alpha.

`group_sequential`: Lan & DeMets (1983) spending of O'Brien-Fleming type; boundaries by recursive numerical integration
(Armitage, McPherson & Rowe 1969; Jennison & Turnbull 2000, ch. 19) of Brownian motion at the information fractions.
`whole_suite`: samples are drawn without replacement and the question is what all of them would say. The partial sums
are then a Brownian bridge, and a Brownian motion in the information s = f / (1 - f) (Doob), so the looks before the
last are a group-sequential test in s. The last look knows the answer and costs nothing: all of alpha is spent before.
`anytime`: nothing to correct, an e-process holds at any number of looks. `fixed`: one look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

MODES = ("fixed", "group_sequential", "anytime", "whole_suite")
WHOLE_SUITE_POWER = 1.0
"""`whole_suite` has spent alpha x f ** WHOLE_SUITE_POWER when a share f of the suite was run: it stops early."""
ANYTIME_PRICE = 7.0
"""Planning only: an e-process acts like the fixed boundary z = sqrt(2 ln(ANYTIME_PRICE / alpha))."""

_REACH = 8.5
"""Brownian motion is followed to this many standard deviations."""
_PANEL = np.polynomial.legendre.leggauss(16)
_TINY = 1e-14
"""An increment of alpha below this is used as the nominal level itself, and looks this close are told apart no more."""


@dataclass(frozen=True, slots=True, eq=False)
class _Walk:
    """Brownian motion at one look, where it has not yet crossed: its boundary, places and the mass at each."""

    time: float
    bound: float
    nominal: float
    places: Array
    mass: Array


_START = _Walk(0.0, math.inf, 0.0, np.zeros(1), np.ones(1))


def level(mode: str, alpha: float, fractions: Sequence[float]) -> float:
    """Return the one-sided nominal level at the last of the looks made so far.

    A p-value at that look that is at most this level rejects; the chance that any of the looks does so wrongly is then
    at most `alpha`. It never falls when `alpha` grows.

    Args:
        mode: `fixed`, `group_sequential`, `anytime` or `whole_suite`.
        alpha: one-sided level of all looks together, in (0, 1).
        fractions: the share of the planned samples (clusters) at each look, increasing, in (0, 1]. A fraction repeated
            is the same look again.

    Raises:
        ValueError: for an unknown mode, or fractions that do not increase in (0, 1].
    """
    shares = _checked(mode, alpha, fractions)
    if mode in ("fixed", "anytime") or (mode == "whole_suite" and shares[-1] >= 1.0):
        return alpha
    return boundary(mode, alpha, shares)[-1]


def boundary(mode: str, alpha: float, fractions: Sequence[float]) -> list[float]:
    """Return the nominal level at every one of the looks, in their order (see `level`)."""
    shares = _checked(mode, alpha, fractions)
    if mode in ("fixed", "anytime"):
        return [alpha] * len(shares)
    full = mode == "whole_suite" and shares[-1] >= 1.0
    partial = shares[:-1] if full else shares
    levels = [_march(alpha, partial[:look], mode == "whole_suite").nominal for look in range(1, len(partial) + 1)]
    return [*levels, alpha] if full else levels


def spent(mode: str, alpha: float, fraction: float) -> float:
    """Return how much of alpha the looks up to a share of the plan may have used."""
    if mode == "whole_suite":
        return float(alpha * min(1.0, fraction) ** WHOLE_SUITE_POWER)
    if mode == "group_sequential":
        reach = -NormalDist().inv_cdf(alpha / 2.0) / math.sqrt(min(1.0, fraction))
        return math.erfc(reach / math.sqrt(2.0))  # twice the normal tail, exact far out
    return alpha


@lru_cache(maxsize=1024)
def inflation(mode: str, alpha: float, power: float, looks: int) -> float:
    """Return the largest number of samples over that of one fixed look with the same power.

    Normal theory, equally spaced looks. 1 in `whole_suite` mode, whose plan is the suite itself.
    """
    if mode in ("fixed", "whole_suite"):
        return 1.0
    normal = NormalDist()
    fixed = normal.inv_cdf(1.0 - alpha) + normal.inv_cdf(power)
    times = tuple((look + 1) / looks for look in range(looks))
    bounds = _planned_bounds(mode, alpha, times)
    low, high = fixed * 0.5, fixed * 4.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        reached = sum(up for up, _ in _crossings(times, bounds, [-math.inf] * looks, middle))
        low, high = (middle, high) if reached < power else (low, middle)
    return (high / fixed) ** 2


def expected_share(mode: str, alpha: float, looks: int, drift: float) -> float:
    """Return the mean share of the planned samples that is used until PASS or FAIL, both at one-sided `alpha`.

    Args:
        mode: the mode of looks.
        alpha: one-sided level.
        looks: equally spaced looks, the last at the whole plan.
        drift: true distance from the threshold over the standard error at the whole plan; in `whole_suite` mode the
            distance of the full suite's value, over the standard error it would have as a sample.
    """
    if mode == "fixed":
        return 1.0
    shares = tuple((look + 1) / looks for look in range(looks))
    partial = shares[:-1]
    if not partial:
        return 1.0
    bounds = _planned_bounds(mode, alpha, partial)
    times = _times(partial, mode == "whole_suite")
    crossed = _crossings(times, bounds, [-bound for bound in bounds], drift)
    saved = sum((1.0 - share) * (up + down) for share, (up, down) in zip(partial, crossed, strict=True))
    return 1.0 - saved


def _checked(mode: str, alpha: float, fractions: Sequence[float]) -> tuple[float, ...]:
    if mode not in MODES:
        raise ValueError(f"unknown mode of looks `{mode}`: one of {', '.join(MODES)}")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie in (0, 1), not {alpha:g}")
    shares = [min(float(fraction), 1.0) if fraction < 1.0 + 1e-9 else math.inf for fraction in fractions]
    shares = [share for index, share in enumerate(shares) if index == 0 or share != shares[index - 1]]
    rises = all(before < after for before, after in pairwise(shares))
    if not shares or not rises or shares[0] <= 0.0 or shares[-1] > 1.0:
        raise ValueError(f"looks must be at increasing fractions in (0, 1], not {list(fractions)}")
    return tuple(shares)


def _times(shares: Sequence[float], bridge: bool) -> tuple[float, ...]:
    return tuple(share / (1.0 - share) for share in shares) if bridge else tuple(shares)


def _planned_bounds(mode: str, alpha: float, shares: tuple[float, ...]) -> list[float]:
    if mode == "anytime":
        return [math.sqrt(2.0 * math.log(ANYTIME_PRICE / alpha))] * len(shares)
    return [_march(alpha, shares[: look + 1], mode == "whole_suite").bound for look in range(len(shares))]


@lru_cache(maxsize=8192)
def _march(alpha: float, shares: tuple[float, ...], bridge: bool) -> _Walk:
    """Return Brownian motion at the last look, its boundary chosen to spend what may be spent by then."""
    mode = "whole_suite" if bridge else "group_sequential"
    before = _march(alpha, shares[:-1], bridge) if len(shares) > 1 else _START
    used = spent(mode, alpha, shares[-2]) if len(shares) > 1 else 0.0
    return _step(before, _times(shares[-1:], bridge)[0], spent(mode, alpha, shares[-1]) - used)


def _step(before: _Walk, time: float, increment: float) -> _Walk:
    """Return the walk at `time` with the boundary that is first crossed there with chance `increment`."""
    from scipy.special import ndtr

    gap = time - before.time
    if gap < 1e-4 * time:  # too close to tell apart: the increment alone is a valid level (Bonferroni)
        return _Walk(before.time, before.bound, increment, before.places, before.mass)
    spread, scale = math.sqrt(gap), math.sqrt(time)
    low, high = -12.0, 38.0
    if increment > _TINY:
        for _ in range(64):
            middle = 0.5 * (low + high)
            chance = float((before.mass * ndtr((before.places - middle * scale) / spread)).sum())
            low, high = (middle, high) if chance > increment else (low, middle)
    bound = high
    nominal = float(ndtr(-bound)) if increment > _TINY else max(increment, 0.0)
    places, mass = _move(before.places, before.mass, (before.time, time), (-math.inf, bound * scale), 0.0)
    return _Walk(time, bound, nominal, places, mass)


def _move(
    places: Array, mass: Array, times: tuple[float, float], limits: tuple[float, float], drift: float
) -> tuple[Array, Array]:
    """Return places between the limits at the later time and the mass that arrives at each (Gauss-Legendre)."""
    spread, scale = math.sqrt(times[1] - times[0]), math.sqrt(times[1])
    low = max(limits[0], drift * times[1] - _REACH * scale)
    high = min(limits[1], drift * times[1] + _REACH * scale)
    if high <= low:
        return np.zeros(1), np.zeros(1)
    panels = min(256, max(16, math.ceil((high - low) / (8.0 * spread))))
    edges = np.linspace(low, high, panels + 1)
    half = 0.5 * (edges[1] - edges[0])
    there = (edges[:-1, None] + half * (1.0 + _PANEL[0])).ravel()
    weights = np.tile(half * _PANEL[1], panels)
    shift = (there[:, None] - places[None, :] - drift * (times[1] - times[0])) / spread
    density = np.exp(-0.5 * shift**2) @ mass / (spread * math.sqrt(2.0 * math.pi))
    arrived: Array = weights * density
    return there, arrived


def _crossings(
    times: Sequence[float], upper: Sequence[float], lower: Sequence[float], drift: float
) -> list[tuple[float, float]]:
    """Return per look the chance to cross first there, above or below; boundaries are on the scale of z."""
    from scipy.special import ndtr

    found, places, mass, before = [], np.zeros(1), np.ones(1), 0.0
    for time, top, bottom in zip(times, upper, lower, strict=True):
        spread, scale = math.sqrt(time - before), math.sqrt(time)
        mean = places + drift * (time - before)
        above = float((mass * ndtr((mean - top * scale) / spread)).sum())
        below = float((mass * ndtr((bottom * scale - mean) / spread)).sum()) if math.isfinite(bottom) else 0.0
        found.append((above, below))
        places, mass = _move(places, mass, (before, time), (bottom * scale, top * scale), drift)
        before = time
    return found
