"""Samples used on a stated mixture of effects at equal power; how often part of a suite says what all of it says."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from benchmarks.simulation import rules
from benchmarks.simulation.draws import Point, draw, look_ends
from benchmarks.simulation.margin import LOOKS, PEEK
from benchmarks.simulation.rules import ALPHA
from evals.stats import power, sequential

MIXTURE = {-0.10: 0.10, -0.05: 0.15, -0.02: 0.10, 0.0: 0.35, 0.01: 0.15, 0.03: 0.15}
"""True effects and weights: a quarter clearly worse, a tenth exactly at the margin, a third equal, the rest better."""
MARGIN = 0.02
DISCORDANCE = 0.1
POWER = 0.8
SUITES = (2000, 5000)


@dataclass
class Outcome:
    """What became of many runs: when each ended, and how (1 PASS, -1 FAIL, 0 neither)."""

    used: np.ndarray
    verdict: np.ndarray
    looks: list[int] = field(default_factory=list)

    def figures(self, of: float) -> dict[str, float]:
        share = self.used / of
        return {
            "share": round(float(share.mean()), 4),
            "share_error": round(float(share.std() / math.sqrt(len(share))), 4),
            "pass": round(float((self.verdict > 0).mean()), 4),
            "fail": round(float((self.verdict < 0).mean()), 4),
        }


def judge(counts: np.ndarray, looks: list[rules.Look], n: int) -> Outcome:
    """Return when each run is first decided, single samples; counts of cells of shape (runs, looks, 3)."""
    outcome = Outcome(np.full(len(counts), float(n)), np.zeros(len(counts)))
    for index, look in enumerate(looks):
        open_runs = np.flatnonzero(outcome.verdict == 0)
        sums = counts[open_runs, index][:, [2, 0, 1]]  # cells are ties, gains, losses
        for side in (1, -1):
            shown = rules.rejects(sums[:, ::side], look, -side * MARGIN)
            rules.check(sums[:, ::side], look, -side * MARGIN, shown, 1)
            outcome.verdict[open_runs[shown]] = side
            outcome.used[open_runs[shown]] = look.samples
    return outcome


def anytime(counts: np.ndarray, peeks: list[int], n: int) -> Outcome:
    """Return the same for unplanned looks."""
    sums = counts[:, :, [2, 0, 1]]
    passed = rules.e_process_rejects(sums, 1, -MARGIN)
    failed = rules.e_process_rejects(sums[:, :, ::-1], 1, MARGIN)
    either = passed | failed
    first = either.argmax(axis=1)
    done = either.any(axis=1)
    used = np.where(done, np.array(peeks)[first], float(n))
    side = np.where(passed[np.arange(len(sums)), first], 1, -1)
    return Outcome(used, np.where(done, side, 0))


def plans() -> dict[str, int]:
    """Return the largest number of samples by mode that gives an equal model the wanted power to PASS."""
    fixed = power.samples_needed(MARGIN, DISCORDANCE, ALPHA, POWER) or 0
    return {
        mode: math.ceil(fixed * sequential.inflation(mode, ALPHA, POWER, LOOKS))
        for mode in ("fixed", "group_sequential", "anytime")
    }


def efficiency(runs: int, seed: int) -> dict[str, object]:
    """Return samples used and verdicts by mode and effect, as shares of the fixed number of samples."""
    sizes = plans()
    rows: list[dict[str, object]] = []
    for index, (effect, weight) in enumerate(MIXTURE.items()):
        for mode, n in sizes.items():
            point = Point(DISCORDANCE, "even", n, 0.0)
            rng = np.random.default_rng((seed, 50, index))
            if mode == "anytime":
                peeks = [*range(PEEK, n, PEEK), n]
                few = min(runs, 2000)
                outcome = anytime(draw(point, effect, peeks, few, rng), peeks, n)
            else:
                ends = [n] if mode == "fixed" else look_ends(n, LOOKS)
                outcome = judge(draw(point, effect, ends, runs, rng), rules.looks(mode, ends, n, 1), n)
            rows.append({"effect": effect, "weight": weight, "mode": mode, "n": n, **outcome.figures(sizes["fixed"])})
    means = {mode: _mean(rows, "mode", mode, "share") for mode in sizes}
    return {"samples": sizes, "mixture": rows, "mean_share": {mode: round(mean, 4) for mode, mean in means.items()}}


def whole_suite(population: int, effect: float, runs: int, seed: int) -> dict[str, object]:
    """Return how much of a suite is used, and how often the verdict is that of the full suite, at one true effect.

    A run without a verdict before the end has run the full suite, and agrees with it.
    """
    rng = np.random.default_rng((seed, 60, population, list(MIXTURE).index(effect)))
    ends = look_ends(population, LOOKS)
    counts = draw(Point(DISCORDANCE, "even", population, 0.0), effect, ends, runs, rng)
    outcome = judge(counts[:, :-1], rules.looks("whole_suite", ends[:-1], population, 1), population)
    net = counts[:, -1, 1] - counts[:, -1, 2]
    truth = np.sign(np.round(net + MARGIN * population, 6))
    agrees = (outcome.verdict == 0) | (outcome.verdict == truth)
    figures = {
        "suite": population,
        "effect": effect,
        "weight": MIXTURE[effect],
        "agrees": round(float(agrees.mean()), 5),
    }
    return figures | outcome.figures(population)


def suite_means(rows: list[dict[str, object]]) -> list[dict[str, float]]:
    """Return agreement and share on the mixture, by size of the suite."""
    return [
        {
            "suite": population,
            "agrees": round(_mean(rows, "suite", population, "agrees"), 5),
            "share": round(_mean(rows, "suite", population, "share"), 4),
        }
        for population in sorted({int(str(row["suite"])) for row in rows})
    ]


def _mean(rows: list[dict[str, object]], key: str, value: object, figure: str) -> float:
    return sum(float(row["weight"]) * float(row[figure]) for row in rows if row[key] == value)  # type: ignore[arg-type]
