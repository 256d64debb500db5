"""The gate's promise by simulation: a model worse by exactly the margin is promoted with chance at most alpha."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from evals.stats import bounds

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("gate_benchmark", ROOT / "benchmarks" / "gate.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["gate_benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_no_grid_point_promotes_more_often_than_allowed(benchmark, tmp_path, capsys):
    found = benchmark.main(["--runs", "1500", "--largest", "500", "--output", str(tmp_path / "gate.json")])
    assert found["worst"]["gate, exact"]["false_promotion"] <= 0.05
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)  # the largest of 144 noisy rates, some truly near .05
    for rule in ("gate", "gate, no range", "gate, half of a suite"):
        assert found["worst"][rule]["false_promotion"] <= allowed
    for rule in ("t alone", "new >= old", "new >= old - margin", "unpaired z", "exact McNemar"):
        assert found["worst"][rule]["false_promotion"] > 0.3
    assert capsys.readouterr().out.splitlines()[-1].startswith('{"benchmark": "gate"')


@pytest.mark.slow
@pytest.mark.parametrize("groups", [30, 80, 250])
@pytest.mark.parametrize("loss", [0.05, 0.3])
def test_unequal_clusters_whose_size_matters(groups, loss):
    """Large clusters lose more often than small ones: the mean over samples is not the mean over clusters."""
    rng = np.random.default_rng((groups, round(100 * loss)))
    sizes = np.array([1, 2, 8])
    chance = loss * sizes / sizes.max()
    truth = -float((sizes * chance).mean() / sizes.mean())
    wrong, runs = 0, 400
    for _ in range(runs):
        pick = rng.integers(0, 3, groups)
        lost = np.where(rng.random(groups) < chance[pick], sizes[pick], 0).astype(float)
        weights = sizes[pick].astype(float)
        data = bounds.ClusterSums(weights - lost, weights, weights, int(weights.sum()), bounds=(0.0, 1.0))
        wrong += bounds.p_at_most(data, truth, bounds.choose(data)) <= 0.05
    assert wrong / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)
