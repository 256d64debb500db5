import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evals.stats.betting import ENDLESS_SHARES, ENDLESS_WEIGHTS, e_process, log_capital, mean_bounds, p_value, shares

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


def test_weights_of_the_e_process_sum_to_one_and_shares_are_safe():
    assert ENDLESS_WEIGHTS.sum() == pytest.approx(1.0)
    assert (ENDLESS_WEIGHTS > 0).all()
    assert (ENDLESS_SHARES > 0).all()
    assert ENDLESS_SHARES.max() == 1.0


def test_the_capital_is_a_fair_game_at_the_edge_of_the_null():
    # With mean exactly 0 the expected capital stays 1, whatever was seen before: a martingale.
    z, chances = np.array([0.9, 0.1, -0.7]), np.array([0.2, 0.45, 0.35])
    z = z - (z * chances).sum()
    before = np.array([7.0, 2.0, 3.0])

    def capital(counts):
        return float(np.exp(log_capital(z, counts, -1.0, ENDLESS_SHARES, ENDLESS_WEIGHTS)))

    after = sum(chance * capital(before + step) for chance, step in zip(chances, np.eye(3), strict=True))
    assert after == pytest.approx(capital(before))


@pytest.mark.parametrize("loss", [0.02, 0.2, 0.6])
def test_it_ever_reaches_one_over_alpha_with_chance_at_most_alpha(loss):
    """Ville's inequality: looked at after every single value."""
    rng = np.random.default_rng(round(100 * loss))
    runs, n = 500, 400
    lost = (rng.random((runs, n)) < loss).cumsum(axis=1)
    seen = np.arange(1, n + 1)
    counts = np.stack([seen - lost, lost], axis=-1)
    for alpha in (0.05, 0.2):
        ever = (e_process(np.array([loss, loss - 1.0]), counts, loss - 1.0) <= alpha).any(axis=1).mean()
        assert ever <= alpha + 2 * np.sqrt(alpha * (1 - alpha) / runs)


def test_what_is_appended_multiplies_the_capital_and_nothing_else():
    first, then = np.array([0.2, -0.3, 0.5]), np.array([0.1, 0.4])
    together = np.append(first, then)
    parts = [
        log_capital(values, np.ones(len(values)), -1.0, ENDLESS_SHARES[:1], ENDLESS_WEIGHTS[:1] ** 0)
        for values in (first, then, together)
    ]
    assert float(parts[2]) == pytest.approx(float(parts[0] + parts[1]))


@settings(max_examples=50, deadline=None)
@given(values, st.data(), st.randoms(use_true_random=False))
def test_the_e_process_obeys_the_laws(found, data, random):
    ones = np.ones(len(found))
    here = float(e_process(np.array(found), ones, -1.0))
    shuffled = list(found)
    random.shuffle(shuffled)
    assert float(e_process(np.array(shuffled), ones, -1.0)) == pytest.approx(here, rel=1e-9)
    better = list(found)
    index = data.draw(st.integers(0, len(found) - 1))
    better[index] = data.draw(st.floats(better[index], 1.0))
    assert float(e_process(np.array(better), ones, -1.0)) <= here * (1 + 1e-9)


def test_all_ties_are_enough_in_the_end():
    margin = 0.02
    tied = [float(e_process(np.array([margin]), np.array([float(n)]), margin - 1)) for n in (149, 240)]
    assert tied[1] <= 0.05 < tied[0]
