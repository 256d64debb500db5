import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evals.stats.betting import mean_bounds, p_value, shares

values = st.lists(st.floats(-1, 1), min_size=1, max_size=60)


def test_weights_of_the_hedge_sum_to_one():
    for total in (1, 10, 100, 10_000):
        assert sum(weight for weight, _ in shares(total)) == pytest.approx(1.0)
        assert all(0 < share <= 1 for _, share in shares(total))


def test_all_ties_need_about_a_fifth_more_than_the_exact_bound():
    low, high = mean_bounds(np.zeros(180), -1.0, 1.0, 0.05)
    assert -0.02 < low < 0.0 < high < 0.02
    assert mean_bounds(np.zeros(149), -1.0, 1.0, 0.05)[0] < -0.02


@pytest.mark.parametrize("chance", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("n", [5, 40, 200])
def test_it_rejects_a_true_null_at_most_as_often_as_it_says(chance, n):
    losses = np.arange(n + 1)
    values = np.broadcast_to([chance, chance - 1.0], (n + 1, 2))  # the mean is 0 where losses come with this chance
    found = p_value(values, np.stack([n - losses, losses], axis=1), chance - 1.0)
    for alpha in (0.01, 0.05, 0.2):
        assert float(stats.binom.pmf(losses, n, chance)[found <= alpha].sum()) <= alpha


@settings(max_examples=50, deadline=None)
@given(values, st.randoms(use_true_random=False))
def test_order_changes_nothing(found, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    ones = np.ones(len(found))
    there = float(p_value(np.array(found), ones, -1.0))
    assert float(p_value(np.array(shuffled), ones, -1.0)) == pytest.approx(there, rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(values, st.data())
def test_a_larger_value_never_raises_the_p_value(found, data):
    better = list(found)
    index = data.draw(st.integers(0, len(found) - 1))
    better[index] = data.draw(st.floats(better[index], 1.0))
    ones = np.ones(len(found))
    assert float(p_value(np.array(better), ones, -1.0)) <= float(p_value(np.array(found), ones, -1.0)) + 1e-12


@settings(max_examples=50, deadline=None)
@given(values)
def test_bounds_enclose_the_mean(found):
    low, high = mean_bounds(np.array(found), -1.0, 1.0, 0.05)
    assert -1.0 <= low <= np.mean(found) + 1e-9
    assert np.mean(found) - 1e-9 <= high <= 1.0


def test_it_holds_for_skewed_values_and_without_replacement():
    rng = np.random.default_rng(3)
    suite = np.where(np.arange(200) < 10, -0.95, 0.05)  # the mean of the suite is exactly 0
    wrong = sum(float(p_value(rng.choice(suite, 100, replace=False), np.ones(100), -0.95)) <= 0.05 for _ in range(1000))
    assert wrong / 1000 <= 0.05
