import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.stats import sequential
from evals.stats.sequential import boundary, expected_share, inflation, level, spent

EIGHT = [look / 8 for look in range(1, 9)]
fractions = st.lists(st.integers(1, 999), min_size=1, max_size=8, unique=True).map(
    lambda found: [share / 1000 for share in sorted(found)]
)
PLANNED = ("group_sequential", "whole_suite")


def z_values(levels):
    return [-NormalDist().inv_cdf(found) for found in levels]


def test_the_published_obrien_fleming_type_boundaries():
    # Lan & DeMets spending, five equal looks, one-sided .025 (Jennison & Turnbull 2000; gsDesign, ldbounds).
    fifths = [look / 5 for look in range(1, 6)]
    assert z_values(boundary("group_sequential", 0.025, fifths)) == pytest.approx(
        [4.877, 3.357, 2.680, 2.290, 2.031], abs=6e-4
    )


def test_two_looks_are_the_bivariate_normal():
    from scipy import stats

    half, full = boundary("group_sequential", 0.05, [0.5, 1.0])
    first, second = z_values([half, full])
    joint = stats.multivariate_normal([0, 0], [[1, math.sqrt(0.5)], [math.sqrt(0.5), 1]])
    assert 1 - float(joint.cdf([first, second])) == pytest.approx(0.05, abs=1e-5)


def test_one_look_needs_no_correction():
    for mode in sequential.MODES:
        assert level(mode, 0.05, [1.0]) == pytest.approx(0.05, abs=1e-9)
    assert level("fixed", 0.05, [0.2, 0.7]) == level("anytime", 0.05, [0.2, 0.7]) == 0.05
    assert level("whole_suite", 0.05, EIGHT) == 0.05  # the full suite is known exactly


@pytest.mark.parametrize("mode", PLANNED)
@settings(max_examples=30, deadline=None)
@given(shares=fractions, alpha=st.floats(1e-4, 0.2))
def test_increments_of_alpha_add_up_to_what_may_be_spent(mode, shares, alpha):
    walks = [sequential._march(alpha, tuple(shares[: look + 1]), mode == "whole_suite") for look in range(len(shares))]
    left = float(walks[-1].mass.sum())
    close = any(after - before < 0.002 * after for before, after in itertools.pairwise(shares))
    crossed = sum(
        after - before for before, after in itertools.pairwise([0.0, *(spent(mode, alpha, s) for s in shares)])
    )
    assert crossed == pytest.approx(spent(mode, alpha, shares[-1]))
    if not close:
        assert 1.0 - left == pytest.approx(crossed, abs=1e-6)


@pytest.mark.parametrize("mode", PLANNED)
def test_all_looks_together_reject_a_walk_without_drift_with_chance_alpha(mode):
    rng = np.random.default_rng(5)
    shares = np.array([0.1, 0.25, 0.3, 0.6, 0.85, 0.9])
    if mode == "whole_suite":  # partial sums of exchangeable values with a known total are a bridge
        times = np.array([*shares, 1.0])
        walk = (rng.normal(size=(60_000, 7)) * np.sqrt(np.diff([0.0, *times]))).cumsum(axis=1)
        bridge = walk[:, :-1] - walk[:, -1:] * shares
        z = bridge / np.sqrt(shares * (1 - shares))
    else:
        walk = (rng.normal(size=(60_000, 6)) * np.sqrt(np.diff([0.0, *shares]))).cumsum(axis=1)
        z = walk / np.sqrt(shares)
    crossed = (z >= np.array(z_values(boundary(mode, 0.05, shares.tolist())))).any(axis=1).mean()
    may = spent(mode, 0.05, 0.9)
    assert crossed == pytest.approx(may, abs=4 * math.sqrt(may / 60_000))


