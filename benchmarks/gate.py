"""Simulated error rates of the gate beside usual rules: false promotion at the margin, false block of an equal model.

Grid: discordance x direction of the discordance x samples x intra-cluster correlation (clusters of five where it is not
zero, with a shared outcome taken with chance sqrt(ICC)). The candidate is worse by exactly the margin, so every
promotion is false. `one-sided`: all discordance is loss, the margin is the discordance; `3:1`: three losses per gain,
the margin is half of it; `even`: margin .02, as even as that allows.

    python benchmarks/gate.py --runs 10000
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import scipy
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evals.stats import betting, bounds, dirichlet, paired, score

ALPHA = 0.05
DISCORDANCE = (0.02, 0.05, 0.1, 0.2)
DIRECTIONS = ("one-sided", "3:1", "even")
SAMPLES = (50, 100, 200, 500, 1000, 2000)
CORRELATIONS = (0.0, 0.3, 0.6)
CLUSTER = 5
ACCURACY = 0.7
"""The baseline's accuracy; only the unpaired z rule depends on it."""
RULES = ("gate", "gate, no range", "gate, half of a suite", "t alone", "new >= old", "new >= old - margin",
         "unpaired z", "exact McNemar")  # fmt: skip


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


def grid() -> Iterator[Point]:
    for icc, n, direction, discordance in itertools.product(CORRELATIONS, SAMPLES, DIRECTIONS, DISCORDANCE):
        yield Point(discordance, direction, n, icc)


