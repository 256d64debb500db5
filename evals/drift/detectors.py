"""Two drift detectors with a stated false-alarm rate, exact for finite windows of exchangeable requests.

| detector | asks | under no change |
|---|---|---|
| `window_e` with `e_bh` | do the two windows differ? | any signal is flagged with probability at most alpha |
| `Sequential`, `watch` | since when? (e-Shiryaev-Roberts) | n requests cross A with probability at most n / A |

Neither takes the reference window for the truth: its own sampling error is part of the test. What they assume is that
requests come in no particular order as long as nothing changes.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

ODDS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Odds ratios that `window_e` looks for, and their inverses, with equal weight."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Sizes are cut at these quantiles of both windows together."""
HUGE = 1e280
"""Where a statistic stops growing, short of infinity."""
STEPS = ((0.01, 20.0), (0.05, 5.0), (0.1, 3.0), (0.1, 1.5), (0.25, 2.0), (0.5, 1.6), (0.5, 1.2))
"""Bets on sizes (a, c): a p-value below a pays c, any other (1 - ca) / (1 - a); and the same above 1 - a."""
RATIOS = (1.5, 2.0, 3.0, 6.0, 15.0, 0.6, 0.3, 0.1)
"""Bets on rates: that ones come so many times as often as before."""


def window_e(reference: Sequence[float], current: Sequence[float]) -> float:
    """Return an e-value against "both windows come from the same requests": its mean is at most 1 if they do.

    A rate is tested by the number of ones among the current values, given how many ones both windows hold: a mixture
    of non-central hypergeometric likelihood ratios. A size is cut into rates at pooled quantiles; the e-values of the
    cuts are averaged. Conditioning on the pooled values makes the choice of cuts and signals harmless.
    Source: Grünwald, de Heide, Koolen (2024), "Safe testing"; Vovk and Wang (2021), "E-values".
    """
    if not reference or not current:
        return 1.0
    pooled = np.asarray([*reference, *current], dtype=np.float64)
    now = pooled[len(reference) :]
    if set(np.unique(pooled)) <= {0.0, 1.0}:
        return _rate_e(int(now.sum()), len(now), int(pooled.sum()), len(pooled))
    cuts = np.unique(np.quantile(pooled, QUANTILES))
    values = [_rate_e(int((now > cut).sum()), len(now), int((pooled > cut).sum()), len(pooled)) for cut in cuts]
    return float(np.mean(values))


def _rate_e(hits: int, size: int, all_hits: int, all_size: int) -> float:
    """Return the mixture likelihood ratio of `hits` ones in `size` of `all_size` values that hold `all_hits` ones."""
    if all_hits in (0, all_size):
        return 1.0
    support: Array = np.arange(max(0, size - (all_size - all_hits)), min(size, all_hits) + 1, dtype=np.float64)
    central = _log_choose(all_hits, support) + _log_choose(all_size - all_hits, size - support)
    central -= np.logaddexp.reduce(central)
    logs = [math.log(odds) for odds in ODDS]
    ratios = [hits * log - np.logaddexp.reduce(central + support * log) for log in [*logs, *(-log for log in logs)]]
    return float(np.exp(np.clip(np.logaddexp.reduce(ratios) - math.log(len(ratios)), -700, 700)))


def _log_choose(total: int, chosen: Array) -> Array:
    log_factorial: Array = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    index: np.ndarray[Any, np.dtype[np.int64]] = chosen.astype(np.int64)
    found: Array = log_factorial[total] - log_factorial[index] - log_factorial[total - index]
    return found


def e_bh(e_values: Mapping[str, float], alpha: float, weights: Mapping[str, float] | None = None) -> set[str]:
    """Return the names whose e-values the e-Benjamini-Hochberg procedure rejects at level alpha.

    Valid under any dependence between signals, with any weights that do not depend on how the windows differ; equal
    ones by default. Source: Wang and Ramdas (2022), "False discovery rate control with e-values".
    """
    total = sum(weights[name] for name in e_values) if weights else len(e_values)
    worth = {name: value * (weights[name] if weights else 1.0) / total for name, value in e_values.items() if total}
    order = sorted(worth, key=lambda name: -worth[name])
    passed = [rank for rank, name in enumerate(order, start=1) if worth[name] >= 1 / (rank * alpha)]
    return set(order[: max(passed, default=0)])


