import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evals.stats.dirichlet import p_value


@pytest.mark.parametrize(("n", "losses", "margin"), [(149, 0, 0.02), (60, 3, 0.1), (500, 5, 0.02), (2000, 40, 0.02)])
def test_two_valued_data_give_the_exact_binomial_tail(n, losses, margin):
    found = float(p_value(np.array([margin, margin - 1]), np.array([n - losses, losses]), margin - 1))
    assert found == pytest.approx(stats.binom.cdf(losses, n, margin), rel=1e-6)


def test_it_is_the_chance_that_a_random_weighted_mean_is_not_positive():
    rng = np.random.default_rng(0)
    z = rng.uniform(-0.4, 0.5, 60)
    draws = rng.exponential(size=(200_000, 61)) @ np.append(z, -0.9)
    assert float(p_value(z, np.ones(60), -0.9)) == pytest.approx((draws <= 0).mean(), abs=0.004)


def test_many_values_give_the_t_tail():
    z = np.random.default_rng(1).uniform(-1, 1, 20_000) + 0.01
    expected = stats.ttest_1samp(z, 0.0, alternative="greater").pvalue
    assert float(p_value(z, np.ones_like(z), -0.99)) == pytest.approx(expected, rel=0.15)


def test_nothing_positive_proves_nothing():
    assert float(p_value(np.array([0.0, -0.5]), np.array([50.0, 50.0]), -1.0)) == 1.0


def test_values_that_do_not_occur_are_ignored_and_batches_agree():
    one = p_value(np.array([0.02, -0.98]), np.array([150.0, 1.0]), -0.98)
    two = p_value(np.array([[0.02, -0.98, 1.02]] * 2), np.array([[150.0, 1.0, 0.0], [150.0, 1.0, 3.0]]), -0.98)
    assert float(two[0]) == pytest.approx(float(one), rel=1e-9)
    assert float(two[1]) < float(two[0])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=50, max_size=70), st.data())
def test_a_larger_value_never_raises_the_p_value(found, data):
    better = list(found)
    index = data.draw(st.integers(0, len(found) - 1))
    better[index] = data.draw(st.floats(better[index], 1.0))
    ones = np.ones(len(found))
    assert float(p_value(np.array(better), ones, -1.0)) <= float(p_value(np.array(found), ones, -1.0)) + 1e-7