@pytest.mark.parametrize("mode", PLANNED)
@settings(max_examples=40, deadline=None)
@given(shares=fractions, alpha=st.floats(1e-5, 0.25), more=st.floats(1.0, 3.0))
def test_a_larger_alpha_never_lowers_a_level(mode, shares, alpha, more):
    assert level(mode, min(0.3, alpha * more), shares) >= level(mode, alpha, shares) * (1 - 1e-9)


@pytest.mark.parametrize("mode", PLANNED)
@settings(max_examples=30, deadline=None)
@given(shares=fractions, alpha=st.floats(1e-4, 0.2))
def test_a_level_lies_between_its_increment_and_alpha(mode, shares, alpha):
    before = spent(mode, alpha, shares[-2]) if len(shares) > 1 else 0.0
    found = level(mode, alpha, shares)
    assert spent(mode, alpha, shares[-1]) - before <= found * (1 + 1e-6) + 1e-12
    assert found <= alpha * (1 + 1e-6)


def test_later_looks_do_not_change_earlier_levels_and_a_repeated_look_is_the_same_look():
    assert boundary("group_sequential", 0.05, EIGHT)[:3] == boundary("group_sequential", 0.05, EIGHT[:3])
    assert level("group_sequential", 0.05, [0.5, 0.5]) == level("group_sequential", 0.05, [0.5])


def test_looks_too_close_to_tell_apart_still_spend_no_more():
    levels = boundary("group_sequential", 0.05, [0.5, 0.5 + 1e-6, 1.0])
    assert levels[1] == pytest.approx(
        spent("group_sequential", 0.05, 0.5 + 1e-6) - spent("group_sequential", 0.05, 0.5)
    )
    assert levels[2] == pytest.approx(level("group_sequential", 0.05, [0.5, 1.0]), rel=1e-3)


@pytest.mark.parametrize(
    ("mode", "alpha", "shares"),
    [
        ("weekly", 0.05, [1.0]), ("fixed", 0.0, [1.0]), ("group_sequential", 0.05, []),
        ("group_sequential", 0.05, [0.5, 0.4]), ("group_sequential", 0.05, [0.0, 1.0]), ("whole_suite", 0.05, [1.2]),
    ],
)  # fmt: skip
def test_looks_that_make_no_sense_are_refused(mode, alpha, shares):
    with pytest.raises(ValueError, match=r"looks|alpha"):
        level(mode, alpha, shares)


def test_the_price_of_looks():
    assert inflation("fixed", 0.05, 0.8, 8) == inflation("whole_suite", 0.05, 0.8, 8) == 1.0
    assert 1.0 < inflation("group_sequential", 0.05, 0.8, 2) < inflation("group_sequential", 0.05, 0.8, 8) < 1.06
    assert inflation("anytime", 0.05, 0.8, 8) > 2.0


def test_clear_effects_end_early_and_the_margin_itself_late():
    for mode in ("group_sequential", "anytime", "whole_suite"):
        shares = [expected_share(mode, 0.05, 8, drift) for drift in (0.0, 2.0, 4.0, 8.0)]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] > 0.9
        assert shares[-1] < 0.35
        assert expected_share(mode, 0.05, 8, -4.0) == pytest.approx(shares[2], abs=1e-6)
        assert expected_share(mode, 0.05, 1, 4.0) == 1.0
    assert expected_share("fixed", 0.05, 8, 4.0) == 1.0


def test_expected_share_agrees_with_simulation():
    rng = np.random.default_rng(2)
    times = np.array(EIGHT)
    walk = (rng.normal(size=(40_000, 8)) * math.sqrt(1 / 8)).cumsum(axis=1) + 2.5 * times
    bounds = np.array(z_values(boundary("group_sequential", 0.05, EIGHT)))
    over = np.abs(walk / np.sqrt(times)) >= bounds
    used = np.where(over.any(axis=1), times[over.argmax(axis=1)], 1.0).mean()
    assert expected_share("group_sequential", 0.05, 8, 2.5) == pytest.approx(used, abs=0.005)