class Sequential:
    """An e-Shiryaev-Roberts detector over conformal p-values: feed the reference, then each current value.

    Each value is ranked among all before it; if nothing changed, these ranks are independent and uniform, whatever the
    distribution. Every bet on them starts anew at each request: M = (M + 1) * pay; the mean over bets is `statistic`.
    Without a change its mean after n current values is n, so it crosses a threshold A within n with probability at
    most n / A, and the mean time to a false alarm is at least A requests.
    Source: Shin, Ramdas, Rinaldo (2024), "E-detectors"; Vovk et al. (2021), "Retrain or not retrain".

    Args:
        reference: the values before, in any order.
        share: for values 0 and 1, about how many ones are expected; then the bets are on how often ones come. It must
            not be read off the reference's values alone, which would bet on their luck: take it from other requests,
            or from all values of both windows together, as `watch` does (ranks say nothing of those).
    """

    def __init__(self, reference: Iterable[float], *, share: float | None = None) -> None:
        self._known = sorted(reference)
        self._share = share
        self._bets = np.zeros(2 * len(STEPS) if share is None else len(RATIOS))
        self.pays: Array = np.ones(len(self._bets))  # what each bet paid last
        self.statistic = 0.0

    def feed(self, value: float, label: str) -> float:
        """Take one value and return the statistic. `label` (a request id) breaks ties by its hash, repeatably."""
        below, upto = bisect.bisect_left(self._known, value), bisect.bisect_right(self._known, value)
        self._known.insert(upto, value)
        total = len(self._known)
        above = total - upto - 1
        p = np.asarray([(above + _tie(label) * (upto - below + 1)) / total])
        self.pays = _pays(p, self._share)[0]
        self._bets = np.minimum((self._bets + 1.0) * self.pays, HUGE)
        self.statistic = float(self._bets.mean())
        return self.statistic


def watch(reference: Sequence[float], current: Sequence[float], name: str, *, rate: bool = False) -> Array:
    """Return the statistic of a `Sequential` after each current value; value i has the label `name i`."""
    share = (sum(reference) + sum(current)) / (len(reference) + len(current)) if rate else None
    return shiryaev_roberts(_pays(conformal_p(reference, current, name), share))


def conformal_p(reference: Sequence[float], current: Sequence[float], name: str) -> Array:
    """Return the rank of each current value among all before it, from 0 (highest) to 1, ties broken by hash.

    Without a change these are independent and uniform, given all values of both windows as a set.
    """
    known, n, p = sorted(reference), len(reference), np.empty(len(current))
    for index, value in enumerate(current):
        below, upto = bisect.bisect_left(known, value), bisect.bisect_right(known, value)
        known.insert(upto, value)
        total = n + index + 1
        p[index] = (total - upto - 1 + _tie(f"{name} {index}") * (upto - below + 1)) / total
    return p


def shiryaev_roberts(pays: Array) -> Array:
    """Return the mean over bets of M = (M + 1) * pay after each step; `pays` is steps x bets, each fair to a null."""
    bets, found = np.zeros(pays.shape[1]), np.empty(len(pays))
    for index, pay in enumerate(pays):
        bets = np.minimum((bets + 1.0) * pay, HUGE)
        found[index] = bets.mean()
    return found


def _pays(p: Array, share: float | None) -> Array:
    """Return what each bet pays for each p-value: steps x bets, with mean 1 for uniform p.

    Sizes are bet on in both tails; of a rate, a p-value below the share of ones stands for a one.
    """
    if share is None:
        bets = [np.where(side < a, c, (1 - c * a) / (1 - a)) for a, c in STEPS for side in (p, 1 - p)]
    else:
        a = min(max(share, 1e-6), 0.98)
        ratios = [min(ratio, 0.98 / a) for ratio in RATIOS]
        bets = [np.where(p < a, ratio, (1 - ratio * a) / (1 - a)) for ratio in ratios]
    pays: Array = np.stack(bets, axis=1)
    return pays


def _tie(label: str) -> float:
    return (int.from_bytes(hashlib.blake2b(label.encode(), digest_size=7).digest(), "big") + 0.5) / 2**56
