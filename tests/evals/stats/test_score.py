import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evals.stats.score import _hypergeometric, p_value, statistic


def test_the_statistic_is_tangos():
    # Tango 1998: at effect 0 it is McNemar's (b - c) / sqrt(b + c).
    assert float(statistic(np.array(12.0), np.array(5.0), 100, 0.0)) == pytest.approx(7 / np.sqrt(17))
    # The restricted rates must solve the likelihood equation; checked by brute force.
    gains, losses, n, effect = 3.0, 9.0, 80, -0.05
    rates = np.linspace(0.0501, 0.5, 200_001)
    likelihood = gains * np.log(rates + effect) + losses * np.log(rates) + (n - 12) * np.log(1 - 2 * rates - effect)
    best = rates[np.argmax(np.where(np.isfinite(likelihood), likelihood, -np.inf))]
    expected = (gains - losses - n * effect) / np.sqrt(n * (2 * best + effect - effect**2))
    assert float(statistic(np.array(gains), np.array(losses), n, effect)) == pytest.approx(expected, rel=1e-4)


def test_all_ties_need_149_samples_at_two_points():
    assert p_value(0, 0, 149, -0.02) <= 0.05 < p_value(0, 0, 148, -0.02)


def size(n, margin, discordance, alpha=0.05):
    """The exact chance that a candidate worse by exactly the margin is promoted."""
    gain_share = (discordance - margin) / (2 * discordance)
    chance = 0.0
    for total in range(n + 1):
        here = float(stats.binom.pmf(total, n, discordance))
        if here < 1e-7:
            continue
        needed = next((g for g in range(total + 1) if p_value(g, total - g, n, -margin) <= alpha), total + 1)
        chance += here * float(stats.binom.sf(needed - 1, total, gain_share))
    return chance


@pytest.mark.parametrize("n", [50, 150])
@pytest.mark.parametrize(("margin", "discordance"), [(0.02, 0.02), (0.02, 0.1), (0.1, 0.1), (0.05, 0.1), (0.0, 0.1)])
def test_false_promotion_is_at_most_alpha_summed_exactly(n, margin, discordance):
    assert size(n, margin, discordance) <= 0.05


def test_it_is_close_to_the_normal_score_test_where_that_holds():
    exact = p_value(180, 200, 2000, -0.03)
    assert exact == pytest.approx(
        stats.norm.sf(float(statistic(np.array(180.0), np.array(200.0), 2000, -0.03))), rel=0.1
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.data(), st.floats(-0.5, 0.5))
def test_more_gains_never_raise_the_p_value(n, data, effect):
    losses = data.draw(st.integers(0, n))
    gains = data.draw(st.integers(0, n - losses))
    here = p_value(gains, losses, n, effect)
    assert 0.0 <= here <= 1.0
    if losses:
        assert p_value(gains, losses - 1, n, effect) <= here + 1e-3
    if gains - losses <= n * effect:
        assert here == 1.0


def test_small_p_values_need_no_more_than_their_own_decade_of_doubt():
    chances = [p_value(gains, 0, 400, -0.02) for gains in range(40)]
    assert chances == sorted(chances, reverse=True)
    assert chances[-1] < 1e-8  # a fixed error of 1e-4 would end there


def finite_size(population, n, margin, discordant, alpha):
    """The exact chance that a suite at the margin is promoted by part of it."""
    lost = int(np.ceil(population * margin - 1e-9))
    gaining = (discordant - lost) // 2
    losing = gaining + lost
    chance = 0.0
    for gains in range(min(n, gaining) + 1):
        for losses in range(min(n - gains, losing) + 1):
            here = float(stats.multivariate_hypergeom.pmf(
                [gains, losses, n - gains - losses], [gaining, losing, population - gaining - losing], n
            ))  # fmt: skip
            if here > 1e-9 and p_value(gains, losses, n, -margin, population) <= alpha:
                chance += here
    return chance


@pytest.mark.parametrize(("population", "n"), [(100, 30), (100, 80), (60, 55)])
@pytest.mark.parametrize(("margin", "discordant"), [(0.05, 5), (0.05, 15), (0.1, 11)])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_part_of_a_suite_at_the_margin_is_promoted_at_most_as_often_as_it_says(
    population, n, margin, discordant, alpha
):
    assert finite_size(population, n, margin, discordant, alpha) <= alpha


def test_all_ties_of_part_of_a_suite_are_hypergeometric():
    # 8 of 400 must be lost for a loss of 2 points; none of them among the first 200.
    assert p_value(0, 0, 200, -0.02, 400) == pytest.approx(stats.hypergeom.pmf(0, 400, 8, 200), abs=2e-4)
    assert p_value(0, 0, 393, -0.02, 400) == 0.0
    assert p_value(0, 0, 200, -0.02, 400) < p_value(0, 0, 200, -0.02)


def test_a_small_part_of_a_large_suite_is_like_independent_samples():
    assert p_value(40, 45, 500, -0.05, 1_000_000) == pytest.approx(p_value(40, 45, 500, -0.05), rel=0.02)


def test_its_own_hypergeometric_law():
    totals = np.arange(0.0, 12.0)
    found = _hypergeometric(totals, 60, np.array([[9.0], [30.0]]), 20)
    expected = [stats.hypergeom.pmf(totals, 60, marked, 20) for marked in (9, 30)]
    assert found == pytest.approx(np.array(expected), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 200), st.data(), st.floats(-0.3, 0.3))
def test_more_gains_never_raise_the_p_value_of_a_suite(population, data, effect):
    n = data.draw(st.integers(5, population))
    losses = data.draw(st.integers(1, n))
    gains = data.draw(st.integers(0, n - losses))
    here = p_value(gains, losses, n, effect, population)
    assert 0.0 <= here <= 1.0
    assert p_value(gains, losses - 1, n, effect, population) <= here + 5e-3
