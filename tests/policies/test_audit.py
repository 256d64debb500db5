"""The decision log: everything queued reaches the disk, in order, once; failures are kept and retried."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from policies.endpoint import audit
from policies.endpoint.audit import DECISION, INTENT, UNLOGGED, DecisionLog, JournalDown
from registry.journal import Journal, read_segment
from tests.policies.asking import HTTP, chat, post
from tests.policies.running import Written, gateway_running
from tests.stubs.engine import Script
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]


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


def test_a_log_is_written_to_its_end_when_those_who_wait_are_gone() -> None:
    written = Written()
    written.broken = True
    log = DecisionLog(written, endpoint="prod", mode="strict")

    async def request() -> None:
        log.outcome("a", {"n": 1})

    asyncio.run(request())  # its event loop is closed now
    until(lambda: not log.healthy)
    written.broken = False
    assert log.close()
    assert written.of(DECISION) == [{"n": 1}]


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


def test_a_full_disk_is_said_and_what_was_queued_is_written_when_there_is_room(tmp_path: Path) -> None:
    """The kernel refuses the bytes: the limit on file size of a child process is the full disk."""
    script = tmp_path / "full.py"
    script.write_text(FULL_DISK)
    done = subprocess.run(
        [sys.executable, "-P", str(script), str(tmp_path / "journal")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["down", "up"]
    events = [frame.event for path in sorted((tmp_path / "journal").glob("*.seg")) for frame in read_segment(path)]
    decided = [event.body["n"] for event in events if event.kind == DECISION]
    assert decided == list(range(len(decided)))
    assert len(decided) == 401


FULL_DISK = """
import resource, signal, sys, time
from pathlib import Path
from policies.endpoint.audit import DecisionLog
from registry.journal import Journal

def until(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
folder.mkdir()
journal = Journal(folder, "w")
log = DecisionLog(journal.write, endpoint="prod", window_s=0.001)
for number in range(200):
    log.outcome(f"hr-{number}", {"n": number})
until(lambda: not log.waiting)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (sum(path.stat().st_size for path in folder.iterdir()) + 1000, hard))
for number in range(200, 400):
    log.outcome(f"hr-{number}", {"n": number})
