import numpy as np
import pytest
from scipy import stats

from evals.stats.paired import p_value, standard_error


def tail(sums, weights=None, **more):
    sums = np.asarray(sums, dtype=float)
    weights = np.ones_like(sums) if weights is None else np.asarray(weights, dtype=float)
    return float(p_value(sums, np.ones_like(sums), weights, **more))


def test_single_samples_give_the_ordinary_standard_error():
    values = np.random.default_rng(0).normal(1, 2, 80)
    theta, error = standard_error(values, np.ones(80))
    assert theta == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(80))


def test_clustered_variance_is_the_formula_written_out():
    sums, weights = np.array([3.0, -1.0, 4.0]), np.array([2.0, 3.0, 5.0])
    theta, error = standard_error(sums, weights)
    assert theta == pytest.approx(0.6)
    residuals = [3 - 0.6 * 2, -1 - 0.6 * 3, 4 - 0.6 * 5]
    assert error**2 == pytest.approx(3 / 2 * sum(r * r for r in residuals) / 10**2)


def test_one_cluster_has_no_standard_error():
    assert np.isnan(standard_error(np.array([1.0]), np.array([2.0]))[1])


def test_symmetric_values_give_student_t():
    values = np.concatenate([np.linspace(-1, 1, 61)]) + 0.1
    expected = stats.ttest_1samp(values, 0.0, alternative="greater").pvalue
    assert tail(values) == pytest.approx(expected, rel=0.02)
    assert tail(values) >= expected - 1e-12


def test_rare_large_losses_make_it_more_careful_than_t():
    values = np.where(np.arange(200) < 6, -0.98, 0.02)
    values[:6] = -0.5
    t = stats.ttest_1samp(values, 0.0, alternative="greater").pvalue
    assert tail(values) > t


def test_counts_stand_for_repeated_values():
    values, counts = np.array([-1.0, 0.0, 1.0]), np.array([10.0, 70.0, 20.0])
    repeated = np.repeat(values, counts.astype(int))
    assert float(p_value(values, counts, np.ones(3))) == pytest.approx(tail(repeated))


def test_no_spread_proves_nothing():
    assert tail(np.full(100, 0.5)) == 1.0


def test_a_sample_without_replacement_knows_more():
    values = np.random.default_rng(1).normal(0.1, 1, 100)
    assert tail(values, shrink=0.5) < tail(values)
