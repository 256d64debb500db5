"""Simulated paired 0/1 results: the grid of models that are worse by exactly the margin, and draws from it, by look.

A run is kept as counts: how many clusters have each (losses, gains), which is all that any rule needs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

DISCORDANCE = (0.02, 0.05, 0.1, 0.2)
DIRECTIONS = ("one-sided", "3:1", "even")
SAMPLES = (50, 100, 200, 500, 1000, 2000)
CORRELATIONS = (0.0, 0.3, 0.6)
CLUSTER = 5


@dataclass(frozen=True)
class Point:
    """One point of the grid: rates of loss and gain, the margin, samples and correlation."""

    discordance: float
    direction: str
    n: int
    icc: float

    @property
    def margin(self) -> float:
        return {"one-sided": self.discordance, "3:1": self.discordance / 2, "even": 0.02}[self.direction]

    @property
    def size(self) -> int:
        return CLUSTER if self.icc else 1

    @property
    def groups(self) -> int:
        return self.n // self.size

    def __str__(self) -> str:
        return f"discordance {self.discordance}, {self.direction}, n {self.n}, icc {self.icc}"


def grid(largest: int = SAMPLES[-1]) -> Iterator[Point]:
    for icc, n, direction, discordance in itertools.product(CORRELATIONS, SAMPLES, DIRECTIONS, DISCORDANCE):
        if n <= largest:
            yield Point(discordance, direction, n, icc)


@cache
def cells(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the possible (losses, gains) of one cluster, each of shape (C,)."""
    pairs = [(losses, gains) for losses in range(size + 1) for gains in range(size + 1 - losses)]
    return np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])


@cache
def to_sums(size: int) -> np.ndarray:
    """Return the 0/1 matrix that adds cells up by their sum of differences (-size .. size), shape (C, 2 size + 1)."""
    losses, gains = cells(size)
    return (gains - losses + size)[:, None] == np.arange(2 * size + 1)


@cache
def chances(point: Point, effect: float) -> np.ndarray:
    """Return the chance of each cell of one cluster, shape (C,).

    Each sample takes the cluster's shared outcome with chance sqrt(icc), its own otherwise: any two samples of a
    cluster then correlate by the icc.
    """
    discordance = max(point.discordance, abs(effect))
    loss, gain = (discordance - effect) / 2, (discordance + effect) / 2
    tie, size, copies = 1 - loss - gain, point.size, math.sqrt(point.icc)
    losses, gains = cells(size)
    found = np.zeros(len(losses))
    for shared in range(size + 1):
        weight = math.comb(size, shared) * copies**shared * (1 - copies) ** (size - shared)
        for rate, lost, gained in ((loss, shared, 0), (tie, 0, 0), (gain, 0, shared)):
            for cell, (all_lost, all_gained) in enumerate(zip(losses.tolist(), gains.tolist(), strict=True)):
                own = (all_lost - lost, all_gained - gained, size - shared - (all_lost - lost) - (all_gained - gained))
                if min(own) >= 0:
                    ways = math.factorial(size - shared) / math.prod(math.factorial(part) for part in own)
                    found[cell] += weight * rate * ways * loss ** own[0] * gain ** own[1] * tie ** own[2]
    return np.maximum(found, 0.0) / found.sum()


def draw(point: Point, effect: float, ends: Sequence[int], runs: int, rng: np.random.Generator) -> np.ndarray:
    """Return how many of the first `ends` clusters fall into each cell, shape (runs, looks, C)."""
    rates = chances(point, effect)
    steps = np.diff([0, *ends])
    found = np.empty((runs, len(steps), len(rates)))
    for look, step in enumerate(steps.tolist()):
        found[:, look] = rng.multinomial(step, rates, size=runs)
    return found.cumsum(axis=1)


def draw_from_suite(
    losses: int, gains: int, population: int, ends: Sequence[int], runs: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the same for single samples drawn without replacement from one suite, shape (runs, looks, 3)."""
    left = np.tile(np.array([losses, gains, population - losses - gains]), (runs, 1))
    taken = np.zeros((runs, len(ends), 3))
    for look, step in enumerate(np.diff([0, *ends]).tolist()):
        lost = rng.hypergeometric(left[:, 0], left[:, 1] + left[:, 2], step)
        rest = step - lost
        gained = np.zeros(runs, dtype=np.int64)
        some = rest > 0
        gained[some] = rng.hypergeometric(left[some, 1], left[some, 2], rest[some])
        now = np.stack([lost, gained, rest - gained], axis=1)
        left = left - now
        taken[:, look] = now
    order = [[0, 0], [0, 1], [1, 0]]  # ties, gains, losses: the order of `cells(1)`
    assert np.stack(cells(1), axis=1).tolist() == order
    return taken[:, :, [2, 1, 0]].cumsum(axis=1)


def look_ends(clusters: int, looks: int) -> list[int]:
    """Return after how many clusters each of some equal looks comes, the last after all of them."""
    return sorted({max(1, round(clusters * (look + 1) / looks)) for look in range(looks)})
