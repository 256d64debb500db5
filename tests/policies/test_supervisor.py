"""Engines that end, hang or do not start: noticed at once, started again after a while, given up in the end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from policies import serve
from policies.serving import supervisor
from policies.serving.plan import Plan, Upkeep
from policies.serving.steady import steady_now
from policies.serving.supervisor import Supervisor, exit_of, pause_seconds, probe
from registry.errors import EngineFailure
from registry.records import Asset
from registry.workspace import Workspace
from tests.policies.serving import Handle, add_caller, ask, events, while_serving
from tests.stubs.engine import FakeEngine, Script
from tests.waiting import until

SOON = Upkeep(restart_wait_s=0.05, restart_longest_s=0.1, probe_s=0.1, probe_deadline_s=1.0, restart_limit=3)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.01)


class Told:
    """What a supervisor reported, in order."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def down(self, why: str) -> None:
        self.said.append(f"down: {why}")

    def up(self, attempts: int, seconds: float) -> None:
        self.said.append(f"up after {attempts}")

    def failed(self, attempt: int, why: str) -> None:
        self.said.append(f"failed: {why}")

    def gave_up(self, attempts: int, why: str) -> None:
        self.said.append("gave up")


def attended(uds: Path, start: Callable[[], Any], visit: Callable[[Supervisor, Told], Awaitable[None]]) -> Told:
    """Supervise an engine that `start` starts, and visit it meanwhile."""
    told = Told()

    async def main() -> None:
        watched = Supervisor(start(), uds, start, SOON, told)
        task = asyncio.create_task(watched.attend())
        try:
            async with asyncio.timeout(10):
                await visit(watched, told)
        finally:
            task.cancel()
            watched.close()

    asyncio.run(main())
    return told


async def said(told: Told, line: str, count: int = 1) -> None:
    while told.said.count(line) < count:
        await asyncio.sleep(0.01)


@pytest.fixture
def engines_made(tmp_path: Path) -> tuple[Callable[[], Handle], list[Handle]]:
    made: list[Handle] = []

    def start() -> Handle:
        handle = Handle(tmp_path / "engine.sock")
        handle.wait_ready(1)
        made.append(handle)
        return handle

    return start, made


@given(st.integers(0, 200), st.floats(0, 1), st.floats(0.01, 10), st.floats(10, 600))
def test_pauses_grow_to_a_limit_and_are_never_nothing(failures: int, chance: float, first: float, most: float) -> None:
    upkeep = Upkeep(restart_wait_s=first, restart_longest_s=most)
    pause = pause_seconds(upkeep, failures, chance)
    assert 0 < first / 2 <= pause <= most
    assert pause <= pause_seconds(upkeep, failures + 1, chance)
    assert pause >= pause_seconds(upkeep, failures, 0.0) / 2


def test_an_engine_that_ended_is_started_again(tmp_path: Path, engines_made: Any) -> None:
    start, made = engines_made

    async def visit(watched: Supervisor, told: Told) -> None:
        for count in (1, 2):
            made[-1].crash()
            await said(told, "up after 1", count)
        assert watched.engine is made[-1]
        assert await probe(watched.uds)

    told = attended(tmp_path / "engine.sock", start, visit)
    assert told.said == ["down: it ended", "up after 1"] * 2
    assert len(made) == 3
    assert all(handle.stopped for handle in made)


def test_an_engine_that_is_silent_counts_as_ended(tmp_path: Path, engines_made: Any) -> None:
    start, made = engines_made

    async def visit(watched: Supervisor, told: Told) -> None:
        made[0].engine.stop()  # nobody listens any more, and the process lives on
        await said(told, "up after 1")
        assert made[0].stopped

    told = attended(tmp_path / "engine.sock", start, visit)
    assert told.said[0] == "down: it did not answer within 1 s"


def test_after_too_many_failures_it_is_given_up_until_someone_asks(tmp_path: Path, engines_made: Any) -> None:
    start, made = engines_made
    broken = False

    def begin() -> Handle:
        if broken:
            raise EngineFailure("no memory", hint="add some")
        handle: Handle = start()
        return handle

    async def visit(watched: Supervisor, told: Told) -> None:
        nonlocal broken
        broken = True
        made[0].crash()
        await said(told, "gave up")
        count = len(told.said)
        await asyncio.sleep(0.3)
        assert len(told.said) == count
        broken = False
        watched.again()
        await said(told, "up after 4")

    told = attended(tmp_path / "engine.sock", begin, visit)
    assert told.said == ["down: it ended", *["failed: no memory"] * 3, "gave up", "up after 4"]


