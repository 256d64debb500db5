"""Wire shapes: only what is listed goes out, events survive any cut, a whole answer and its chunks say the same."""

from __future__ import annotations

import contextlib
import json

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.wire import surfaces
from policies.wire.failures import UpstreamBroken
from policies.wire.frames import ChunkFrames
from policies.wire.refusal import Refusal
from policies.wire.request import ChatRequest, CompletionRequest, decode, encode, rewrite
from tests.stubs.engine import Script, stream_events, whole


@given(st.lists(st.binary(min_size=1, max_size=20).filter(lambda data: b"\n" not in data)), st.integers(1, 9))
def test_events_survive_any_cut(payloads: list[bytes], size: int) -> None:
    payloads = [payload.strip() or b"x" for payload in payloads]
    wire = b"".join(b"data: " + payload + b"\n\n" for payload in payloads)
    found: list[bytes] = []
    rest = b""
    for start in range(0, len(wire), size):
        more, rest = surfaces.split_events(rest + wire[start : start + size])
        found += more
    assert found == payloads
    assert rest == b""


def test_comments_are_dropped_and_what_is_no_event_of_an_engine_refused() -> None:
    assert surfaces.split_events(b": ping\n\nevent: x\ndata: {}\n\n") == ([b"{}"], b"")
    with pytest.raises(UpstreamBroken, match="several"):
        surfaces.split_events(b"data: a\ndata: b\n\n")
    endless = b"data: " + b"a" * surfaces.LONGEST_EVENT
    with pytest.raises(UpstreamBroken, match="more than 1048576 bytes"):
        surfaces.split_events(endless)
    assert surfaces.split_events(endless + b"\n\n") == ([endless[6:]], b"")


def test_only_listed_fields_are_read() -> None:
    choice = {"index": 0, "delta": {"content": "a", "token_ids": [1]}, "logprobs": {"a": 1}, "stop_reason": "secret"}
    noisy = {"id": "x", "choices": [choice], "prompt_token_ids": [1], "system_fingerprint": "f"}
    chunk = surfaces.reader("chat")(orjson.dumps(noisy))
    frames = ChunkFrames("chat", "hr-1", "stdlib", include_usage=False)
    said = orjson.loads(frames.pieces(chunk.created, chunk.choices).removeprefix(b"data: "))
    assert said == {
        "id": "hr-1", "object": "chat.completion.chunk", "created": 0, "model": "stdlib",
        "choices": [{"delta": {"content": "a"}, "index": 0, "finish_reason": None}],
    }  # fmt: skip


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("channel", ["content", "tool", "reasoning_content"])
def test_a_whole_answer_as_pieces_says_the_same(chat: bool, channel: str) -> None:
    surface = "chat" if chat else "completions"
    answer = surfaces.read_whole(surface, orjson.dumps(whole(Script(["a", "b"], channel), chat)), "hr-1", "m")
    pieces = surfaces.as_pieces(answer)
    texts = {slot.key: slot.get() for choice in answer.choices for slot in surfaces.slots(choice)}
    again = {slot.key: slot.get() for piece in pieces for slot in surfaces.slots(piece)}
    assert texts == again
    assert "ab" in texts.values()


def test_text_can_be_appended_to_a_channel_that_a_chunk_did_not_carry() -> None:
    last = orjson.loads(stream_events(Script(["a"]), chat=True)[-3][6:])
    chunk = surfaces.reader("chat")(orjson.dumps(last))
    for channel in ("content", "reasoning", "tool:0", "tool:0", "tool:2"):
        surfaces.append(chunk.choices[0], (0, channel), "x")  # type: ignore[arg-type]
    delta = orjson.loads(surfaces.encode(chunk))["choices"][0]["delta"]
    assert (delta["content"], delta["reasoning"]) == ("x", "x")
    assert [tool["function"]["arguments"] for tool in delta["tool_calls"]] == ["xx", "x"]


def test_bad_chunks_are_errors() -> None:
    for data in (b"", b"{}", b'{"choices":1}', b'{"error":{}}', b"\xff"):
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            surfaces.reader("chat")(data)


def test_rewriting_reaches_every_text_once() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "user", "content": "b"},
                     {"role": "assistant", "reasoning": "c", "reasoning_content": "d", "content": None}],
        "tools": [{"type": "function", "function": {"name": "f", "description": "e",
                   "parameters": {"g": ["h", 1, {"i": None}]}}}],
    }  # fmt: skip
    request = decode("chat", orjson.dumps(body))
    seen: list[str] = []

    def check(text: str) -> str:
        seen.append(text)
        return text.upper()

    rewrite(request, check)
    assert sorted(seen) == list("abcdeghi")
    assert isinstance(request, ChatRequest)
    assert request.tools is not None
    assert request.tools[0].function.parameters == {"G": ["H", 1, {"I": None}]}


def test_defaults_fill_only_what_the_caller_left_open() -> None:
    request = decode("completions", b'{"model":"m","prompt":"x","temperature":0.5,"stream":true}')
    assert isinstance(request, CompletionRequest)
    defaults = {"temperature": 0.0, "top_p": 0.9, "odd": 1}
    sent = orjson.loads(encode(request, "engine", defaults, {"bad_words": ["w"]}, "ab"))
    assert sent == {
        "model": "engine", "prompt": "x", "temperature": 0.5, "top_p": 0.9, "stream": True, "bad_words": ["w"],
        "stream_options": {"include_usage": True}, "cache_salt": "ab",
    }  # fmt: skip


def test_what_is_injected_wins() -> None:
    request = decode("completions", b'{"model":"m","prompt":"x","structured_outputs":{"regex":"a+"}}')
    sent = orjson.loads(encode(request, "engine", {}, {"structured_outputs": {"choice": ["b"]}}, "ab"))
    assert sent["structured_outputs"] == {"choice": ["b"]}


@given(st.dictionaries(st.text(max_size=12), st.none() | st.booleans() | st.integers() | st.text(max_size=5)))
def test_no_body_gets_past_the_decoder_but_by_the_list(body: dict[str, object]) -> None:
    known = set(ChatRequest.__struct_fields__)
    whole_body = body | {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    if set(body) - known:
        with pytest.raises(Refusal) as caught:
            decode("chat", json.dumps(whole_body).encode())
        assert caught.value.status == 400
    else:
        with contextlib.suppress(Refusal):  # a listed field may still have a wrong value
            decode("chat", json.dumps(whole_body).encode())
