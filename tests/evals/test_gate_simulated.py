"""The whole decider by simulation: looks with their history promote a model at the margin no more often than alpha."""

import numpy as np
import pytest

from evals.gate import decide
from tests.evals.gate_cases import controls, kpi, prefix, results, suite

N, RUNS, MARGIN = 160, 100, 0.1
SIZES = (40, 80, 120, 160)


def promoted(mode, seed):
    """Whether a candidate that is exactly the margin worse passes at any look; looks end as soon as they may."""
    rng = np.random.default_rng(seed)
    draw = rng.random(N)
    base = np.where(draw < 0.15, 1.0, np.where(draw < 0.2, 0.0, 1.0))
    candidate = np.where(draw < 0.15, 0.0, 1.0)  # loses .15, gains .05
    spec = suite(kpi(samples=N, rule={"type": "noninferior", "margin": MARGIN}), gate={"mode": mode, "looks": 4})
    taken = []
    for due in SIZES:
        taken.append(
            decide(
                spec,
                results("c", accuracy=prefix(candidate, due)),
                results("b", accuracy=prefix(base, due)),
                controls=controls(accuracy=prefix(np.zeros(N), due)),
                history=taken,
            )
        )
        if taken[-1].final:
            break
    return taken[-1].verdict == "PASS"


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    """Intervals take most of the time and decide nothing."""
    monkeypatch.setattr("evals.stats.bounds.interval", lambda sums, level, bound: (-np.inf, np.inf))


@pytest.mark.slow
def test_planned_looks_promote_at_the_margin_within_alpha():
    share = np.mean([promoted("group_sequential", seed) for seed in range(RUNS)])
    assert share <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.slow
def test_fixed_looks_repeated_would_not_hold(monkeypatch):
    """The same runs with the level of one look at each: what the levels are there for."""
    monkeypatch.setattr("evals.looks.nominal", lambda mode, alpha, fractions: alpha)
    share = np.mean([promoted("group_sequential", seed) for seed in range(RUNS)])
    assert share > 0.05 + 2 * np.sqrt(0.05 * 0.95 / RUNS)
