"""The gate's bounds on many simulated runs at once, by the functions of `evals.stats`; the usual rules beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from scipy import stats

from benchmarks.simulation.draws import Point, cells, to_sums
from evals.stats import betting, bounds, dirichlet, paired, score, sequential

ALPHA = 0.05
ACCURACY = 0.7
"""The baseline's accuracy; only the unpaired z rule depends on it."""
SCREEN = 0.55
"""A run whose z is below this share of the level's z is not tested: `check` samples such runs as well."""
_SEEN: dict[tuple[int, float, float, int | None], set[int]] = {}


@dataclass(frozen=True)
class Look:
    """One look at a KPI: clusters and samples seen, the level, and what the whole plan holds."""

    mode: str
    clusters: int
    size: int
    level: float
    planned: int
    population: int | None = None

    @property
    def samples(self) -> int:
        return self.clusters * self.size

    @property
    def unseen(self) -> float:
        return 1.0 if self.population is None else (1.0 - self.clusters / self.planned) ** 0.5


def looks(mode: str, ends: Sequence[int], planned: int, size: int, alpha: float = ALPHA) -> list[Look]:
    """Return the looks of a plan, with the nominal level of each."""
    levels = sequential.boundary(mode, alpha, [end / planned for end in ends])
    suite = planned * size if mode == "whole_suite" else None
    return [Look(mode, end, size, level, planned, suite) for end, level in zip(ends, levels, strict=True)]


@cache
def gains_to_reject(n: int, effect: float, discordant: int, level: float, population: int | None) -> int:
    """Return the fewest gains among `discordant` samples at which the score test rejects "effect or less"."""
    key = (n, effect, level, population)
    near = [other for other in (discordant - 1, discordant - 2, discordant + 1) if other in _SEEN.get(key, ())]
    if near:
        guess = gains_to_reject(n, effect, near[0], level, population) + max(0, discordant - near[0]) // 2
        gains = min(guess, discordant + 1)
    else:
        spread = -NormalDist().inv_cdf(level) * (discordant + n * abs(effect) + 1) ** 0.5 * 0.8
        gains = min(discordant + 1, max(0, int((discordant + n * effect + spread) / 2)))

    def rejected(number: int) -> bool:
        return score.p_value(number, discordant - number, n, effect, population) <= level

    while gains > 0 and rejected(gains - 1):
        gains -= 1
    while gains <= discordant and not rejected(gains):
        gains += 1
    _SEEN.setdefault(key, set()).add(discordant)
    return gains


