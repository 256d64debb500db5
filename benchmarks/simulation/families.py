"""Suites of many KPIs: how often a candidate fails that keeps every rule, by Holm's correction at every look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import numpy as np

from benchmarks.simulation import rules
from benchmarks.simulation.draws import Point, draw, look_ends
from benchmarks.simulation.margin import LOOKS
from benchmarks.simulation.rules import ALPHA, SCREEN
from evals.stats import bounds, score, sequential
from evals.stats.multiplicity import holm

KPIS = 20
SAMPLES = 1000
MARGIN = 0.02
DISCORDANCE = 0.1
SCENARIOS = {"all equal": 0, "one at the margin": 1, "all at the margin": KPIS}


def false_fail(runs: int, seed: int) -> list[dict[str, object]]:
    """Return the chance that an acceptable model gets FAIL, by scenario and mode; the KPIs are independent."""
    rows: list[dict[str, object]] = []
    ends = look_ends(SAMPLES, LOOKS)
    for index, (scenario, harmed) in enumerate(SCENARIOS.items()):
        rng = np.random.default_rng((seed, 70, index))
        point = Point(DISCORDANCE, "even", SAMPLES, 0.0)
        at = draw(point, -MARGIN, ends, runs * harmed, rng).reshape(runs, harmed, len(ends), 3)
        equal = draw(point, 0.0, ends, runs * (KPIS - harmed), rng).reshape(runs, KPIS - harmed, len(ends), 3)
        counts = np.concatenate([at, equal], axis=1)
        for mode in ("fixed", "group_sequential"):
            used = ends[-1:] if mode == "fixed" else ends
            failed = _failed(counts[:, :, -len(used) :], mode, used)
            rate = float(failed.mean())
            error = math.sqrt(max(rate, 1 / runs) * (1 - rate) / runs)
            rows.append({"scenario": scenario, "mode": mode, "fail": round(rate, 5), "error": round(error, 5)})
        sums = counts[:, :, :, [1, 0, 2]].reshape(runs * KPIS, len(ends), 3)  # turned round: gains against it
        failed = rules.e_process_rejects(sums, 1, MARGIN, ALPHA / KPIS).any(axis=1).reshape(runs, KPIS).any(axis=1)
        rows.append({"scenario": scenario, "mode": "anytime", "fail": round(float(failed.mean()), 5)})
        unadjusted = (_p_values(counts[:, :, -1], SAMPLES, ALPHA) <= ALPHA).any(axis=1).mean()
        rows.append({"scenario": scenario, "mode": "fixed, no correction", "fail": round(float(unadjusted), 5)})
    return rows


def _failed(counts: np.ndarray, mode: str, ends: Sequence[int]) -> np.ndarray:
    """Return which suites fail at any look: Holm at one look, its group-sequential form at several.

    One rejection is enough for FAIL, and at every look Holm's first step asks the smallest p-value to be at most the
    nominal level of alpha / k: so only that step matters (Maurer & Bretz 2013).
    """
    failed = np.zeros(len(counts), dtype=bool)
    kpis = counts.shape[1]
    for look, end in enumerate(ends):
        fractions = [done / ends[-1] for done in ends[: look + 1]]
        nominal = sequential.level(mode, ALPHA / kpis, fractions)
        p_values = _p_values(counts[:, :, look], end, nominal)
        now = p_values.min(axis=1) <= nominal
        if mode == "fixed":  # the gate's own correction must say the same
            assert [min(holm(row)) <= ALPHA for row in p_values.tolist()] == now.tolist()
        failed |= now
    return failed


def _p_values(counts: np.ndarray, n: int, level: float) -> np.ndarray:
    """Return the p-value of "not worse than the margin" of each KPI; 1 where z is far from the level."""
    losses, gains = counts[..., 2], counts[..., 1]
    mean = (losses - gains) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (mean - MARGIN) * (n / ((losses + gains) / n - mean**2)) ** 0.5
    found = np.ones(mean.shape)
    near = (mean > MARGIN) & (z >= -SCREEN * NormalDist().inv_cdf(max(level, 1e-300)))
    found[near] = [_p(int(lost), int(gained), n) for lost, gained in zip(losses[near], gains[near], strict=True)]
    return found


@cache
def _p(losses: int, gains: int, n: int) -> float:
    differences = np.repeat([-1.0, 0.0, 1.0], [losses, n - losses - gains, gains])
    base = (differences < 0).astype(float)
    data = bounds.ClusterSums(base + differences, base, np.ones(n), n, bounds=(0.0, 1.0), binary=True)
    assert bounds.choose(data) == "score"
    return score.p_value(losses, gains, n, MARGIN)