def test_one_that_comes_up_and_ends_again_is_given_up_too(tmp_path: Path, engines_made: Any) -> None:
    start, made = engines_made

    async def visit(watched: Supervisor, told: Told) -> None:
        while "gave up" not in told.said:
            if made[-1].alive():
                made[-1].crash()
            await asyncio.sleep(0.01)

    told = attended(tmp_path / "engine.sock", start, visit)
    assert told.said.count("up after 1") == SOON.restart_limit


def test_a_probe_is_a_real_question(tmp_path: Path) -> None:
    with FakeEngine(tmp_path / "engine.sock") as engine:
        assert asyncio.run(probe(engine.uds))
        engine.script = Script(raw=b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")
        assert not asyncio.run(probe(engine.uds))
    assert not asyncio.run(probe(engine.uds))


def test_the_end_of_a_process_is_known_at_once() -> None:
    async def main() -> float:
        child = await asyncio.create_subprocess_exec("sleep", "60")
        with exit_of(child.pid) as ended:
            await asyncio.sleep(0.05)
            assert not ended.is_set()
            child.kill()
            begun = steady_now()
            await asyncio.wait_for(ended.wait(), 5)
            took = steady_now() - begun
        await child.wait()
        return took

    for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            assert runner.run(main()) < 1


# ---- at the endpoint ---------------------------------------------------------------------------------------------


def fail(self: Handle, timeout: float, progress: Any = None) -> None:
    raise EngineFailure("no memory", hint="add some")


def test_an_endpoint_whose_engine_ended_says_so_and_recovers(ws: Workspace, prod: Asset, started: list[Any]) -> None:
    key = add_caller(ws)

    def visit(url: str) -> None:
        started[0].handle.crash()
        with pytest.raises(openai.InternalServerError) as refused:
            ask(url, key)
        assert refused.value.status_code == 503
        assert int(refused.value.response.headers["retry-after"]) >= 1
        until(lambda: httpx.get(f"{url}/ready").status_code == 200)
        assert ask(url, key) == "hello"

    while_serving(ws, visit, Plan("prod", upkeep=Upkeep(restart_wait_s=2.0)))
    assert [event["reason"] for event in events(ws, "engine.stopped")] == ["it ended"]
    assert [event["attempts"] for event in events(ws, "engine.restarted")] == [1]
    assert len(started) == 2


def test_changed_weights_are_not_started_again(ws: Workspace, prod: Asset, started: list[Any]) -> None:
    """Somebody wrote to the private copy: the attempt fails and says so; the next one has a fresh, verified copy."""

    def visit(url: str) -> None:
        file = started[0].model_dir / "model.safetensors"
        file.chmod(0o644)
        file.write_bytes(b"other weights")
        started[0].handle.crash()
        until(lambda: len(started) == 2 and httpx.get(f"{url}/ready").status_code == 200)
        assert started[1].model_dir != started[0].model_dir
        assert (started[1].model_dir / "model.safetensors").read_bytes() == bytes(range(256)) * 64

    while_serving(ws, visit, Plan("prod", upkeep=SOON))
    assert "model.safetensors" in events(ws, "engine.start_failed")[0]["reason"]


def test_one_replica_answers_while_another_is_down(
    ws: Workspace, prod: Asset, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = add_caller(ws)

    def visit(url: str) -> None:
        assert [one.handle.engine.uds.name for one in started] == ["engine.sock", "engine-1.sock"]
        wait_ready = Handle.wait_ready
        monkeypatch.setattr(Handle, "wait_ready", fail)
        started[0].handle.crash()
        until(lambda: len(events(ws, "engine.given_up")) == 1)
        assert httpx.get(f"{url}/ready").status_code == 200
        assert [ask(url, key) for _ in range(3)] == ["hello"] * 3
        assert len(started[1].handle.engine.requests) == 3
        monkeypatch.setattr(Handle, "wait_ready", wait_ready)
        os.kill(os.getpid(), signal.SIGHUP)  # asks for another try
        until(lambda: len(events(ws, "engine.restarted")) == 1)

    while_serving(ws, visit, Plan("prod", upkeep=Upkeep(replicas=2, restart_limit=1, restart_wait_s=0.05)))


def test_an_endpoint_ends_with_its_engine_where_the_settings_say_so(
    ws: Workspace, prod: Asset, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(url: str) -> None:
        monkeypatch.setattr(Handle, "wait_ready", fail)
        started[0].handle.crash()

    upkeep = Upkeep(restart_limit=1, restart_wait_s=0.05, engine_down="stop")
    with pytest.raises(EngineFailure, match="keeps failing: no memory"):
        serve.run(ws, Plan("prod", upkeep=upkeep), on_ready=crash)
    assert events(ws, "endpoint.stopped") == [{"decisions": 0, "drained": True}]
