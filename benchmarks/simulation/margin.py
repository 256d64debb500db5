"""False promotion: a model worse by exactly the margin, at every point of the grid and in every mode of looks."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from benchmarks.simulation import rules
from benchmarks.simulation.draws import Point, draw, draw_from_suite, look_ends, to_sums
from benchmarks.simulation.rules import ALPHA

LOOKS = 8
PEEK = 25
"""An unplanned look is taken after every 25 samples."""
MODES = ("fixed", "group_sequential", "anytime", "whole_suite")
PEEKED_RUNS = 2000
"""The peeked z-test errs so often that more runs would be waste."""
_CHUNK = 2500


def simulate(point: Point, runs: int, seed: tuple[int, ...]) -> dict[str, float]:
    """Return the rate of false promotion at one point, by rule; `gate: MODE` is ours."""
    rng = np.random.default_rng((*seed, 0))
    counts = draw(point, -point.margin, look_ends(point.groups, LOOKS), runs, rng)
    found = {f"gate: {mode}": promotions(point, mode, runs, seed) for mode in ("anytime", "whole_suite")}
    found |= {f"gate: {mode}": planned(point, mode, counts) for mode in ("fixed", "group_sequential")}
    sums = counts @ to_sums(point.size)
    last = rules.looks("fixed", [point.groups], point.groups, point.size)[0]
    found["gate: no range"] = rules.no_range_rejects(sums[:, -1], last, -point.margin)
    several = rules.looks("group_sequential", look_ends(point.groups, LOOKS), point.groups, point.size)
    found["gate: no range, planned looks"] = np.any(
        [rules.no_range_rejects(sums[:, index], look, -point.margin) for index, look in enumerate(several)], axis=0
    )
    found |= rules.usual_rules(counts[:, -1], point, rng)
    found["z peeked every 25"] = _peeked(point, runs, seed)
    return {rule: float(promoted.mean()) for rule, promoted in found.items()}


def promotions(point: Point, mode: str, runs: int, seed: tuple[int, ...]) -> np.ndarray:
    """Return in which of `runs` fresh runs one mode of our gate promotes falsely at any of its looks."""
    rng = np.random.default_rng((*seed, 1 + MODES.index(mode)))
    if mode == "anytime":
        return np.concatenate([_anytime(point, part, rng) for part in _parts(runs)])
    if mode == "whole_suite":
        return _whole_suite(point, runs, rng)
    ends = look_ends(point.groups, LOOKS)
    return np.concatenate([planned(point, mode, draw(point, -point.margin, ends, part, rng)) for part in _parts(runs)])


def planned(point: Point, mode: str, counts: np.ndarray) -> np.ndarray:
    """Return in which runs `fixed` (its one look is the last) or `group_sequential` promotes."""
    ends = look_ends(point.groups, LOOKS)
    if mode == "fixed":
        ends, counts = ends[-1:], counts[:, -1:]
    promoted = np.zeros(len(counts), dtype=bool)
    for index, look in enumerate(rules.looks(mode, ends, point.groups, point.size)):
        sums = counts[:, index] @ to_sums(point.size)
        now = rules.rejects(sums, look, -point.margin)
        rules.check(sums, look, -point.margin, now)
        promoted |= now
    return promoted


def _whole_suite(point: Point, runs: int, rng: np.random.Generator) -> np.ndarray:
    """The full suite lies exactly on the threshold, so that every promotion before its end is false.

    Single samples: one suite, at the margin (or just beyond, where the margin is no whole number of samples). Clusters:
    every run has its own suite, and its own threshold.
    """
    ends = look_ends(point.groups, LOOKS)
    size = point.size
    if size == 1:
        lost = math.ceil(point.n * point.margin - 1e-9)
        gains = (max(lost, round(point.n * point.discordance)) - lost) // 2
        counts = draw_from_suite(gains + lost, gains, point.n, ends, runs, rng)
        edge = np.full(runs, -point.margin)
    else:
        counts = draw(point, -point.margin, ends, runs, rng)
        edge = (counts[:, -1] @ to_sums(size)) @ np.arange(-size, size + 1.0) / point.n
    promoted = np.zeros(runs, dtype=bool)
    for index, look in enumerate(rules.looks("whole_suite", ends[:-1], point.groups, size)):
        sums = counts[:, index] @ to_sums(size)
        now = rules.rejects(sums, look, edge)
        rules.check(sums, look, edge, now)
        promoted |= now
    return promoted


def _anytime(point: Point, runs: int, rng: np.random.Generator) -> np.ndarray:
    sums = draw(point, -point.margin, _peeks(point), runs, rng) @ to_sums(point.size)
    promoted = rules.e_process_rejects(sums, point.size, -point.margin)
    for index in (0, -1):
        look = rules.looks("anytime", [_peeks(point)[index]], point.groups, point.size)[0]
        rules.check(sums[:, index], look, -point.margin, promoted[:, index])
    return promoted.any(axis=1)


def _peeked(point: Point, runs: int, seed: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng((*seed, 9))
    return np.concatenate([
        rules.peeked_z(
            draw(point, -point.margin, _peeks(point), part, rng) @ to_sums(point.size), point.size, -point.margin
        ).any(axis=1)
        for part in _parts(min(runs, PEEKED_RUNS))
    ])  # fmt: skip


def _peeks(point: Point) -> list[int]:
    step = PEEK // point.size
    return list(range(step, point.groups + 1, step))


def _parts(runs: int) -> list[int]:
    return [min(_CHUNK, runs - start) for start in range(0, runs, _CHUNK)]


def exact_size(point: Point) -> float:
    """Return the exact chance of a false promotion by the score test at one look: summed, not simulated."""
    effect = -point.margin
    spread = 7 * math.sqrt(point.n * point.discordance) + 3
    first = max(0, int(point.n * point.discordance - spread))
    totals = np.arange(first, min(point.n, int(point.n * point.discordance + spread)) + 1)
    needed = np.array([rules.gains_to_reject(point.n, effect, int(total), ALPHA, None) for total in totals])
    share = (point.discordance + effect) / (2 * point.discordance)
    chance = stats.binom.pmf(totals, point.n, point.discordance) * stats.binom.sf(needed - 1, totals, share)
    return float(chance.sum())
