"""Hostile callers against a gateway in its own process: nothing gets past it, memory stays, others are served.

What reaches the engine is looked at on the engine's side: it is what the gateway let through.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import resource
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from policies.access.callers import create_key
from tests.policies.gateway_process import Process, gateway_process
from tests.policies.running import CARD, SECRET
from tests.stubs.engine import FakeEngine, Script
from tests.waiting import until

pytestmark = pytest.mark.slow

FLOOD = 1_500
NEVER = {
    "chat_template": "{{ 'yes' }}", "chat_template_kwargs": {"a": 1}, "continue_final_message": True, "echo": True,
    "add_generation_prompt": False, "prompt_logprobs": 5, "logprobs": True, "top_logprobs": 5, "return_token_ids": True,
    "kv_transfer_params": {"a": 1}, "priority": -10, "cache_salt": "mine", "logit_bias": {"5": 100.0},
    "allowed_token_ids": [5], "bad_words": ["x"], "guided_json": {"type": "object"}, "mm_processor_kwargs": {"a": 1},
    "documents": [{"a": "b"}], "ignore_eos": True, "skip_special_tokens": False, "include_stop_str_in_output": True,
    "truncate_prompt_tokens": 1, "request_id": "mine", "vllm_xargs": {"a": 1}, "logits_processors": ["os.system"],
    "use_beam_search": True, "best_of": 20, "n": 10_000, "prompt_embeds": "AAAA", "media_io_kwargs": {"a": {}},
    "return_tokens_as_token_ids": True, "add_special_tokens": True, "spaces_between_special_tokens": False,
}  # fmt: skip
"""Fields that an engine of ours would act on, and that no caller may send."""
ENGINE_FIELDS = frozenset(
    ["model", "messages", "stream", "stream_options", "max_tokens", "temperature", "cache_salt", "n", "tools"]
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path_factory.mktemp("hostile") / "e.sock") as running:
        yield running


@pytest.fixture(scope="module")
def process(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gateway_process(engine.uds, tmp_path_factory.mktemp("gateway") / "g") as running:
        yield running


@pytest.fixture
def clean(engine: FakeEngine) -> FakeEngine:
    """The engine with a clean slate."""
    engine.script = Script()
    engine.requests.clear()
    return engine


def address(process: Process) -> tuple[str, int]:
    host, port = process.url.removeprefix("http://").split(":")
    return host, int(port)


def post(process: Process, body: Any, *, key: str | None = None, path: str = "/v1/chat/completions") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    token = process.keys["mia"] if key is None else key
    head = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    return httpx.post(process.url + path, content=content, headers=head, timeout=20, trust_env=False)


def chat(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "stdlib", "messages": [{"role": "user", "content": text}], **more}


def nested(depth: int) -> bytes:
    return b'{"model":"stdlib","messages":[{"role":"user","content":"x"}],"response_format":' + (
        b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    )


BODIES: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"model=stdlib&messages=hi",
    "half a document": b'{"model":"stdlib","messages":[{"role":"user"',
    "an array": b"[]",
    "two documents": b'{"model":"stdlib"}{"model":"stdlib"}',
    "invalid UTF-8": b'{"model":"stdlib","messages":[{"role":"user","content":"\xff\xfe\xc0\x80"}]}',
    "overlong UTF-8": b'{"model":"stdlib","messages":[{"role":"user","content":"\xc0\xaf"}]}',
    "UTF-16": '{"model":"stdlib","messages":[{"role":"user","content":"hi"}]}'.encode("utf-16"),
    "nested arrays": b"[" * 200_000 + b"]" * 200_000,
    "nested objects": nested(50_000),
    "one string of a megabyte as a role": b'{"model":"stdlib","messages":[{"role":"' + b"a" * (1 << 20) + b'"}]}',
    "a number without an end": b'{"model":"stdlib","messages":[],"seed":1' + b"0" * 5_000 + b"}",
    "not a number": b'{"model":"stdlib","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    "ten thousand unknown fields": json.dumps({f"field{n}": n for n in range(10_000)}).encode(),
    "five thousand messages": json.dumps(chat() | {"messages": [{"role": "user", "content": "x"}] * 5_000}).encode(),
    "larger than the limit": json.dumps(chat("x" * (2 << 20))).encode(),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_is_refused_before_the_engine(process: Process, clean: FakeEngine, name: str) -> None:
    answer = post(process, BODIES[name])
    assert 400 <= answer.status_code < 500
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"]
    assert len(answer.content) < 4_000
    assert clean.requests == []


def test_a_repeated_key_cannot_say_two_things(process: Process, clean: FakeEngine) -> None:
    body = b'{"model":"stdlib","messages":[{"role":"user","content":"a"}],"messages":[{"role":"user","content":"b"}]}'
    assert post(process, body).status_code in (200, 400)
    assert [request["messages"] for request in clean.requests] in ([], [[{"role": "user", "content": "b"}]])


@pytest.mark.parametrize("name", sorted(NEVER))
def test_what_only_the_engines_operator_may_say_never_reaches_it(
    process: Process, clean: FakeEngine, name: str
) -> None:
    answer = post(process, chat(**{name: NEVER[name]}))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name
    assert clean.requests == []


def test_keys_of_nobody_and_of_others_open_nothing(process: Process, clean: FakeEngine) -> None:
    mine = process.keys["mia"]
    prefix, key_id, secret = mine.split("_", 2)
    other = process.keys["otto"].split("_", 2)
    forged = [
        create_key()[0], f"{prefix}_{other[1]}_{secret}", f"{prefix}_{key_id}_{other[2]}", mine[:-1], mine + "A",
        f"{prefix}_{key_id}_", "hk__", mine.upper(), f"{prefix}_{'0' * 16}_{secret}", "Bearer", "a" * 10_000,
    ]  # fmt: skip
    for key in forged:
        answer = post(process, chat(), key=key)
        assert answer.status_code in (401, 431, 400), key
        assert "x-hallmark-certificate" not in answer.headers or answer.status_code == 401
    assert clean.requests == []


INSERTED = (b"\x00", b"\r\n\r\n", b"\n", b"chunked", b"0\r\n\r\n", b'"', b"{")
MUTATIONS = ("flip", "cut", "repeat", "insert", "swap")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with one thing wrong."""
    place, end = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    kind = rng.choice(MUTATIONS)
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    if kind == "cut":
        return data[:place] + data[end:]
    if kind == "repeat":
        return data[:place] + data[place:end] * 3 + data[end:]
    if kind == "insert":
        return (
            data[:place]
            + rng.choice([b"\x00", b"\r\n\r\n", b"\n", b"chunked", b"0\r\n\r\n", b'"', b"{"])
            + data[place:]
        )
    return data[end:] + data[:end]