def draw(point: Point, effect: float, runs: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return how many clusters have each sum of differences (-size .. size), shape (runs, 2 size + 1); and losses."""
    loss, gain = (point.discordance - effect) / 2, (point.discordance + effect) / 2
    size = point.size
    if size == 1:
        singles = rng.multinomial(point.n, [loss, 1 - loss - gain, gain], size=runs).astype(float)
        return singles, singles[:, 0]
    groups, width = point.n // size, 2 * size + 1
    counts, lost = np.zeros((runs, width)), np.zeros(runs)
    step = max(1, 2_000_000 // point.n)
    for start in range(0, runs, step):
        part = min(step, runs - start)
        own = rng.random((part, groups, size), dtype=np.float32)
        shared = rng.random((part, groups, 1), dtype=np.float32)
        chosen = np.where(rng.random((part, groups, size), dtype=np.float32) < math.sqrt(point.icc), shared, own)
        losses = (chosen < loss).sum(axis=-1)
        lost[start : start + part] = losses.sum(axis=-1)
        sums = (chosen > 1 - gain).sum(axis=-1) - losses + size
        flat = sums + width * np.arange(part)[:, None]
        counts[start : start + part] = np.bincount(flat.ravel(), minlength=part * width).reshape(part, width)
    return counts, lost


@cache
def gains_to_reject(n: int, effect: float, discordant: int) -> int:
    """Return the fewest gains among `discordant` samples at which the score test rejects "effect or less"."""
    gains = gains_to_reject(n, effect, discordant - 1) if (discordant - 1) in _SEEN.get((n, effect), ()) else None
    if gains is None:
        gains = max(0, math.floor((discordant + n * effect) / 2))
    while gains > 0 and score.p_value(gains - 1, discordant - gains + 1, n, effect) <= ALPHA:
        gains -= 1
    while gains <= discordant and score.p_value(gains, discordant - gains, n, effect) > ALPHA:
        gains += 1
    _SEEN.setdefault((n, effect), set()).add(discordant)
    return gains


_SEEN: dict[tuple[int, float], set[int]] = {}


def score_rejects(better: np.ndarray, worse: np.ndarray, n: int, effect: float) -> np.ndarray:
    totals = (better + worse).astype(int)
    needed = {total: gains_to_reject(n, effect, total) for total in np.unique(totals).tolist()}
    return better >= np.array([needed[total] for total in totals.tolist()])


def gate_rejects(counts: np.ndarray, point: Point, effect: float, how: str = "gate") -> np.ndarray:
    """Return in which runs the gate shows an effect above `effect`, by the bound the gate itself would choose."""
    size = point.size
    values = np.arange(-size, size + 1.0) / size
    groups = counts.sum(axis=-1)
    varied = groups - counts.max(axis=-1)
    z = np.broadcast_to(values - effect, counts.shape)
    if how == "gate, no range":
        usable = (groups >= bounds.MIN_CLUSTERS) & (varied >= np.minimum(bounds.MIN_VARIED_UNBOUNDED, 0.8 * groups))
        found = np.zeros(len(counts), dtype=bool)
        if usable.any():
            found[usable] = paired.p_value(z[usable], counts[usable], np.ones_like(z[usable])) <= ALPHA
        return found
    if size == 1:
        return score_rejects(counts[:, 2], counts[:, 0], point.n, effect)
    small = (groups < bounds.MIN_CLUSTERS) | (varied < bounds.MIN_VARIED)
    found = np.zeros(len(counts), dtype=bool)
    for test, rows in ((betting.p_value, small), (dirichlet.p_value, ~small)):
        for part in np.array_split(np.flatnonzero(rows), max(1, int(rows.sum()) // 2000)):
            if len(part):
                found[part] = test(z[part], counts[part], -1.0 - effect) <= ALPHA
    return found


def half_suite_rejects(point: Point, runs: int, rng: np.random.Generator) -> np.ndarray:
    """Return in which runs half of a suite of 2n samples, drawn without replacement, is promoted falsely.

    The full suite's difference is fixed at the margin (rounded away from it, so that promotion is false).
    """
    population = 2 * point.n
    net = math.ceil(population * point.margin)
    discordant = max(net, round(population * point.discordance))
    gains = (discordant - net) // 2
    losses = gains + net
    counts = rng.multivariate_hypergeometric([losses, population - losses - gains, gains], point.n, size=runs)
    shape = np.arange(-1.0, 2.0) + point.margin
    return betting.p_value(np.broadcast_to(shape, counts.shape), counts, -1.0 + point.margin) <= ALPHA


def usual_rules(
    counts: np.ndarray, losses: np.ndarray, point: Point, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return for each usual rule in which runs it promotes."""
    size, n = point.size, point.n
    total = counts @ np.arange(-size, size + 1)
    values = np.broadcast_to(np.arange(-size, size + 1.0) / size, counts.shape)
    groups = counts.sum(axis=-1)
    mean = total / n
    spread = (counts * (values - mean[:, None]) ** 2).sum(axis=-1)
    error = np.sqrt(spread / (groups - 1) / groups)
    old = rng.binomial(n, ACCURACY, size=len(counts)) / n
    pooled = np.clip(old + mean / 2, 1e-9, 1 - 1e-9)
    return {
        "t alone": mean - stats.t.ppf(1 - ALPHA, groups - 1) * error > -point.margin,
        "new >= old": total >= 0,
        "new >= old - margin": total >= -point.margin * n - 1e-9,
        "unpaired z": mean / np.sqrt(2 * pooled * (1 - pooled) / n) > stats.norm.ppf(ALPHA),
        "exact McNemar": stats.binom.sf(losses - 1, 2 * losses + total, 0.5) > ALPHA,
    }


def exact_size(point: Point) -> float:
    """Return the exact chance of a false promotion by the score test: summed, not simulated."""
    effect = -point.margin
    spread = 7 * math.sqrt(point.n * point.discordance) + 3
    first = max(0, int(point.n * point.discordance - spread))
    totals = np.arange(first, min(point.n, int(point.n * point.discordance + spread)) + 1)
    needed = np.array([gains_to_reject(point.n, effect, int(total)) for total in totals])
    share = (point.discordance + effect) / (2 * point.discordance)
    chance = stats.binom.pmf(totals, point.n, point.discordance) * stats.binom.sf(needed - 1, totals, share)
    return float(chance.sum())


def check_against_the_gate(point: Point, counts: np.ndarray, promoted: np.ndarray, most: int = 3) -> None:
    """Stop if the vectorised rule differs from `evals.stats.bounds` on the same data."""
    size = point.size
    for run in range(min(most, len(counts))):
        sums = np.repeat(np.arange(-size, size + 1), counts[run].astype(int)).astype(float)
        weights = np.full(len(sums), float(size))
        base = weights if size > 1 else (sums < 0).astype(float)
        data = bounds.ClusterSums(base + sums, base, weights, point.n, bounds=(0.0, 1.0), binary=size == 1)
        if (bounds.p_at_most(data, -point.margin, bounds.choose(data)) <= ALPHA) != bool(promoted[run]):
            raise SystemExit(f"the simulated rule differs from the gate at {point}")


def false_promotion(points: list[Point], runs: int, seed: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for index, point in enumerate(points):
        rng = np.random.default_rng((seed, index))
        counts, losses = draw(point, -point.margin, runs, rng)
        promoted = {"gate": gate_rejects(counts, point, -point.margin)}
        check_against_the_gate(point, counts, promoted["gate"])
        promoted["gate, no range"] = gate_rejects(counts, point, -point.margin, "gate, no range")
        if not point.icc:
            promoted["gate, half of a suite"] = half_suite_rejects(point, runs, rng)
        promoted |= usual_rules(counts, losses, point, rng)
        row: dict[str, object] = {"discordance": point.discordance, "direction": point.direction, "n": point.n}
        row |= {"icc": point.icc, "margin": point.margin, "runs": runs}
        row |= {rule: round(float(found.mean()), 5) for rule, found in promoted.items()}
        if not point.icc:
            row["gate, exact"] = round(exact_size(point), 5)
        rows.append(row)
    return rows


def equal_model(runs: int, seed: int, samples: tuple[int, ...] = SAMPLES) -> list[dict[str, object]]:
    """Return how an equal model fares, discordance .1 and margin .02: blocked, or judged by the gate."""
    rows: list[dict[str, object]] = []
    for n in samples:
        point, rng = Point(0.1, "even", n, 0.0), np.random.default_rng((seed, n))
        counts, losses = draw(point, 0.0, runs, rng)
        passed = gate_rejects(counts, point, -point.margin)
        failed = score_rejects(counts[:, 0], counts[:, 2], n, point.margin)
        row: dict[str, object] = {"n": n, "gate PASS": float(passed.mean()), "gate FAIL": float(failed.mean())}
        row["gate INCONCLUSIVE"] = float((~passed & ~failed).mean())
        row |= {
            f"blocked by {rule}": float((~found).mean())
            for rule, found in usual_rules(counts, losses, point, rng).items()
        }
        rows.append({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    return rows


def worst_points(rows: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    """Return per rule the grid point with most false promotions, with its Monte-Carlo error."""
    found: dict[str, dict[str, object]] = {}
    for rule in (*RULES, "gate, exact"):
        worst = max((row for row in rows if rule in row), key=lambda row: float(row[rule]), default=None)  # type: ignore[arg-type]
        if worst is not None:
            rate = float(worst[rule])  # type: ignore[arg-type]
            error = 0.0 if rule == "gate, exact" else math.sqrt(rate * (1 - rate) / int(worst["runs"]))  # type: ignore[call-overload]
            where = {key: worst[key] for key in ("discordance", "direction", "n", "icc", "margin")}
            found[rule] = {"false_promotion": rate, "monte_carlo_error": round(error, 5), **where}
    return found


def report(
    rows: list[dict[str, object]], equal: list[dict[str, object]], runs: int, seconds: float
) -> dict[str, object]:
    worst = worst_points(rows)
    allowed = ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    print(f"\nfalse promotion of a model worse by exactly the margin, {len(rows)} grid points, {runs} runs each")
    print(f"{'rule':<24}{'worst':>8}{'error':>9}{'mean':>8}  at")
    for rule, item in worst.items():
        mean = float(np.mean([row[rule] for row in rows if rule in row]))  # type: ignore[arg-type]
        where = f"discordance {item['discordance']}, {item['direction']}, n {item['n']}, icc {item['icc']}"
        print(f"{rule:<24}{item['false_promotion']:>8.4f}{item['monte_carlo_error']:>9.4f}{mean:>8.4f}  {where}")
    print("\nan equal model, discordance .1, margin .02, unclustered: chance of being blocked")
    for row in equal:
        print("  " + "  ".join(f"{key} {value}" for key, value in row.items()))
    return {
        "benchmark": "gate",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": {"machine": platform.machine(), "cpus": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "runs": runs,
        "seconds": round(seconds, 1),
        "allowed": round(allowed, 5),
        "points_above_allowed": {
            rule: sum(float(row[rule]) > allowed for row in rows if rule in row)  # type: ignore[arg-type]
            for rule in RULES
        },
        "worst": worst,
        "equal_model": equal,
    }


def main(arguments: list[str] | None = None) -> dict[str, object]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--largest", type=int, default=SAMPLES[-1], help="leave out larger sample sizes")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gate.json")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    points = [point for point in grid() if point.n <= options.largest]
    rows = false_promotion(points, options.runs, options.seed)
    equal = equal_model(options.runs, options.seed, tuple(n for n in SAMPLES if n <= options.largest))
    found = report(rows, equal, options.runs, time.monotonic() - start)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**found, "grid": rows}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