until(lambda: not log.healthy)
assert log.waiting and log.lag_s > 0
print("down")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
until(lambda: log.healthy and not log.waiting)
log.outcome("hr-400", {"n": 400})
assert log.close()
print("up")
"""


def test_refusals_that_memory_cannot_hold_are_counted_and_the_count_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "QUEUE_LIMIT", 10)
    monkeypatch.setattr(audit, "RETRY_SECONDS", 0.01)
    written = Written()
    written.broken = True
    log = DecisionLog(written, endpoint="prod", window_s=0.0)
    log.outcome("first", {"status": 200})
    until(lambda: not log.healthy)
    for number in range(100):
        log.outcome(str(number), {"status": 503})
    log.outcome("allowed", {"status": 200})
    assert log.waiting == 11
    assert log.unlogged == 91
    written.broken = False
    until(lambda: log.healthy)
    assert log.close()
    assert written.of(UNLOGGED) == [{"endpoint": "prod", "refusals": 91}]
    assert len(written.of(DECISION)) == 11


def test_a_record_that_cannot_be_written_as_json_does_not_stop_the_others(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w")
    log = DecisionLog(journal.write, endpoint="prod", window_s=0.0)
    log.outcome("good", {"n": 1})
    log.outcome("bad", {"endpoint": "prod", "principal": "\ud800", "status": 403})
    log.outcome("better", {"n": 2})
    assert log.close()
    events = [frame.event for path in sorted(tmp_path.glob("*.seg")) for frame in read_segment(path)]
    found = {event.subject: event.body for event in events if event.kind == DECISION}
    assert set(found) == {"good", "bad", "better"}
    assert found["bad"] == {"endpoint": "prod", "principal": "?", "status": 403}


# ---- strict mode, seen from the caller's side of the wire --------------------------------------------------------


class Gated(Written):
    """An append function that waits for leave before each write of a kind."""

    def __init__(self) -> None:
        super().__init__()
        self.leave = {INTENT: threading.Event(), DECISION: threading.Event()}

    def __call__(self, records: Sequence[tuple[str, str, dict[str, Any], str]]) -> None:
        for kind in {record[0] for record in records}:
            if kind in self.leave:
                assert self.leave[kind].wait(20)
        super().__call__(records)


@pytest.mark.parametrize("stream", [True, False])
def test_strict_mode_sends_no_byte_before_the_intent_and_no_end_before_the_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stream: bool
) -> None:
    gated = Gated()
    monkeypatch.setattr("tests.policies.running.Written", lambda: gated)
    with gateway_running(tmp_path, mode="strict") as run:
        run.engine.script = Script(["one ", "two "], delay=0.2 if stream else 0.0)
        body = json.dumps(chat(stream=stream)).encode()
        head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {run.keys['mia']}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")  # fmt: skip
        host, port = run.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as wire:
            wire.sendall(head.encode() + body)
            assert silent(wire)
            assert run.engine.requests == [], "the engine is not asked before the intent is durable"
            gated.leave[INTENT].set()
            if stream:
                got = wire.recv(65_536)
                assert got.startswith(b"HTTP/1.1 200 ")
            assert silent(wire, seconds=1.0, but=b"[DONE]")
            assert not gated.of(DECISION)
            gated.leave[DECISION].set()
            end = b""
            while (b"[DONE]" if stream else b"one two ") not in end:
                data = wire.recv(65_536)
                assert data, "closed before the end mark"
                end += data
        assert [row["status"] for row in gated.of(DECISION)] == [200]
        assert len(gated.of(INTENT)) == 1


def silent(wire: socket.socket, seconds: float = 0.3, but: bytes = b"") -> bool:
    """Say whether nothing comes for a while; with `but`, whether that does not come."""
    wire.settimeout(seconds)
    got = b""
    try:
        while data := wire.recv(65_536):
            got += data
            if not but:
                return False
    except TimeoutError:
        return but not in got if but else not got
    finally:
        wire.settimeout(10)
    return False


def test_an_outcome_that_cannot_be_made_durable_ends_in_an_error_not_in_an_end_mark(tmp_path: Path) -> None:
    with gateway_running(tmp_path, mode="strict") as run:
        run.engine.script = Script(["one ", "two "] * 20, delay=0.02)
        with HTTP.stream("POST", f"{run.url}/v1/chat/completions", json=chat(stream=True),
                         headers={"authorization": f"Bearer {run.keys['mia']}"}) as reply:  # fmt: skip
            lines = reply.iter_lines()
            first = next(lines)
            run.log.broken = True
            said = "\n".join([first, *lines])
        assert "log_unavailable" in said
        assert '"finish_reason":"stop"' not in said
        assert post(run, chat()).status_code == 503
        run.log.broken = False
        until(lambda: run.gateway.front.decisions.healthy)
        assert post(run, chat()).status_code == 200


def test_every_request_is_decided_once_however_callers_leave(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w")
    with gateway_running(tmp_path / "run") as run:
        run.gateway.front.decisions = DecisionLog(journal.write, endpoint="prod")
        run.engine.script = Script(["piece "] * 30, delay=0.004)
        body = json.dumps(chat(stream=True)).encode()
        head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {run.keys['mia']}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode()  # fmt: skip
        host, port = run.url.removeprefix("http://").split(":")
        rng = random.Random(7)
        for _ in range(60):
            wire = socket.create_connection((host, int(port)), timeout=10)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a goodbye
            wire.sendall(head + body)
            time.sleep(rng.random() * 0.05)
            wire.close()
        asked = len(run.engine.requests)
        until(lambda: run.gateway.front.metrics.active == 0)
        assert run.gateway.front.decisions.close()
        decided = run.gateway.front.metrics.decided
    events = [frame.event for path in sorted(tmp_path.glob("*.seg")) for frame in read_segment(path)]
    subjects = [event.subject for event in events if event.kind == DECISION]
    assert len(subjects) == len(set(subjects)) == decided
    assert asked <= decided <= 60
    assert {event.body["status"] for event in events if event.kind == DECISION} <= {200, 400, 499}
