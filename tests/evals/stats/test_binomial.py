import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.stats import binomial


@pytest.mark.parametrize(("limit", "n"), [(0.05, 59), (0.001, 2995)])
def test_zero_events_need_the_known_numbers(limit, n):
    assert binomial.upper(0, n, 0.05) <= limit < binomial.upper(0, n - 1, 0.05)
    assert binomial.p_at_least(0, n, limit) <= 0.05 < binomial.p_at_least(0, n - 1, limit)


def test_published_interval():
    # Clopper-Pearson for 10 of 100, two-sided 95 %: (0.0490, 0.1762).
    assert binomial.lower(10, 100, 0.025) == pytest.approx(0.0490, abs=5e-5)
    assert binomial.upper(10, 100, 0.025) == pytest.approx(0.1762, abs=5e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.data(), st.floats(0.01, 0.3))
def test_bounds_and_p_values_agree(n, data, alpha):
    events = data.draw(st.integers(0, n))
    low, high = binomial.lower(events, n, alpha), binomial.upper(events, n, alpha)
    assert low <= events / n <= high
    if events:
        assert binomial.p_at_most(events, n, low) == pytest.approx(alpha)
    if events < n:
        assert binomial.p_at_least(events, n, high) == pytest.approx(alpha)


@pytest.mark.parametrize(("population", "n", "rate"), [(100, 30, 0.1), (50, 45, 0.1), (200, 100, 0.03)])
def test_part_of_a_population_is_judged_exactly(population, n, rate):
    from scipy import stats

    marked = round(population * rate)
    events = range(n + 1)
    for alpha in (0.01, 0.05, 0.2):
        for marks, test in ((marked, binomial.p_finite_at_most), (marked, binomial.p_finite_at_least)):
            wrong = sum(
                float(stats.hypergeom.pmf(seen, population, marks, n))
                for seen in events
                if test(seen, n, population, rate) <= alpha
            )
            assert wrong <= alpha


def test_what_the_rest_cannot_change_is_certain():
    assert binomial.p_finite_at_most(11, 30, 100, 0.1) == 0.0
    assert binomial.p_finite_at_least(0, 95, 100, 0.1) == 0.0
    assert binomial.p_finite_at_least(0, 90, 100, 0.1) > 0.0
    assert binomial.p_finite_at_most(0, 10, 100, -0.1) == 0.0
    assert binomial.p_finite_at_least(10, 10, 100, 1.5) == 0.0