async def exchange(process: Process, data: bytes, turn: asyncio.Semaphore) -> bytes:
    """Send bytes; return what comes back within a second of silence."""
    async with turn:
        reader, writer = await asyncio.open_connection(*address(process))
        got = b""
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(data)
            while piece := await asyncio.wait_for(reader.read(65_536), 1.0):
                got += piece
        writer.transport.abort()
        return got


async def exchange_all(process: Process, requests: list[bytes]) -> list[bytes]:
    turn = asyncio.Semaphore(50)
    return list(await asyncio.gather(*(exchange(process, data, turn) for data in requests)))


def test_mutated_requests_neither_break_the_gateway_nor_slip_through(process: Process, clean: FakeEngine) -> None:
    rng = random.Random(20_26)
    body = json.dumps(chat(f"card {CARD}", max_tokens=5)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {process.keys['mia']}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    answers = asyncio.run(exchange_all(process, [mutate(head + body, rng) for _ in range(400)]))
    statuses = {int(status) for got in answers for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", got)}
    assert statuses <= {200, 400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 417, 422, 431, 501, 505}
    assert 200 in statuses  # some mutations do no harm
    for request in clean.requests:
        assert set(request) <= ENGINE_FIELDS
        assert request["model"] == "engine"
        assert CARD not in json.dumps(request)
    assert post(process, chat()).status_code == 200


async def _idle(where: tuple[str, int], count: int) -> list[asyncio.StreamWriter]:
    writers = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(*where)
            writers.append(writer)
    return writers


async def _besiege(process: Process) -> tuple[list[int], float]:
    """Hold idle connections, trickle heads and bodies, and ask normally meanwhile; return statuses and peak memory."""
    where = address(process)
    idle = await _idle(where, FLOOD)
    slow = await _idle(where, 100)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {process.keys['mia']}\r\n"
        f"content-type: application/json\r\ncontent-length: 900000\r\n\r\n"
    ).encode()

    async def trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
        with contextlib.suppress(OSError):
            for byte in data:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)

    trickles = [asyncio.ensure_future(trickle(w, head[:60] if n % 2 else head)) for n, w in enumerate(slow)]
    statuses, peak = [], 0.0
    limits = httpx.Limits(max_connections=8)
    async with httpx.AsyncClient(trust_env=False, timeout=20, limits=limits) as client:
        for number in range(60):
            answer = await client.post(
                f"{process.url}/v1/chat/completions", json=chat(stream=number % 2 == 0),
                headers={"authorization": f"Bearer {process.keys['mia']}"},
            )  # fmt: skip
            statuses.append(answer.status_code)
            peak = max(peak, process.rss_mib())
    for task in trickles:
        task.cancel()
    for writer in [*idle, *slow]:
        writer.transport.abort()
    return statuses, peak


def test_idle_and_trickling_connections_starve_nobody(process: Process, clean: FakeEngine) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < FLOOD + 500:
        pytest.skip("too few descriptors may be opened here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, FLOOD + 2_000)), hard))
    for _ in range(20):
        post(process, chat())
    before = process.rss_mib()
    statuses, peak = asyncio.run(_besiege(process))
    assert set(statuses) == {200}
    assert peak < before + 80
    until(lambda: process.descriptors() < 100, 20)
    assert post(process, chat()).status_code == 200


def test_a_secret_is_not_talked_out_by_any_spelling_of_the_request(process: Process, clean: FakeEngine) -> None:
    pieces = [SECRET[:4], SECRET[4:9], SECRET[9:]]
    for channel in ("content", "reasoning_content", "tool"):
        clean.script = Script(pieces=["so ", *pieces, " it is"], channel=channel)
        tool = {"type": "function", "function": {"name": "lookup"}}
        for more in ({}, {"stream": True}, {"n": 2}, {"stream": True, "stream_options": {"include_usage": True}}):
            answer = post(process, chat(tools=[tool], **more))
            assert SECRET.encode() not in answer.content
            assert SECRET[3:].encode() not in answer.content


def test_every_request_left_one_decision_and_no_text(process: Process, clean: FakeEngine) -> None:
    post(process, chat("a text nobody else writes"))
    until(lambda: any(b"gateway.decision" in path.read_bytes() for path in process.journal.glob("*.seg")))
    written = b"".join(path.read_bytes() for path in process.journal.glob("*.seg"))
    assert b"nobody else writes" not in written
    receipts = re.findall(rb'"kind":"gateway.decision".*?"subject":"(hr-[0-9a-f]+)"', written)
    assert receipts
    assert len(receipts) == len(set(receipts))
