import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.stats.bounds import ClusterSums, _close, choose, interval, p_at_least, p_at_most

RNG = np.random.default_rng(4)


@pytest.fixture(autouse=True)
def _same_draws_in_any_order():
    """Every test draws the same numbers, whichever ran before it."""
    RNG.bit_generator.state = np.random.default_rng(4).bit_generator.state


def sums(candidate, baseline=None, weights=None, **fields):
    candidate = np.asarray(candidate, dtype=float)
    weights = np.ones_like(candidate) if weights is None else np.asarray(weights, dtype=float)
    baseline = None if baseline is None else np.asarray(baseline, dtype=float)
    return ClusterSums(candidate, baseline, weights, int(fields.pop("samples", len(candidate))), **fields)


def noisy(n, bounds, **fields):
    base = RNG.uniform(0, 1, n)
    return sums(np.clip(base + RNG.normal(0, 0.1, n), 0, 1), base, bounds=bounds, **fields)


UNIT = (0.0, 1.0)
FLAT = np.zeros(200)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (noisy(200, UNIT), "dirichlet"),
        (noisy(49, UNIT), "betting"),
        (sums(FLAT + (np.arange(200) < 19) / 2, FLAT, bounds=UNIT), "betting"),
        (sums(FLAT + (np.arange(200) < 20) / 2, FLAT, bounds=UNIT), "dirichlet"),
        (noisy(200, UNIT, population=400), "dirichlet"),
        (noisy(40, UNIT, population=400), "betting"),
        (sums(FLAT, FLAT, bounds=UNIT, binary=True, population=400), "score"),
        (sums(FLAT, bounds=UNIT, binary=True, population=400), "hypergeometric"),
        (sums(FLAT, FLAT, bounds=UNIT, binary=True, mode="anytime"), "e-process"),
        (noisy(10, UNIT, mode="anytime"), "e-process"),
        (noisy(500, None, mode="anytime"), "none"),
        (noisy(200, UNIT, population=200), "full suite"),
        (noisy(50, None), "t"),
        (noisy(49, None), "none"),
        (sums(FLAT + (np.arange(200) < 99) / 2, FLAT), "none"),
        (sums(FLAT + (np.arange(200) < 100) / 2, FLAT), "t"),
        (noisy(50, None, population=400), "t"),
        (sums(FLAT, FLAT, bounds=UNIT, binary=True), "score"),
        (sums(FLAT, bounds=UNIT, binary=True), "binomial"),
        (sums(FLAT, FLAT + 1, bounds=UNIT, binary=True, scale="ratio"), "betting"),
    ],
)
def test_the_table_of_bounds(data, name):
    assert choose(data) == name
    low, high = interval(data, 0.05, name)
    assert low <= data.effect <= high
    least, most = data.extremes
    if name not in ("full suite", "none"):
        assert low == least or p_at_most(data, low, name) <= 0.05 + 1e-9
        assert high == most or p_at_least(data, high, name) <= 0.05 + 1e-9


def test_without_a_bound_nothing_is_shown():
    data = noisy(20, None)
    assert interval(data, 0.05, "none") == (-math.inf, math.inf)
    assert p_at_most(data, -5.0, "none") == p_at_least(data, 5.0, "none") == 1.0


def test_the_full_suite_is_its_own_answer():
    data = sums([1.0, 0.0], [0.0, 0.0], bounds=UNIT, population=2)
    assert interval(data, 0.05, "full suite") == (0.5, 0.5)
    assert [p_at_most(data, t, "full suite") for t in (0.4, 0.5, 0.6)] == [0.0, 1.0, 1.0]
    assert [p_at_least(data, t, "full suite") for t in (0.4, 0.5, 0.6)] == [1.0, 1.0, 0.0]


def test_most_of_a_suite_leaves_little_open():
    # 190 of 200 samples tie: whatever the other ten do, the suite's difference is within .05.
    data = sums(np.ones(190), np.ones(190), bounds=UNIT, population=200)
    low, high = interval(data, 1e-12, choose(data))
    assert (low, high) == pytest.approx((-0.05, 0.05), abs=1e-4)
    assert p_at_most(data, -0.0501, "betting") == 0.0


def test_swapping_candidate_and_baseline_mirrors_the_interval():
    for data in (noisy(120, UNIT), noisy(30, UNIT), noisy(120, None)):
        name = choose(data)
        swapped = sums(data.baseline, data.candidate, bounds=data.bounds)
        low, high = interval(data, 0.05, name)
        other_low, other_high = interval(swapped, 0.05, name)
        assert (low, high) == pytest.approx((-other_high, -other_low), abs=1e-4)


def test_lower_is_better_turns_the_effect():
    data = noisy(100, UNIT)
    turned = sums(data.candidate, data.baseline, bounds=UNIT, sign=-1)
    assert turned.effect == pytest.approx(-data.effect)
    low, high = interval(turned, 0.05, "dirichlet")
    assert (-high, -low) == pytest.approx(interval(data, 0.05, "dirichlet"), abs=1e-4)
    assert sums(data.candidate, bounds=UNIT, sign=-1).extremes == (-1.0, -0.0)


def test_the_ratio_scale_is_exact_for_a_proportional_candidate():
    base = RNG.uniform(1, 3, 100)
    data = sums(base * 1.04, base, scale="ratio", sign=-1)
    assert data.effect == pytest.approx(-0.04)
    assert data.contrast(-0.04) == pytest.approx(np.zeros(100), abs=1e-12)
    bounded = sums(base * 1.04, base, scale="ratio", sign=-1, bounds=(0.0, 4.0))
    low, high = bounded.reach(-0.05)
    assert (low, high) == pytest.approx((-4.0, 4.2))
    contrast = bounded.contrast(-0.05)
    assert low <= contrast.min() <= contrast.max() <= high


def test_effects_outside_what_the_range_allows():
    ties = sums(FLAT, FLAT, bounds=UNIT, binary=True)
    assert p_at_most(ties, -1.0, "score") == 0.0
    assert p_at_most(ties, 1.0, "score") == 1.0
    assert p_at_most(sums(FLAT, FLAT, bounds=UNIT), -1.0, "betting") == 0.0
    assert p_at_most(sums(FLAT, FLAT + 1, bounds=UNIT), -1.0, "betting") == 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=80), st.floats(0.01, 0.2))
def test_intervals_shrink_as_alpha_grows(pairs, alpha):
    candidate, baseline = zip(*pairs, strict=True)
    data = sums(candidate, baseline, bounds=UNIT)
    name = choose(data)
    low, high = interval(data, alpha, name)
    wide_low, wide_high = interval(data, alpha / 2, name)
    assert wide_low <= low + 1e-3
    assert high <= wide_high + 1e-3
    assert -1.0 <= low <= data.effect + 1e-9
    assert data.effect - 1e-9 <= high <= 1.0


def test_a_ratio_to_a_baseline_that_may_be_zero_has_no_lower_bound():
    base = np.where(np.arange(100) < 2, 50.0, 0.0) + np.linspace(0, 1e-3, 100)
    data = sums(base + RNG.normal(0, 1, 100), base, scale="ratio")
    assert interval(data, 0.05, "t")[0] == -math.inf


def test_closing_in_ends_even_if_asked_for_more_than_floats_can_give():
    assert _close(lambda effect: effect - 0.25, (-1.0, -1.25), (1.0, 0.75), 0.0) == pytest.approx(0.25)
