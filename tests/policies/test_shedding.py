"""Load shedding: so many run, a few wait in order, the rest is told when to come back; bodies are bounded together."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.endpoint.body import BodyReader
from policies.endpoint.deadlines import Deadlines
from policies.endpoint.desk import Bounds
from policies.endpoint.head import Head
from policies.endpoint.shedding import Turnstile
from policies.wire.depth import too_deep
from policies.wire.refusal import Refusal
from tests.policies.asking import chat, post
from tests.policies.running import gateway_running
from tests.stubs.engine import Script


def test_turns_come_in_order_and_places_change_hands() -> None:
    order: list[int] = []

    async def visit(turnstile: Turnstile, number: int) -> None:
        turn = turnstile.enter()
        if turn is not None:
            await turnstile.wait(turn)
        order.append(number)
        await asyncio.sleep(0.001)
        turnstile.leave(0.001)

    async def all_of_them() -> Turnstile:
        turnstile = Turnstile(2, 50, 5.0)
        await asyncio.gather(*(visit(turnstile, number) for number in range(40)))
        return turnstile

    turnstile = asyncio.run(all_of_them())
    assert order == list(range(40))
    assert (turnstile.running, turnstile.waiting, turnstile.shed) == (0, 0, 0)


def test_a_full_line_and_a_long_wait_are_refused_with_a_time_to_come_back() -> None:
    async def crowd() -> None:
        turnstile = Turnstile(1, 1, 0.05)
        assert turnstile.enter() is None
        turn = turnstile.enter()
        assert turn is not None
        with pytest.raises(Refusal) as full:
            turnstile.enter()
        assert (full.value.status, full.value.code) == (503, "overloaded")
        assert full.value.retry_after == 2
        with pytest.raises(Refusal) as late:
            await turnstile.wait(turn)
        assert late.value.status == 503
        assert (turnstile.running, turnstile.waiting, turnstile.shed) == (1, 0, 2)
        turnstile.leave()
        assert turnstile.running == 0

    asyncio.run(crowd())


def test_a_place_is_not_lost_when_its_turn_is_given_up() -> None:
    async def crowd() -> None:
        turnstile = Turnstile(1, 5, 5.0)
        assert turnstile.enter() is None
        turn = turnstile.enter()
        assert turn is not None
        waiting = asyncio.ensure_future(turnstile.wait(turn))
        await asyncio.sleep(0)
        turnstile.leave()  # the turn comes, and in the same moment its owner goes
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (turnstile.running, turnstile.waiting) == (0, 0)

    asyncio.run(crowd())


def test_the_endpoint_sheds_load_and_every_request_is_decided(tmp_path: Path) -> None:
    with gateway_running(tmp_path, bounds=Bounds(running=2, waiting=2, wait_s=0.2)) as run:
        run.engine.script = Script(["slow"] * 4, delay=0.4)
        with ThreadPoolExecutor(10) as pool:
            replies = list(pool.map(lambda _: httpx_post(run.url, run.keys["mia"]), range(10)))
        codes = [reply.status_code for reply in replies]
        assert codes.count(200) >= 2
        assert codes.count(503) >= 4
        assert set(codes) == {200, 503}
        shed = next(reply for reply in replies if reply.status_code == 503)
        assert int(shed.headers["retry-after"]) >= 1
        assert shed.json()["error"]["code"] == "overloaded"
        rows = run.decisions(10)
        assert len(rows) == 10
        assert sorted(row["status"] for row in rows) == sorted(codes)
        assert run.gateway.turnstile.running == 0
        assert 'code="overloaded"' in run.gateway.page().decode()
        run.engine.script = Script()
        assert post(run, chat()).status_code == 200


def httpx_post(url: str, key: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/chat/completions", json=chat(stream=True), headers=headers, timeout=20)


# ---- bodies ----------------------------------------------------------------------------------------------------


@given(st.recursive(st.none() | st.text('a"\\[]{}', max_size=4), lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.text('a"\\[]{}', max_size=4), inner, max_size=3), max_leaves=30),
       st.integers(0, 6))  # fmt: skip
def test_depth_is_what_the_decoded_value_says(value: object, most: int) -> None:
    def depth(item: object) -> int:
        if isinstance(item, dict):
            return 1 + max(map(depth, item.values()), default=0)
        return 1 + max(map(depth, item), default=0) if isinstance(item, list) else 0

    assert too_deep(json.dumps(value).encode(), most) == (depth(value) > most)


def test_a_deep_body_is_told_without_decoding_it() -> None:
    for opening in (b"[", b'{"a":', b'[{"b\\"]":'):
        body = opening * ((1 << 20) // len(opening))
        assert too_deep(body)
    assert not too_deep(b'{"a": "' + b"[" * 10_000 + b'"}')
    assert not too_deep(b'[{"a": [1]}' + b', {"a": [1]}' * 1000 + b"]")


def test_bodies_that_are_arriving_share_a_bound() -> None:
    async def crowd() -> None:
        reader = BodyReader(Bounds(pending_bytes=1000))
        head = Head([(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")])
        more = asyncio.Event()

        def body() -> object:
            pieces = iter([b" " * 400, b" " * 50])

            async def receive() -> dict[str, object]:
                piece = next(pieces)
                if len(piece) == 50:
                    await more.wait()
                return {"type": "http.request", "body": piece, "more_body": len(piece) == 400}

            return receive

        reading = [asyncio.ensure_future(reader.read(head, body())) for _ in range(3)]  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        assert reader.pending == 800
        with pytest.raises(Refusal) as refused:
            await reading[2]
        assert refused.value.code == "overloaded"
        more.set()
        assert len(await reading[0]) == len(await reading[1]) == 450
        assert reader.pending == 0

    asyncio.run(crowd())


# ---- time ------------------------------------------------------------------------------------------------------


class Work:
    def __init__(self) -> None:
        self.expired = 0

    def expire(self) -> None:
        self.expired += 1


def test_deadlines_expire_what_has_not_ended_and_nothing_else() -> None:
    async def run() -> None:
        deadlines = Deadlines(1.0)
        early, late, ended = Work(), Work(), Work()
        deadlines.begin(early)
        deadlines.begin(ended)
        await asyncio.sleep(0.7)
        deadlines.begin(late)
        deadlines.end(ended)
        while not early.expired:
            await asyncio.sleep(0.01)
        assert late.expired == 0
        while not late.expired:
            await asyncio.sleep(0.01)
        again = Work()
        deadlines.begin(again)
        while not again.expired:
            await asyncio.sleep(0.01)
        assert (early.expired, late.expired, ended.expired, again.expired) == (1, 1, 0, 1)

    asyncio.run(run())
