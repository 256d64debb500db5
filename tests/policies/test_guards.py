"""The guard worker: real guardrails-ai validators in their own process; whatever goes wrong, the text is not passed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from policies.engine import GuardRule
from policies.guard_worker import redact
from policies.guards import GuardOutcome, GuardWorker
from registry.errors import EngineFailure

ROOT = Path(__file__).resolve().parents[2]
ODD = f"{ROOT}/tests/stubs/validators.py:Odd"
SHOUTING = f"{ROOT}/examples/quickstart/policy/validators.py:NoShouting"


def rule(name: str = "odd", validator: str = ODD, action: str = "block", deadline_s: float = 20.0) -> GuardRule:
    return GuardRule(name, "guard", action, validator, {}, deadline_s)


@pytest.fixture(scope="module")
def worker() -> Iterator[GuardWorker]:
    running = GuardWorker()
    running.start([rule("calm", SHOUTING, "redact"), rule()])
    yield running
    running.close()


def ask(worker: GuardWorker, text: str, deadline_s: float = 20.0) -> GuardOutcome:
    return asyncio.run(worker.validate(text, deadline_s))


def ask_once_up(worker: GuardWorker, text: str) -> GuardOutcome:
    """Ask a worker that may be starting again."""
    return ask(worker, text, 60.0)


def test_a_good_text_passes_unchanged(worker: GuardWorker) -> None:
    assert ask(worker, "calm \u00e9 words") == GuardOutcome(True, "", "", "calm \u00e9 words", "")


def test_a_failed_text_is_blocked_or_redacted(worker: GuardWorker) -> None:
    blocked = ask(worker, "fail")
    assert (blocked.ok, blocked.rule, blocked.action, blocked.text, blocked.reason) == (False, "odd", "block", "", "no")
    shouted = ask(worker, "THIS IS SHOUTED FROM THE FIRST LETTER TO THE LAST ONE")
    assert (shouted.ok, shouted.rule, shouted.action, shouted.text) == (False, "calm", "redact", "[REDACTED:guard]")


@pytest.mark.parametrize("text", ["raise", "nothing", "network", "resolve"])
def test_a_validator_that_breaks_or_wants_the_network_blocks(worker: GuardWorker, text: str) -> None:
    outcome = ask(worker, text)
    assert (outcome.ok, outcome.rule, outcome.action, outcome.text) == (False, "odd", "block", "")
    assert "secret text" not in outcome.reason


@pytest.mark.parametrize("text", ["nltk", "metrics", "print"])
def test_no_downloads_no_metrics_no_crosstalk(worker: GuardWorker, text: str) -> None:
    assert ask(worker, text).ok


def test_texts_queue(worker: GuardWorker) -> None:
    async def both() -> list[GuardOutcome]:
        return await asyncio.gather(*(worker.validate(text, 20.0) for text in ("one", "fail", "two")))

    assert [(outcome.ok, outcome.text) for outcome in asyncio.run(both())] == [
        (True, "one"),
        (False, ""),
        (True, "two"),
    ]


def test_a_caller_who_leaves_does_not_mix_answers_up(worker: GuardWorker) -> None:
    async def leave() -> GuardOutcome:
        task = asyncio.create_task(worker.validate("fail", 20.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        task.cancel()
        return await worker.validate("mine", 60.0)

    outcome = asyncio.run(leave())
    assert (outcome.ok, outcome.text) == (True, "mine")


@pytest.mark.slow
def test_deadline_and_crash_block_and_the_worker_comes_back(worker: GuardWorker) -> None:
    late = ask(worker, "hang", 0.3)
    assert (late.ok, late.action, late.text) == (False, "block", "")
    assert "no answer within 0.3 s" in late.reason
    assert ask_once_up(worker, "fine").text == "fine"
    gone = ask(worker, "exit")
    assert (gone.ok, gone.action) == (False, "block")
    assert ask_once_up(worker, "fine again").text == "fine again"


@pytest.mark.slow
def test_a_rules_own_deadline_counts() -> None:
    slow = GuardWorker()
    slow.start([rule(deadline_s=0.2)])
    try:
        assert "no answer within 0.2 s" in ask(slow, "hang", 30.0).reason
    finally:
        slow.close()


@pytest.mark.parametrize(
    ("validator", "words"),
    [
        ("no_such_module_here:C", "ModuleNotFoundError"),
        pytest.param(ODD.replace("Odd", "NotAValidator"), "not a guardrails-ai validator", marks=pytest.mark.slow),
    ],
)
def test_a_validator_that_cannot_be_built_stops_the_start(validator: str, words: str) -> None:
    failing = GuardWorker()
    with pytest.raises(EngineFailure, match=words):
        failing.start([rule(validator=validator)])
    assert ask(failing, "text").ok is False


def test_without_rules_nothing_is_started() -> None:
    idle = GuardWorker()
    idle.start([])
    assert ask(idle, "text") == GuardOutcome(True, "", "", "text", "")
    idle.close()


@pytest.mark.slow
def test_the_worker_ends_with_its_parent() -> None:
    one = GuardWorker()
    one.start([rule()])
    process = one._process
    assert process is not None
    assert isinstance(one._socket, socket.socket)
    one._socket.shutdown(socket.SHUT_RDWR)
    assert process.wait(timeout=20) == 0
    one.close()


def test_error_spans_are_replaced_and_senseless_ones_take_the_whole() -> None:
    def span(start: object, end: object) -> SimpleNamespace:
        return SimpleNamespace(start=start, end=end)

    assert redact("spans abcdef", [span(6, 9), span(8, 11)], "#") == "spans #f"
    assert redact("spans abcdef", [span(0, 2), span(4, 5)], "#") == "#an# abcdef"
    for senseless in (None, [], [span(1, 99)], [span(3, 3)], [span("x", 2)], [object()]):
        assert redact("text", senseless, "#") == "#"
