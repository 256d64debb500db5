"""The gate's promises by simulation, a reduced form of benchmarks/gate.py: error rates and costs of every mode."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from evals.stats import bounds, sequential

ROOT = Path(__file__).resolve().parents[3]
ALPHA = 0.05


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("gate_benchmark", ROOT / "benchmarks" / "gate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gate_benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_no_mode_promotes_more_often_than_allowed_and_the_usual_rules_do(benchmark):
    points = list(benchmark.grid(500))[::7]
    assert {point.icc for point in points} == {0.0, 0.3, 0.6}
    runs = 400
    rows = [benchmark.margin.simulate(point, runs, (11, index)) for index, point in enumerate(points)]
    for mode in benchmark.MODES:
        rates = [row[f"gate: {mode}"] for row in rows]
        # The largest of 21 noisy rates, some of them truly near .05.
        assert max(rates) <= ALPHA + 3.5 * math.sqrt(ALPHA * (1 - ALPHA) / runs), mode
        assert np.mean(rates) <= ALPHA
    for rule in ("t alone", "new >= old", "new >= old - margin", "unpaired z", "exact McNemar", "z peeked every 25"):
        assert max(row[rule] for row in rows) > 0.3, rule


@pytest.mark.slow
def test_one_look_at_single_samples_is_exact(benchmark):
    for point in list(benchmark.grid(500))[:48:5]:
        assert benchmark.margin.exact_size(point) <= ALPHA


@pytest.mark.slow
def test_the_benchmark_meets_its_goals_on_fewer_runs(benchmark, tmp_path, capsys):
    output = tmp_path / "gate.json"
    options = ["--runs", "60", "--largest", "50", "--jobs", "1", "--suites", "2000", "--output", str(output)]
    found = benchmark.main(options)
    assert [goal for goal, item in found["goals"].items() if not item["met"]] == []
    assert found["samples"]["mean_share"]["group_sequential"] <= 0.7
    power = {row["mode"]: row["pass"] for row in found["samples"]["mixture"] if row["effect"] == 0.0}
    assert power["group_sequential"] == pytest.approx(power["fixed"], abs=0.2)
    assert output.read_text(encoding="utf-8").startswith("{")
    assert capsys.readouterr().out.splitlines()[-1].startswith('{"benchmark": "gate"')


def unequal(rng, groups, loss):
    """Large clusters lose more often than small ones: the mean over samples is not the mean over clusters."""
    sizes = np.array([1, 2, 8])
    chance = loss * sizes / sizes.max()
    pick = rng.integers(0, 3, groups)
    lost = np.where(rng.random(groups) < chance[pick], sizes[pick], 0).astype(float)
    return lost, sizes[pick].astype(float), -float((sizes * chance).mean() / sizes.mean())


@pytest.mark.slow
@pytest.mark.parametrize("groups", [30, 80, 250])
@pytest.mark.parametrize("loss", [0.05, 0.3])
@pytest.mark.parametrize("mode", ["fixed", "anytime", "whole_suite"])
def test_unequal_clusters_whose_size_matters(groups, loss, mode):
    """In `whole_suite` mode the threshold is what the whole suite, twice as many clusters, comes to."""
    rng = np.random.default_rng((groups, round(100 * loss)))
    wrong, runs = 0, 200
    for _ in range(runs):
        lost, weights, truth = unequal(rng, 2 * groups, loss)
        population = None
        if mode == "whole_suite":
            truth, population = -float(lost.sum() / weights.sum()), int(weights.sum())
        lost, weights = lost[:groups], weights[:groups]
        data = bounds.ClusterSums(
            weights - lost, weights, weights, int(weights.sum()), bounds=(0.0, 1.0), population=population,
            clusters_planned=2 * groups, largest=8.0, mode=mode,
        )  # fmt: skip
        wrong += bounds.p_at_most(data, truth, bounds.choose(data)) <= ALPHA
    assert wrong / runs <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["group_sequential", "whole_suite"])
def test_graded_scores_looked_at_eight_times(mode):
    """Rare large losses and common small gains, mean exactly at the threshold: the lopsided case for bounded means."""
    rng = np.random.default_rng(8)
    ends, n, runs = [50 * look for look in range(1, 9)], 400, 120
    levels = sequential.boundary(mode, ALPHA, [end / n for end in ends])
    looks = list(zip(ends, levels, strict=True))[: -1 if mode == "whole_suite" else None]
    wrong = 0
    for _ in range(runs):
        gains = np.where(rng.random(n) < 0.1, -0.9, 0.1 + rng.uniform(-0.05, 0.05, n))
        truth = float(gains.mean()) if mode == "whole_suite" else 0.0
        for end, level in looks:
            data = bounds.ClusterSums(
                gains[:end], np.zeros(end), np.ones(end), end, bounds=(-1.0, 1.0), mode=mode, clusters_planned=n,
                population=n if mode == "whole_suite" else None,
            )  # fmt: skip
            if bounds.p_at_most(data, truth, bounds.choose(data)) <= level:
                wrong += 1
                break
    assert wrong / runs <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
