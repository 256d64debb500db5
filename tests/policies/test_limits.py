"""Token buckets: never more than the limit in any minute-deep burst, and an honest time to wait."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.authorize import Caller
from policies.limits import Limits
from policies.refusal import Refusal


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _caller(limit: Any, name: str = "mia") -> Caller:
    return Caller(name, frozenset(), {} if limit is None else {"requests_per_minute": limit}, "id")


def _takes(limits: Limits, caller: Caller) -> bool:
    try:
        limits.take(caller)
    except Refusal as refusal:
        return refusal.status != 429
    return True


def test_no_attribute_no_limit() -> None:
    limits = Limits(clock=Clock())
    assert all(_takes(limits, _caller(None)) for _ in range(1000))


def test_it_refills_evenly_and_tells_when_to_come_back() -> None:
    clock = Clock()
    limits = Limits(clock=clock)
    caller = _caller(6)
    assert [_takes(limits, caller) for _ in range(7)] == [True] * 6 + [False]
    with pytest.raises(Refusal) as caught:
        limits.take(caller)
    assert caught.value.retry_after == 10
    clock.now += 10
    assert [_takes(limits, caller), _takes(limits, caller)] == [True, False]


def test_callers_do_not_share_a_bucket_and_keys_of_one_do() -> None:
    limits = Limits(clock=Clock())
    assert _takes(limits, _caller(1, "a"))
    assert _takes(limits, _caller(1, "b"))
    assert not _takes(limits, Caller("a", frozenset(), {"requests_per_minute": 1}, "another key"))


def test_zero_means_never() -> None:
    limits = Limits(clock=Clock())
    with pytest.raises(Refusal) as caught:
        limits.take(_caller(0))
    assert caught.value.status == 429


@pytest.mark.parametrize("limit", ["ten", -1, float("nan"), float("inf"), True, [1]])
def test_a_limit_that_is_no_number_denies(limit: Any) -> None:
    with pytest.raises(Refusal) as caught:
        Limits(clock=Clock()).take(_caller(limit))
    assert caught.value.status == 403


@given(st.integers(1, 60), st.lists(st.floats(0, 5), max_size=120))
def test_no_minute_lets_more_than_twice_the_limit_through(limit: int, waits: list[float]) -> None:
    clock = Clock()
    limits = Limits(clock=clock)
    taken = []
    for wait in waits:
        clock.now += wait
        if _takes(limits, _caller(limit)):
            taken.append(clock.now)
    for start in taken:
        assert sum(start <= moment < start + 60 for moment in taken) <= 2 * limit
