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
