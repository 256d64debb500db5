import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evals.stats.score import p_value, statistic


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
