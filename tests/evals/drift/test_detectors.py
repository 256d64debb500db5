"""Drift detectors: exact under no change, checked by enumeration and by a small simulation; and able to see changes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.drift.detectors import Sequential, conformal_p, e_bh, watch, window_e

RNG = np.random.default_rng


def rate(rng, share, count):
    return list((rng.random(count) < share).astype(float))


@given(st.integers(1, 25), st.integers(1, 25), st.data())
def test_a_rate_has_an_expected_e_value_of_one(first, second, data):
    ones = data.draw(st.integers(0, first + second))
    total = 0.0
    for hits in range(max(0, ones - first), min(second, ones) + 1):
        chance = math.comb(second, hits) * math.comb(first, ones - hits) / math.comb(first + second, ones)
        reference = [1.0] * (ones - hits) + [0.0] * (first - ones + hits)
        total += chance * window_e(reference, [1.0] * hits + [0.0] * (second - hits))
    assert total == pytest.approx(1.0, rel=1e-6)


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=30), st.lists(st.floats(-9, 9), min_size=1, max_size=30))
def test_only_the_order_of_sizes_matters(reference, current):
    assert window_e(reference, current) == pytest.approx(
        window_e([2 * value for value in reference], [2 * value for value in current])
    )


def test_empty_and_constant_windows_show_nothing():
    assert window_e([], [1.0]) == window_e([1.0], []) == 1.0
    assert window_e([1.0] * 40, [1.0] * 40) == window_e([0.0] * 40, [0.0] * 40) == 1.0


def test_no_change_is_hardly_ever_flagged():
    """Nominal 2.5 % over four signals. One-sample tests on a finite reference flag 42-53 % here."""
    rng, runs, alarms = RNG(1), 200, 0
    for _ in range(runs):
        values = {str(share): window_e(rate(rng, share, 150), rate(rng, share, 150)) for share in (0.02, 0.1, 0.5)}
        values["size"] = window_e(list(rng.normal(size=150)), list(rng.normal(size=150)))
        alarms += bool(e_bh(values, 0.025))
    assert alarms <= 200 * 0.025 + 2 * math.sqrt(200 * 0.025 * 0.975)


@pytest.mark.parametrize(("before", "after", "count"), [(0.02, 0.15, 300), (0.0, 0.3, 60), (0.2, 0.02, 300)])
def test_a_changed_rate_is_flagged(before, after, count):
    rng = RNG(2)
    found = [window_e(rate(rng, before, count), rate(rng, after, count)) for _ in range(20)]
    assert sum(value > 200 for value in found) >= 18


def test_shorter_answers_are_flagged_whatever_the_outliers():
    rng = RNG(3)
    reference, current = list(rng.normal(300, 40, 200)), list(rng.normal(240, 40, 200))
    reference[0] = current[0] = 1e9
    assert window_e(reference, current) > 1e6


def test_the_sequential_detector_keeps_its_false_alarm_rate():
    """Over n requests without a change, a threshold of n / alpha is crossed with probability at most alpha."""
    rng, runs, alpha, count, ends = RNG(4), 150, 0.1, 60, []
    crossed = 0
    for run in range(runs):
        detector = Sequential(rate(rng, 0.2, 60))
        peak = max(detector.feed(value, f"{run} {index}") for index, value in enumerate(rate(rng, 0.2, count)))
        crossed += peak >= count / alpha
        ends.append(detector.statistic)
    assert crossed <= runs * alpha + 2 * math.sqrt(runs * alpha * (1 - alpha))
    assert np.median(ends) <= count


def test_the_sequential_detector_finds_when():
    rng, found = RNG(5), []
    for run in range(20):
        detector = Sequential(rate(rng, 0.02, 300))
        stream = [*rate(rng, 0.02, 100), *rate(rng, 0.4, 200)]
        reached = [detector.feed(value, f"{run} {index}") >= 10_000 for index, value in enumerate(stream)]
        found.append(reached.index(True) if any(reached) else None)
    assert all(place is not None and 100 <= place < 200 for place in found)


def test_the_sequential_detector_repeats_itself():
    stream = rate(RNG(6), 0.3, 50)
    first, second = Sequential(stream), Sequential(stream)
    assert [first.feed(v, str(i)) for i, v in enumerate(stream)] == [
        second.feed(v, str(i)) for i, v in enumerate(stream)
    ]


def test_e_bh_by_hand():
    assert e_bh({"a": 59.0, "b": 29.0, "c": 1.0}, 0.05) == set()
    assert e_bh({"a": 61.0, "b": 29.0, "c": 1.0}, 0.05) == {"a"}
    assert e_bh({"a": 31.0, "b": 30.0, "c": 1.0}, 0.05) == {"a", "b"}
    assert e_bh({}, 0.05) == set()


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1e6), max_size=8), st.floats(0.01, 0.2))
def test_more_evidence_never_rejects_less(values, alpha):
    more = {name: value * 2 for name, value in values.items()}
    assert e_bh(values, alpha) <= e_bh(more, alpha)


@pytest.mark.parametrize("rates", [True, False])
def test_watching_a_window_equals_feeding_it(rates):
    rng = RNG(7)
    reference, current = rate(rng, 0.1, 80), rate(rng, 0.3, 60)
    share = (sum(reference) + sum(current)) / 140 if rates else None
    detector = Sequential(reference, share=share)
    fed = [detector.feed(value, f"refused {index}") for index, value in enumerate(current)]
    assert list(watch(reference, current, "refused", rate=rates)) == pytest.approx(fed)


def test_a_watched_rate_keeps_its_false_alarm_rate():
    """The share that is bet on comes from both windows together, which ranks do not depend on."""
    rng, runs, alpha, count = RNG(8), 200, 0.1, 100
    crossed = sum(
        watch(rate(rng, 0.05, 100), rate(rng, 0.05, count), f"{run}", rate=True).max() >= count / alpha
        for run in range(runs)
    )
    assert crossed <= runs * alpha + 2 * math.sqrt(runs * alpha * (1 - alpha))


def test_refusals_that_double_are_seen_within_a_few_thousand_requests():
    """At a threshold of 10,000: at least so many requests lie between false alarms on average."""
    rng, waits = RNG(9), []
    for run in range(15):
        stream = [*rate(rng, 0.02, 300), *rate(rng, 0.04, 3000)]
        crossed = (watch(rate(rng, 0.02, 3000), stream, f"{run}", rate=True) >= 10_000).nonzero()[0]
        waits.append(crossed[0] - 300 if len(crossed) else math.inf)
    assert sorted(waits)[7] < 1500
    assert sum(wait < 0 for wait in waits) <= 1


def test_conformal_ranks_are_uniform_whatever_the_values():
    rng = RNG(10)
    ranks = np.concatenate([conformal_p(rate(rng, 0.3, 20), rate(rng, 0.3, 40), f"{run}") for run in range(150)])
    for cut in (0.05, 0.25, 0.5, 0.9):
        assert np.mean(ranks < cut) == pytest.approx(cut, abs=3 * math.sqrt(cut * (1 - cut) / len(ranks)))


def test_weights_share_out_the_level():
    assert e_bh({"a": 39.0, "b": 1.0}, 0.05, {"a": 3.0, "b": 1.0}) == {"a"}
    assert e_bh({"a": 39.0, "b": 1.0}, 0.05, {"a": 1.0, "b": 1.0}) == set()
    assert e_bh({"a": 161.0, "b": 1.0}, 0.05, {"a": 1 / 8, "b": 7 / 8}) == {"a"}
