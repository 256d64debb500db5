"""Two drift detectors with a stated false-alarm rate, exact for finite windows of exchangeable requests.

| detector | asks | under no change |
|---|---|---|
| `window_e` with `e_bh` | do the two windows differ? | any signal is flagged with probability at most alpha |
| `Sequential` | since when? (e-Shiryaev-Roberts) | in n requests, an alarm has probability at most n / threshold |

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

ODDS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Odds ratios that `window_e` looks for, and their inverses, with equal weight."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Sizes are cut at these quantiles of both windows together."""
STEPS = ((0.01, 20.0), (0.02, 4.0), (0.05, 4.0), (0.1, 3.0), (0.25, 2.0), (0.5, 1.6))
"""Bets (a, c): a p-value below a pays c, any other (1 - ca) / (1 - a); and the same above 1 - a."""


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


def e_bh(e_values: Mapping[str, float], alpha: float) -> set[str]:
    """Return the names whose e-values the e-Benjamini-Hochberg procedure rejects at level alpha.

    Valid under any dependence between signals. Source: Wang and Ramdas (2022), "False discovery rate control with
    e-values".
    """
    order = sorted(e_values, key=lambda name: -e_values[name])
    passed = [
        rank for rank, name in enumerate(order, start=1) if e_values[name] >= len(order) / (rank * alpha)
    ]  # fmt: skip
    return set(order[: max(passed, default=0)])


class Sequential:
    """An e-Shiryaev-Roberts detector over conformal p-values: feed the reference, then each current value.

    Each value is ranked among all before it; if nothing changed, these ranks are independent and uniform, whatever the
    distribution. Every bet on them starts anew at each request: M = (M + 1) * pay; the mean over bets is `statistic`.
    Without a change its mean after n current values is n, so it crosses a threshold A within n with probability at
    most n / A, and the mean time to a false alarm is at least A requests.
    Source: Shin, Ramdas, Rinaldo (2024), "E-detectors"; Vovk et al. (2021), "Retrain or not retrain".
    """

    def __init__(self, reference: Iterable[float]) -> None:
        self._known = sorted(reference)
        self._bets = np.zeros(2 * len(STEPS))
        self.statistic = 0.0

    def feed(self, value: float, label: str) -> float:
        """Take one value and return the statistic. `label` (a request id) breaks ties by its hash, repeatably."""
        below, upto = bisect.bisect_left(self._known, value), bisect.bisect_right(self._known, value)
        self._known.insert(upto, value)
        tie = (int.from_bytes(hashlib.blake2b(label.encode(), digest_size=7).digest(), "big") + 0.5) / 2**56
        total = len(self._known)
        above = total - upto - 1
        p = (above + tie * (upto - below + 1)) / total
        pays = [pay for a, c in STEPS for pay in (_step(p, a, c), _step(1 - p, a, c))]
        self._bets = (self._bets + 1.0) * np.asarray(pays)
        self.statistic = float(self._bets.mean())
        return self.statistic


def _step(p: float, a: float, c: float) -> float:
    return c if p < a else (1 - c * a) / (1 - a)
