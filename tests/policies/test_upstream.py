"""The client of the engine: keep-alive, streaming, and closing that the engine notices."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from policies.endpoint.upstream import Call, CallClosed, Upstream, UpstreamBroken, UpstreamDown
from tests.stubs.engine import FakeEngine, Script
from tests.waiting import until

OPENED: list[Upstream] = []
STREAM = b'{"stream":true}'


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "engine.sock") as running:
        yield running


def _upstream(path: Path) -> Upstream:
    OPENED.append(Upstream(path))
    return OPENED[-1]


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a test's coroutine, then close the connections it left idle."""

    async def all_of_it() -> Any:
        try:
            return await work
        finally:
            while OPENED:
                OPENED.pop().close()
            await asyncio.sleep(0.01)

    return asyncio.run(all_of_it())


def _post(upstream: Upstream, body: bytes = b"{}") -> Call:
    return upstream.call("POST", "/v1/completions", body)


def test_whole_answers_share_one_connection(engine: FakeEngine) -> None:
    async def ask() -> None:
        upstream = _upstream(engine.uds)
        for _ in range(5):
            call = _post(upstream)
            assert await call.start() == 200
            assert b'"text":"hello"' in await call.read(10_000)
            assert call.done

    _run(ask())
    assert engine.connections == 1
    assert len(engine.requests) == 5


def test_concurrent_calls_use_their_own_connections_and_give_them_back(engine: FakeEngine) -> None:
    async def ask() -> None:
        upstream = _upstream(engine.uds)

        async def one() -> bytes:
            call = _post(upstream, STREAM)
            await call.start()
            return await call.read(100_000)

        answers = await asyncio.gather(*(one() for _ in range(16)))
        assert len(set(answers)) == 1
        await asyncio.gather(*(one() for _ in range(16)))

    _run(ask())
    assert engine.connections == 16


def test_a_stream_arrives_piece_by_piece(engine: FakeEngine) -> None:
    engine.script = Script(["a", "b", "c"], delay=0.01)

    async def ask() -> list[bytes]:
        call = _post(_upstream(engine.uds), STREAM)
        await call.start()
        got = []
        while data := await call.chunk():
            got.append(data)
        return got

    got = _run(ask())
    assert len(got) >= 3
    assert b"".join(got).endswith(b"data: [DONE]\n\n")


def test_closing_drops_the_connection_and_ends_the_wait(engine: FakeEngine) -> None:
    engine.script = Script(["a", "b", "c"], hang_after=1)

    async def ask() -> None:
        call = _post(_upstream(engine.uds), STREAM)
        await call.start()
        await call.chunk()
        asyncio.get_running_loop().call_later(0.05, call.close)
        with pytest.raises(CallClosed):
            await call.read(1_000_000)

    _run(ask())
    until(lambda: engine.aborted == 1)


def test_no_engine_is_down_and_a_dying_one_too(engine: FakeEngine, tmp_path: Path) -> None:
    engine.script = Script(["a", "b", "c"], die_after=1)

    async def ask() -> None:
        with pytest.raises(UpstreamDown):
            await _post(_upstream(tmp_path / "nobody.sock")).start()
        call = _post(_upstream(engine.uds), STREAM)
        assert await call.start() == 200
        with pytest.raises(UpstreamDown):
            await call.read(100_000)

    _run(ask())


def test_an_idle_connection_that_went_away_is_replaced(engine: FakeEngine) -> None:
    async def ask() -> None:
        upstream = _upstream(engine.uds)
        call = _post(upstream)
        await call.start()
        await call.read(10_000)
        for connection in list(engine._live):
            engine._loop.call_soon_threadsafe(connection.transport.close)
        again = _post(upstream)  # started before our loop has seen the close
        assert await again.start() == 200

    _run(ask())
    assert engine.connections == 2


@pytest.mark.parametrize("raw", [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"])
def test_what_is_not_http_is_broken(engine: FakeEngine, raw: bytes) -> None:
    engine.script = Script(raw=raw)

    async def ask() -> None:
        with pytest.raises(UpstreamBroken):
            await _post(_upstream(engine.uds)).start()

    _run(ask())


def test_a_body_over_the_limit_is_broken(engine: FakeEngine) -> None:
    engine.script = Script(["x" * 50_000])

    async def ask() -> None:
        call = _post(_upstream(engine.uds))
        await call.start()
        with pytest.raises(UpstreamBroken):
            await call.read(10_000)

    _run(ask())


def test_a_slow_reader_pauses_the_engine(engine: FakeEngine) -> None:
    engine.script = Script(["x" * 100_000] * 40)

    async def ask() -> int:
        call = _post(_upstream(engine.uds), STREAM)
        await call.start()
        await asyncio.sleep(0.3)
        held = call._buffered
        assert len(await call.read(100_000_000)) > 4_000_000
        return held

    assert _run(ask()) < 2_000_000


def test_bytes_nobody_asked_for_close_the_connection(engine: FakeEngine) -> None:
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    engine.script = Script(raw=reply + reply)

    async def ask() -> None:
        upstream = _upstream(engine.uds)
        for _ in range(2):
            call = _post(upstream)
            assert await call.start() == 200
            assert await call.read(100) == b"ok"
            await asyncio.sleep(0.01)

    _run(ask())
    assert engine.connections == 2
