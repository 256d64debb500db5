import math

import numpy as np
import pytest
from hypothesis import example, given, settings
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
@example(pairs=[(0.0, 0.0), (0.0, 0.0), (0.0, 1.4e-45)], alpha=0.125)  # a spread next to nothing
@example(pairs=[(0.0, 1e-300)] * 30 + [(1.0, 1.0)] * 30, alpha=0.05)
@example(pairs=[(0.5, 0.5 + 1e-16), (0.5, 0.5), (0.5 + 2e-16, 0.5)], alpha=0.05)
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


def test_skewed_values_without_a_range_prove_nothing_until_there_are_enough():
    losses = RNG.exponential(size=4000) ** 2
    assert choose(sums(-losses[:60], np.zeros(60))) == "none"
    assert choose(sums(RNG.normal(size=60), np.zeros(60))) == "t"
    assert sums(-losses, np.zeros(4000)).skewness < -3
    assert sums(np.full(60, 0.5), np.zeros(60)).skewness == 0.0


def test_the_range_of_a_cluster_is_that_of_the_largest_one_planned():
    data = sums(np.ones(60), np.ones(60), bounds=UNIT, largest=5.0)
    assert data.reach(0.0) == (-5.0, 5.0)
    assert p_at_most(data, -0.1, "betting") > p_at_most(sums(np.ones(60), np.ones(60), bounds=UNIT), -0.1, "betting")


def test_the_e_process_does_not_depend_on_how_many_values_there_are():
    few, many = (sums(np.ones(n), np.ones(n), bounds=UNIT, mode="anytime") for n in (1, 2))
    capitals = [1 / p_at_most(data, -0.5, choose(data)) for data in (few, many)]
    # Ties gain share / 2 on a share of the largest safe bet: the mixture of (1 + share)^n.
    from evals.stats.betting import ENDLESS_SHARES, ENDLESS_WEIGHTS

    assert capitals == pytest.approx([float(ENDLESS_WEIGHTS @ (1 + ENDLESS_SHARES) ** n) for n in (1, 2)])


@pytest.mark.parametrize("binary", [True, False])
def test_a_look_at_most_of_a_suite_says_more_than_the_same_samples_of_a_stream(binary):
    difference = np.where(np.arange(300) < 15, 1.0, np.where(np.arange(300) < 35, -1.0, 0.0))
    base = (difference < 0).astype(float)
    stream = sums(base + difference, base, bounds=UNIT, binary=binary)
    wider = None
    for population in (3000, 600, 330):
        data = sums(base + difference, base, bounds=UNIT, binary=binary, population=population)
        low, high = interval(data, 0.05, choose(data))
        free_low, free_high = interval(stream, 0.05, choose(stream))
        assert free_low - 1e-3 <= low <= data.effect <= high <= free_high + 1e-3
        assert wider is None or high - low < wider
        wider = high - low


def test_clusters_seen_count_where_they_are_fewer_than_the_samples_seen():
    data = noisy(100, UNIT, samples=200, population=400, clusters_planned=400)
    assert data.unseen == pytest.approx(math.sqrt(0.75))
    assert noisy(100, UNIT, samples=200, population=400).unseen == pytest.approx(math.sqrt(0.5))
    assert noisy(100, UNIT).unseen == 1.0


def test_what_the_rest_of_a_suite_cannot_change_is_certain_for_every_bound():
    ties = np.ones(390)
    for fields in ({"binary": True}, {}):
        data = sums(ties, ties, bounds=UNIT, population=400, **fields)
        assert p_at_most(data, -0.0251, choose(data)) == 0.0
        assert p_at_least(data, 0.0251, choose(data)) == 0.0
    alone = sums(ties, bounds=UNIT, population=400, binary=True)
    assert choose(alone) == "hypergeometric"
    assert p_at_most(alone, 0.97, "hypergeometric") == 0.0
    assert p_at_least(alone, 0.97, "hypergeometric") == 1.0
    rate = sums(1 - ties, bounds=UNIT, population=400, binary=True, sign=-1)
    assert p_at_most(rate, -0.03, "hypergeometric") == 0.0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=55, max_size=80),
    st.sampled_from(["fixed", "anytime", "whole_suite"]),
    st.booleans(),
    st.data(),
)
def test_laws_of_every_way_of_looking(pairs, mode, binary, data):
    """Order changes nothing; a better score never makes PASS less likely nor FAIL more likely."""

    def tails(rows):
        candidate, baseline = zip(*rows, strict=True)
        population = 100 if mode == "whole_suite" else None
        found = sums(candidate, baseline, bounds=UNIT, binary=binary, mode=mode, population=population)
        name = choose(found)
        return name, p_at_most(found, -0.05, name), p_at_least(found, -0.05, name)

    name, passing, failing = tails(pairs)
    shuffled = data.draw(st.permutations(pairs))
    again = tails(shuffled)
    assert again[0] == name
    assert again[1:] == pytest.approx((passing, failing), rel=1e-6, abs=1e-12)
    worse = [index for index, (candidate, _) in enumerate(pairs) if candidate == 0]
    if worse:
        index = data.draw(st.sampled_from(worse))
        better = [(1, old) if place == index else (new, old) for place, (new, old) in enumerate(pairs)]
        better_name, better_passing, better_failing = tails(better)
        if better_name == name:
            assert better_passing <= passing + 5e-3
            assert better_failing >= failing - 5e-3
