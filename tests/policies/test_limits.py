"""Budgets: never more than the limit in a burst, an honest time to wait, and what is not used is given back."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.access import limits as limits_module
from policies.access.authorize import Caller
from policies.access.limits import Limits
from policies.wire.refusal import Refusal


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


# ---- tokens and places ---------------------------------------------------------------------------------------------


def caller(name: str = "mia", **attributes: Any) -> Caller:
    return Caller(name, frozenset(), attributes)


def refusal(limits: Limits, who: Caller, tokens: int) -> Refusal:
    with pytest.raises(Refusal) as caught:
        limits.admit(who, tokens)
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    return caught.value


def test_tokens_are_reserved_and_what_was_not_used_is_given_back() -> None:
    limits, who = Limits(clock=Clock()), caller(tokens_per_minute=100)
    first = limits.admit(who, 80)
    assert "100 tokens a minute" in refusal(limits, who, 80).message
    first.settle(10)
    first.settle(0)  # only the first one counts
    second = limits.admit(who, 90)
    refusal(limits, who, 1)
    second.settle(None)
    assert refusal(limits, who, 1).retry_after == 1
    assert refusal(limits, who, 60).retry_after == 36


def test_more_tokens_than_reserved_are_owed() -> None:
    clock = Clock()
    limits, who = Limits(clock=clock), caller(tokens_per_minute=60)
    limits.admit(who, 10).settle(120)
    assert refusal(limits, who, 1).retry_after == 61
    clock.now += 61
    limits.admit(who, 1).settle(-5)  # nobody uses less than nothing
    refusal(limits, who, 61)


def test_a_day_of_tokens() -> None:
    clock = Clock()
    limits, who = Limits(clock=clock), caller(tokens_per_day=8640, tokens_per_minute=8000)
    limits.admit(who, 8000)
    assert "8640 tokens a day" in refusal(limits, who, 700).message
    assert refusal(limits, who, 700).retry_after == 600
    clock.now += 600
    limits.admit(who, 700)


def test_a_request_that_never_fits_says_so() -> None:
    found = refusal(Limits(clock=Clock()), caller(tokens_per_minute=100), 101)
    assert (found.retry_after, "this request alone" in found.message) == (3600, True)


def test_places_are_freed_once() -> None:
    limits, who = Limits(clock=Clock()), caller(concurrent_requests=2)
    running = [limits.admit(who, 5) for _ in range(2)]
    assert (refusal(limits, who, 5).retry_after, refusal(limits, who, 5).message) == (1, "more than 2 requests at once")
    limits.take(who)  # asks for no engine
    running[0].settle(5)
    running[0].settle(5)
    limits.admit(who, 5)
    refusal(limits, who, 5)
    assert refusal(limits, caller("ivy", concurrent_requests=0), 1).retry_after == 3600


def test_a_refused_request_spends_nothing() -> None:
    limits, who = Limits(clock=Clock()), caller(requests_per_minute=2, tokens_per_minute=10)
    for _ in range(5):
        refusal(limits, who, 11)
    limits.admit(who, 10)
    limits.take(who)


def test_every_key_and_token_of_a_principal_spends_from_one_budget() -> None:
    limits = Limits(clock=Clock())
    limits.admit(Caller("mia", frozenset(), {"tokens_per_minute": 100}, "one"), 60)
    refusal(limits, Caller("mia", frozenset({"g"}), {"tokens_per_minute": 100}, "two"), 60)
    limits.admit(Caller("token:corp:mia", frozenset(), {"tokens_per_minute": 100}, "one"), 60)


def test_another_limit_is_no_fresh_budget() -> None:
    limits = Limits(clock=Clock())
    for _ in range(20):
        for limit in (100, 101):
            with contextlib.suppress(Refusal):
                limits.admit(caller(tokens_per_minute=limit), 10)
    refusal(limits, caller(tokens_per_minute=101), 2)
    limits.admit(caller(tokens_per_minute=120), 19)


@pytest.mark.parametrize("name", ["tokens_per_minute", "tokens_per_day", "concurrent_requests"])
def test_other_limits_that_are_no_numbers_deny(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        Limits(clock=Clock()).admit(caller(**{name: "many"}), 1)
    assert caught.value.status == 403


def test_no_clock_that_jumps_back_refills() -> None:
    clock = Clock()
    limits, who = Limits(clock=clock), caller(requests_per_minute=2)
    assert [_takes(limits, who) for _ in range(3)] == [True, True, False]
    for jump in (-500.0, 0.0, 100.0):
        clock.now += jump
        assert not _takes(limits, who)


def test_principals_who_owe_nothing_are_forgotten() -> None:
    clock = Clock()
    limits = Limits(clock=clock)
    staying = limits.admit(caller("staying", concurrent_requests=1), 1)
    for number in range(5000):
        clock.now += 1
        limits.take(caller(f"c{number}", requests_per_minute=60))
    assert limits.accounts < 1200
    refusal(limits, caller("staying", concurrent_requests=1), 1)
    staying.settle(None)


def test_there_is_room_for_so_many_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "MOST_ACCOUNTS", 5)
    monkeypatch.setattr(limits_module, "FIRST_SWEEP", 2)
    clock = Clock()
    limits = Limits(clock=clock)
    for number in range(5):
        limits.take(caller(f"c{number}", requests_per_minute=1))
    with pytest.raises(Refusal) as caught:
        limits.take(caller("one more", requests_per_minute=1))
    assert caught.value.status == 503
    limits.take(Caller("without limits"))
    clock.now += 60
    limits.take(caller("one more", requests_per_minute=1))


LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "requests_per_minute": st.integers(0, 8), "tokens_per_minute": st.integers(0, 90),
        "tokens_per_day": st.integers(0, 200), "concurrent_requests": st.integers(0, 3),
    },
)  # fmt: skip
STEPS = st.lists(st.tuples(st.floats(0, 20), st.integers(0, 60), st.none() | st.integers(0, 80)), max_size=12)


@settings(max_examples=200, deadline=None)
@given(few=LIMITS, more=LIMITS, steps=STEPS, tokens=st.integers(0, 90))
def test_one_more_budget_never_admits_more(
    few: dict[str, int], more: dict[str, int], steps: list[tuple[float, int, int | None]], tokens: int
) -> None:
    clock = Clock()
    both = {**more, **few}
    history = [(Limits(clock=clock), few), (Limits(clock=clock), both)]
    for wait, asked, used in steps:  # the same requests run under both, when both let them in
        clock.now += wait
        admissions = []
        for limits, attributes in history:
            with contextlib.suppress(Refusal):
                admissions.append(limits.admit(caller(**attributes), asked))
        for admission in admissions:
            admission.settle(used if len(admissions) == 2 else 0)
    outcomes = [_admits(limits, caller(**attributes), tokens) for limits, attributes in history]
    spent = [_spent(limits) for limits, _ in history]
    if all(small <= big + 1e-6 for small, big in zip(*spent, strict=True)):
        assert outcomes[0] or not outcomes[1]


def _spent(limits: Limits) -> list[float]:
    account = limits._accounts.get("mia")
    return [*account.spent] if account is not None else [0.0, 0.0, 0.0]


def _admits(limits: Limits, who: Caller, tokens: int) -> bool:
    try:
        limits.admit(who, tokens)
    except Refusal:
        return False
    return True


@settings(max_examples=100, deadline=None)
@given(limit=st.integers(1, 500), steps=st.lists(st.tuples(st.floats(0, 40), st.integers(1, 200)), max_size=60))
def test_no_minute_sees_more_than_twice_the_tokens(limit: int, steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    limits, used = Limits(clock=clock), []
    for wait, tokens in steps:
        clock.now += wait
        if _admits(limits, caller(tokens_per_minute=limit), tokens):
            used.append((clock.now, tokens))
    for start, _ in used:
        assert sum(tokens for moment, tokens in used if start <= moment < start + 60) <= 2 * limit