def rejects(sums: np.ndarray, look: Look, edge: np.ndarray | float) -> np.ndarray:
    """Return in which runs the gate's bound shows an effect above `edge`, shape (runs,).

    Args:
        sums: how many clusters have each sum of differences, shape (runs, 2 size + 1).
        look: where and at what level.
        edge: the effect to be refuted; one per run where the suite itself is the question.
    """
    size = look.size
    values = np.arange(-size, size + 1.0) / size
    limits = np.broadcast_to(np.asarray(edge, dtype=float), len(sums))
    mean = sums @ values / look.clusters
    variance = np.maximum(sums @ values**2 / look.clusters - mean**2, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (mean - limits) * (look.clusters / variance) ** 0.5 / look.unseen
    rows = np.flatnonzero((mean > limits) & ~(z < -SCREEN * NormalDist().inv_cdf(min(0.5, max(look.level, 1e-300)))))
    found = np.zeros(len(sums), dtype=bool)
    if size == 1 and look.mode != "anytime":
        totals = (sums[rows, 0] + sums[rows, 2]).astype(int)
        needed = {
            total: gains_to_reject(look.samples, float(limits[0]), total, look.level, look.population)
            for total in np.unique(totals).tolist()
        }
        found[rows] = sums[rows, 2] >= np.array([needed[total] for total in totals.tolist()])
        return found
    for part in np.array_split(rows, len(rows) // 2000 + 1):
        if len(part):
            found[part] = _p_bounded(sums[part], values, mean[part], limits[part], look) <= look.level
    return found


def _p_bounded(sums: np.ndarray, values: np.ndarray, mean: np.ndarray, limits: np.ndarray, look: Look) -> np.ndarray:
    z = values - limits[:, None]
    if look.mode == "anytime":
        return betting.e_process(z, sums, -1.0 - limits)
    small = (look.clusters < bounds.MIN_CLUSTERS) | (look.clusters - sums.max(axis=-1) < bounds.MIN_VARIED)
    chance = np.ones(len(sums))
    stretched = np.where(mean > limits, mean - (mean - limits) / look.unseen, limits)
    possible = stretched > -1.0
    for test, rows, centre in ((betting.p_value, small, limits), (dirichlet.p_value, ~small & possible, stretched)):
        if rows.any():
            chance[rows] = test(values - centre[rows, None], sums[rows], -1.0 - centre[rows])
    chance[~small & ~possible] = 0.0
    if look.population is not None:
        seen = look.clusters / look.planned
        chance[seen * mean - (1.0 - seen) > limits + 1e-12] = 0.0
    return chance


def e_process_rejects(sums: np.ndarray, size: int, edge: float, alpha: float = ALPHA) -> np.ndarray:
    """Return in which runs and looks the e-process shows an effect above `edge`, shape (runs, looks)."""
    values = np.arange(-size, size + 1.0) / size
    with np.errstate(divide="ignore"):
        factors = np.log(np.maximum(1.0 + np.outer((values - edge) / (1.0 + edge), betting.ENDLESS_SHARES), 0.0))
    capital = np.exp(sums @ np.maximum(factors, -1e6)) @ betting.ENDLESS_WEIGHTS
    found: np.ndarray = capital >= 1.0 / alpha
    return found


def no_range_rejects(sums: np.ndarray, look: Look, edge: float) -> np.ndarray:
    """Return the same for the gate on data whose range is not declared."""
    size = look.size
    values = np.arange(-size, size + 1.0) / size
    varied = look.clusters - sums.max(axis=-1)
    residuals = values - (sums @ values / look.clusters)[:, None]
    spread = np.maximum((sums * residuals**2).sum(axis=-1) / look.clusters, 1e-100)
    skewness = (sums * residuals**3).sum(axis=-1) / look.clusters / spread**1.5
    usable = (look.clusters >= bounds.MIN_CLUSTERS) & (
        varied >= np.minimum(bounds.MIN_VARIED_UNBOUNDED, 0.8 * look.clusters)
    )
    usable &= look.clusters >= bounds.PER_SKEWNESS * skewness**2
    found = np.zeros(len(sums), dtype=bool)
    if usable.any():
        z = np.broadcast_to(values - edge, sums.shape)[usable]
        found[usable] = paired.p_value(z, sums[usable], np.ones_like(z), look.unseen) <= look.level
    return found


def usual_rules(counts: np.ndarray, point: Point, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return for each usual rule in which runs it promotes, from the counts of cells at the end."""
    size, n, groups = point.size, point.n, point.groups
    losses = counts @ cells(size)[0]
    total = counts @ (cells(size)[1] - cells(size)[0])
    mean = total / n
    error = _error(counts @ to_sums(size), size) * (groups / (groups - 1)) ** 0.5
    old = rng.binomial(n, ACCURACY, size=len(counts)) / n
    pooled = np.clip(old + mean / 2, 1e-9, 1 - 1e-9)
    return {
        "t alone": mean - stats.t.ppf(1 - ALPHA, groups - 1) * error > -point.margin,
        "new >= old": total >= 0,
        "new >= old - margin": total >= -point.margin * n - 1e-9,
        "unpaired z": mean / np.sqrt(2 * pooled * (1 - pooled) / n) > stats.norm.ppf(ALPHA),
        "exact McNemar": stats.binom.sf(losses - 1, 2 * losses + total, 0.5) > ALPHA,
    }


def peeked_z(sums: np.ndarray, size: int, edge: float) -> np.ndarray:
    """Return in which runs and looks a clustered z-test at level alpha promotes, shape (runs, looks)."""
    values = np.arange(-size, size + 1.0) / size
    mean = sums @ values / sums.sum(axis=-1)
    found: np.ndarray = mean - NormalDist().inv_cdf(1 - ALPHA) * _error(sums, size) > edge
    return found


def _error(sums: np.ndarray, size: int) -> np.ndarray:
    values = np.arange(-size, size + 1.0) / size
    groups = sums.sum(axis=-1)
    mean = sums @ values / groups
    return np.sqrt(np.maximum(sums @ values**2 / groups - mean**2, 0.0) / groups)


def check(sums: np.ndarray, look: Look, edge: np.ndarray | float, promoted: np.ndarray, most: int = 2) -> int:
    """Stop if the vectorised rule differs from `evals.stats.bounds` on the same data; return how many were compared.

    The first runs are compared, and the first of those that were promoted.
    """
    size, limits = look.size, np.broadcast_to(np.asarray(edge, dtype=float), len(sums))
    chosen = [*range(min(most, len(sums))), *np.flatnonzero(promoted)[:1].tolist()]
    for run in chosen:
        gains = np.repeat(np.arange(-size, size + 1), sums[run].astype(int)).astype(float)
        weights = np.full(len(gains), float(size))
        base = weights if size > 1 else (gains < 0).astype(float)
        data = bounds.ClusterSums(
            base + gains, base, weights, look.samples, bounds=(0.0, 1.0), binary=size == 1,
            population=look.population, clusters_planned=look.planned, largest=float(size), mode=look.mode,
        )  # fmt: skip
        if (bounds.p_at_most(data, float(limits[run]), bounds.choose(data)) <= look.level) != bool(promoted[run]):
            raise SystemExit(f"the simulated rule differs from the gate: {look}, run {run}")
    return len(chosen)
