"""The decision log: everything queued reaches the disk, in order, once; failures are kept and retried."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from policies.audit import DECISION, INTENT, DecisionLog, JournalDown
from registry.journal import Journal, read_segment
from tests.policies.running import Written, until


def test_group_mode_writes_all_in_order_in_the_background(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w")
    log = DecisionLog(journal.append, endpoint="prod")
    for number in range(5000):
        assert log.outcome(f"hr-{number}", {"n": number}) is None
    assert log.close()
    journal.close()
    events = [frame.event for path in sorted(tmp_path.glob("*.seg")) for frame in read_segment(path)]
    decisions = [event for event in events if event.kind == DECISION]
    assert [event.body["n"] for event in decisions] == list(range(5000))
    assert {event.actor for event in decisions} == {"endpoint:prod"}
    assert decisions[7].subject == "hr-7"


def test_group_mode_leaves_out_intents_that_say_nothing_more() -> None:
    written = Written()
    log = DecisionLog(written, endpoint="prod", window_s=0.05)
    log.intent("a", {})
    log.outcome("a", {})
    log.intent("b", {})
    until(lambda: log.waiting == 0)
    log.outcome("b", {})
    assert log.close()
    assert [(kind, subject) for kind, subject, _, _ in written.records] == [
        (DECISION, "a"), (INTENT, "b"), (DECISION, "b"),
    ]  # fmt: skip


def test_strict_mode_waits_for_the_disk() -> None:
    gate = threading.Event()
    order: list[str] = []

    def append(records: Sequence[tuple[str, str, dict[str, Any], str]]) -> None:
        gate.wait(5)
        order.extend(f"{kind} written" for kind, _, _, _ in records)

    async def request() -> None:
        log = DecisionLog(append, endpoint="prod", mode="strict")
        waiter = log.intent("a", {})
        assert waiter is not None
        await asyncio.sleep(0.05)
        assert not waiter.done()
        gate.set()
        await waiter
        order.append("engine")
        done = log.outcome("a", {})
        assert done is not None
        await done
        order.append("end mark")
        assert log.close()

    asyncio.run(request())
    assert order == [f"{INTENT} written", "engine", f"{DECISION} written", "end mark"]


def test_a_failed_write_is_told_kept_and_retried() -> None:
    written = Written()
    written.broken = True

    async def request() -> DecisionLog:
        log = DecisionLog(written, endpoint="prod", mode="strict")
        waiter = log.outcome("a", {"n": 1})
        assert waiter is not None
        with pytest.raises(JournalDown):
            await waiter
        assert not log.healthy
        return log

    log = asyncio.run(request())
    written.broken = False
    until(lambda: log.healthy)
    assert log.close()
    assert written.of(DECISION) == [{"n": 1}]


def test_closing_says_when_something_could_not_be_written() -> None:
    written = Written()
    written.broken = True
    log = DecisionLog(written, endpoint="prod", window_s=0.0)
    log.outcome("a", {})
    assert not log.close(3)
    assert log.waiting == 1


def test_many_threads_of_work_lose_nothing() -> None:
    written = Written()
    log = DecisionLog(written, endpoint="prod", window_s=0.001)

    def work(start: int) -> None:
        for number in range(start, start + 500):
            log.outcome(str(number), {})
            if number % 100 == 0:
                time.sleep(0.002)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.close()
    assert sorted(int(subject) for _, subject, _, _ in written.records) == list(range(4000))
