"""Several engine replicas behind one gateway: the least busy is asked, a dead one is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from policies.endpoint import upstream as module
from policies.endpoint.upstream import Pool, Upstream, UpstreamDown
from tests.stubs.engine import FakeEngine, Script

STREAM = b'{"stream":true}'


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[list[FakeEngine]]:
    running = [FakeEngine(tmp_path / f"{number}.sock").__enter__() for number in range(3)]
    yield running
    for one in running:
        one.stop()


def _run(pool: Pool, work: Coroutine[Any, Any, Any]) -> Any:
    async def all_of_it() -> Any:
        try:
            return await work
        finally:
            pool.close()
            await asyncio.sleep(0.01)

    return asyncio.run(all_of_it())


def _pool(engines: list[FakeEngine]) -> Pool:
    return Pool([Upstream(one.uds) for one in engines])


async def _ask(pool: Pool, body: bytes = b"{}") -> bytes:
    call = pool.call("POST", "/v1/completions", body)
    assert await call.start() == 200
    return await call.read(100_000)


def test_running_calls_are_spread_evenly_and_counted(engines: list[FakeEngine]) -> None:
    pool = _pool(engines)
    for one in engines:
        one.script = Script(["a", "b"], delay=0.02)

    async def ask() -> int:
        running = [asyncio.create_task(_ask(pool, STREAM)) for _ in range(12)]
        await asyncio.sleep(0)  # each has begun its call, none has its answer
        most = pool.busy
        await asyncio.gather(*running)
        return most

    assert _run(pool, ask()) == 12
    assert [len(one.requests) for one in engines] == [4, 4, 4]
    assert pool.busy == 0


def test_a_replica_that_nobody_listens_at_costs_no_request(engines: list[FakeEngine]) -> None:
    pool = _pool(engines)
    engines[0].stop()

    async def ask() -> None:
        await asyncio.gather(*(_ask(pool) for _ in range(20)))

    _run(pool, ask())
    assert len(engines[1].requests) + len(engines[2].requests) == 20
    assert pool.busy == 0


def test_a_call_whose_replica_dies_before_it_answers_moves_to_another(engines: list[FakeEngine]) -> None:
    pool = _pool(engines[:2])
    engines[0].script = Script(raw=b"HTTP/1.1 ")  # the beginning of an answer, never its end

    async def ask() -> list[bytes]:
        running = [asyncio.create_task(_ask(pool)) for _ in range(4)]
        await asyncio.sleep(0.05)
        engines[0].stop()
        return await asyncio.gather(*running)

    answers = _run(pool, ask())
    assert all(b'"text":"hello"' in one for one in answers)
    assert len(engines[1].requests) == 4


@pytest.mark.parametrize(("beginning", "expected"), [(False, 2), (True, 1)])
def test_a_call_is_moved_once_and_an_answer_that_began_never(tmp_path: Path, beginning: bool, expected: int) -> None:
    """Every replica hangs up on this request: it is no reason to end a third."""
    pool = Pool([Upstream(tmp_path / f"{number}.sock") for number in range(3)])
    seen: list[int] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(1)
        await reader.readuntil(b"\r\n\r\n")
        if beginning:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf")
            await writer.drain()
        writer.close()

    async def ask() -> None:
        servers = [await asyncio.start_unix_server(hang_up, tmp_path / f"{number}.sock") for number in range(3)]
        with pytest.raises(UpstreamDown):
            await _ask(pool)
        for one in servers:
            one.close()

    _run(pool, ask())
    assert len(seen) == expected
    assert pool.busy == 0


def test_the_supervisor_decides_who_is_asked(engines: list[FakeEngine]) -> None:
    pool = _pool(engines)
    for one in engines[:2]:
        pool.mark(one.uds, healthy=False)
    assert pool.healthy == 1

    async def ask() -> None:
        for _ in range(6):
            await _ask(pool)
        pool.mark(engines[2].uds, healthy=False)
        with pytest.raises(UpstreamDown, match="no engine is healthy"):
            await _ask(pool)
        pool.mark(engines[0].uds, healthy=True)
        await _ask(pool)

    _run(pool, ask())
    assert [len(one.requests) for one in engines] == [1, 0, 6]
    with pytest.raises(KeyError):
        pool.mark("nobody", healthy=True)


def test_a_replica_that_came_back_is_used_again(engines: list[FakeEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REST_SECONDS", 0.05)
    pool = Pool([Upstream(engines[0].uds), Upstream(engines[0].uds.with_name("later.sock"))])

    async def ask() -> int:
        for _ in range(4):
            await _ask(pool)
        with FakeEngine(engines[0].uds.with_name("later.sock")) as late:
            await asyncio.sleep(0.06)
            late.script = engines[0].script = Script(["a", "b"], delay=0.02)
            await asyncio.gather(*(_ask(pool, STREAM) for _ in range(8)))
            pool.close()
            await asyncio.sleep(0.01)
            return len(late.requests)

    assert _run(pool, ask()) == 4


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Pool([])
