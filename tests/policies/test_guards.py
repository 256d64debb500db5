"""The guard worker: code of rules in processes of their own; whatever goes wrong there, the text is not passed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace as changed
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.enforcement.engine import Enforcer
from policies.enforcement.guard_rules import GuardRule
from policies.enforcement.scan import CompiledBundle, compile_side
from policies.guarding import guards
from policies.guarding.guard_worker import error_spans, replace
from policies.guarding.guards import GuardOutcome, GuardPool, workers_of
from registry.errors import EngineFailure
from tests.policies.enforcing import rules_of
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"{ROOT}/tests/stubs/odd_rules.py:odd"
ODD = f"{ROOT}/tests/stubs/validators.py:Odd"
SHOUTING = f"{ROOT}/examples/quickstart/policy/validators.py:NoShouting"


def rule(name: str = "odd", action: str = "block", deadline_s: float = 10.0, **fields: Any) -> GuardRule:
    return GuardRule(
        **{
            "id": name, "type": "guard", "action": action, "validator": PYTHON, "kwargs": {}, "kind": "python",
            "deadline_s": deadline_s, **fields,
        }
    )  # fmt: skip


def pool_of(*rules: GuardRule, workers: int = 1, spares: int = 1) -> GuardPool:
    pool = GuardPool(workers, spares)
    pool.start(rules)
    return pool


@pytest.fixture(scope="module")
def pool() -> Iterator[GuardPool]:
    again = PYTHON.replace(":odd", ":odd_again")
    running = pool_of(rule("spans", "redact", kwargs={"also": "me"}), rule(validator=again))
    yield running
    running.close()


def ask(pool: GuardPool, text: str, deadline_s: float = 20.0, **how: Any) -> GuardOutcome:
    return asyncio.run(pool.validate(text, deadline_s, **how))


@pytest.mark.parametrize(
    "text", ["calm \u00e9 words", "none", "print", "\U0001f600 \ud800".encode("utf-8", "replace").decode()]
)
def test_a_good_text_passes_unchanged(pool: GuardPool, text: str) -> None:
    assert ask(pool, text) == GuardOutcome(True, "", "", text, "")


@pytest.mark.parametrize(
    ("text", "left", "reason"),
    [
        ("spans", "[REDACTED:guard]ns", "2 spans"),
        ("outside", "[REDACTED:guard]", "1 spans"),
        ("fail", "[REDACTED:guard]", "the function says no"),
        ("words", "[REDACTED:guard]", "these words"),
        ("me", "[REDACTED:guard]", "also me"),
    ],
)
def test_what_a_function_returns(pool: GuardPool, text: str, left: str, reason: str) -> None:
    assert ask(pool, text) == GuardOutcome(False, "spans", "redact", left, reason, ("spans",))


def test_a_block_names_its_rule_and_leaves_nothing(pool: GuardPool) -> None:
    assert ask(pool, "second words") == GuardOutcome(False, "odd", "block", "", "these words", ("odd",))
    assert ask(pool, "second words", exempt=frozenset({"odd"})).ok
    assert ask(pool, "second words", exempt=frozenset({"odd", "spans"})).ok


@pytest.mark.parametrize("text", ["raise", "network", "process", "memory", "number", "truths"])
def test_code_that_breaks_or_reaches_out_blocks(pool: GuardPool, text: str) -> None:
    before = pool.replaced
    outcome = ask(pool, text)
    assert (outcome.ok, outcome.rule, outcome.action, outcome.text) == (False, "spans", "block", "")
    assert "raised" in outcome.reason
    assert pool.replaced == before


@pytest.mark.parametrize("text", ["hang", "spin", "exit"])
def test_deadline_and_crash_block_and_the_worker_comes_back(text: str) -> None:
    pool = pool_of(rule(deadline_s=1.5))
    try:
        asyncio.run(_ready(pool))
        gone = ask(pool, text)
        assert (gone.ok, gone.rule, gone.action, gone.text) == (False, "odd", "block", "")
        assert ("no answer within 1.5 s" if text != "exit" else "ConnectionError") in gone.reason
        assert ask(pool, "fine").ok
        assert pool.replaced == 1
    finally:
        pool.close()


async def _ready(pool: GuardPool) -> None:
    """Wait until every process of an idle pool, spares too, has built its rules."""
    for process in pool._idle:
        await process.become_ready()


def test_each_rule_has_its_own_deadline_and_is_the_one_that_is_named() -> None:
    again = PYTHON.replace(":odd", ":odd_again")
    pool = pool_of(rule("patient"), rule("hasty", deadline_s=0.5, validator=again))
    try:
        asyncio.run(_ready(pool))
        assert ask(pool, "second hang").rule == "hasty"
        assert re.search(r"no answer within 0\.[0-3]\d* s", ask(pool, "second hang", 0.4).reason)
    finally:
        pool.close()


def test_texts_queue_and_share_workers() -> None:
    pool = pool_of(rule(), workers=2, spares=0)

    async def both() -> list[GuardOutcome]:
        return await asyncio.gather(*(pool.validate(text, 20.0) for text in ("one", "fail", "two", "three", "four")))

    try:
        found = [(outcome.ok, outcome.text) for outcome in asyncio.run(both())]
    finally:
        pool.close()
    assert found == [(True, "one"), (False, ""), (True, "two"), (True, "three"), (True, "four")]


def test_the_queue_is_bounded_and_a_wait_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "MOST_WAITING", 1)
    pool = pool_of(rule(deadline_s=3.0), spares=0)

    async def three() -> list[GuardOutcome]:
        slow = asyncio.create_task(pool.validate("hang", 5.0))
        await asyncio.sleep(0.05)
        waits = asyncio.create_task(pool.validate("waits", 1.0))
        await asyncio.sleep(0.05)
        return [await pool.validate("is refused", 5.0), await waits, await slow]

    try:
        refused, waited, hung = asyncio.run(three())
    finally:
        pool.close()
    assert "there is no guard process" in refused.reason
    assert "no guard process was free in time" in waited.reason
    assert "no answer within 3 s" in hung.reason
    assert not any(outcome.ok for outcome in (refused, waited, hung))


def test_a_caller_who_leaves_does_not_mix_answers_up(pool: GuardPool) -> None:
    async def leave() -> GuardOutcome:
        task = asyncio.create_task(pool.validate("second words", 20.0))
        await asyncio.sleep(0.001)
        task.cancel()
        return await pool.validate("mine", 60.0)

    outcome = asyncio.run(leave())
    assert (outcome.ok, outcome.text) == (True, "mine")


def test_python_rules_alone_load_no_guardrails_and_nothing_of_ours() -> None:
    pool = pool_of(rule(), spares=0)
    try:
        maps = Path(f"/proc/{pool._idle[0].popen.pid}/maps").read_text()
        assert "pydantic_core" not in maps
        assert "numpy" not in maps
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("validator", PYTHON.replace(":odd", ":gone"), "AttributeError"),
        ("validator", PYTHON.replace(":odd", ":NOT_A_FUNCTION"), "not a function"),
        ("validator", "no_such_module_here:f", "ModuleNotFoundError"),
        ("memory_mb", 8, "the guard worker did not start"),
    ],
)
def test_code_that_cannot_be_built_stops_the_start(field: str, value: Any, words: str) -> None:
    with pytest.raises(EngineFailure, match=words):
        pool_of(changed(rule(), **{field: value}))


def test_a_pool_that_cannot_start_again_blocks_until_it_can(tmp_path: Path) -> None:
    file = tmp_path / "rules.py"
    good = "import os\n\ndef f(text):\n    if text == 'exit':\n        os._exit(1)\n"
    file.write_text(good)
    pool = pool_of(rule(validator=f"{file}:f", deadline_s=2.0), spares=0)
    try:
        file.write_text("raise SystemExit\n")
        assert not ask(pool, "exit").ok
        assert not ask(pool, "fine").ok
        file.write_text(good)
        until(lambda: ask(pool, "fine").ok)
    finally:
        pool.close()


def test_without_rules_nothing_is_started() -> None:
    idle = pool_of()
    assert ask(idle, "text") == GuardOutcome(True, "", "", "text", "")
    idle.close()


def test_the_process_ends_with_its_parent() -> None:
    pool = pool_of(rule(), spares=0)
    process = pool._idle[0]
    process.socket.close()
    assert process.popen.wait(timeout=20) == 0
    pool.close()


def test_pools_by_surface_and_input_share_processes() -> None:
    code = {"kind": "python", "function": "odd_rules.py:odd"}
    rules = rules_of(
        {**code, "side": "output", "surfaces": ["chat"]}, {**code, "side": "both", "surfaces": ["chat", "completions"]}
    )
    sides = compile_side(rules, "input"), compile_side(rules, "output")
    enforcer = Enforcer(CompiledBundle("test:1", "sha256:test", ROOT / "tests" / "stubs", *sides))
    heard: list[str] = []
    pools = workers_of(enforcer, spares=0, progress=heard.append)
    try:
        assert sorted(pools) == ["chat", "completions", "input"]
        assert pools["completions"] is pools["input"]
        assert heard == ["r0, r1", "r1"]
        assert ask(pools["chat"], "fail").rule == "r0"
        assert ask(pools["input"], "fail").rule == "r1"
    finally:
        for pool in pools.values():
            pool.close()


def test_spans_are_replaced_and_senseless_ones_take_the_whole() -> None:
    assert replace("spans abcdef", [(6, 9), (8, 11)], "#") == "spans #f"
    assert replace("spans abcdef", [(0, 2), (4, 5)], "#") == "#an# abcdef"
    assert replace("spans abcdef", [(0, 2), (4, 5)], "") == "**an* abcdef"
    for senseless in (None, [], [(1, 99)], [(3, 3)], [(-1, 2)]):
        assert replace("text", senseless, "#") == "#"
        assert replace("text", senseless, "") == "****"


@given(st.text(max_size=20), st.lists(st.tuples(st.integers(-1, 21), st.integers(-1, 21)), max_size=4))
def test_no_character_of_a_span_is_left(text: str, spans: list[tuple[int, int]]) -> None:
    masked = replace(text, spans, "")
    sound = bool(spans) and all(0 <= start < end <= len(text) for start, end in spans)
    inside = {place for start, end in spans for place in range(start, end)} if sound else set(range(len(text)))
    assert masked == "".join("*" if place in inside else char for place, char in enumerate(text))


def test_error_spans_that_are_none() -> None:
    assert error_spans([SimpleNamespace(start=1, end=2)]) == [(1, 2)]
    assert error_spans(None) == []
    for senseless in ([SimpleNamespace(start="x", end=2)], [object()], 7):
        assert error_spans(senseless) is None
