"""Requests before they reach the engine: control tokens, escapes, and the size of free-form fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.enforcement import json_strings
from policies.enforcement.json_strings import JsonStrings
from policies.wire.control_tokens import ControlTokens
from policies.wire.refusal import Refusal
from policies.wire.request import MOST_DEPTH, decode
from policies.wire.request_types import WITHOUT_EFFECT
from tests.policies.asking import chat, client, post
from tests.policies.running import CARD, Running

MARK = "<|im_end|>"


@pytest.fixture
def marked(run: Running) -> Iterator[Running]:
    """The shared gateway while its tokenizer has control tokens."""
    before = run.desk.control
    run.desk.control = ControlTokens(["<|im_start|>", MARK, "</s>"])
    yield run
    run.desk.control = before


def nested(depth: int) -> Any:
    value: Any = "leaf"
    for _ in range(depth):
        value = {"a": value}
    return value


CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
HIDDEN: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": f"a {MARK} b"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": f"{MARK}"}]}]},
    {"messages": [{"role": "user", "content": [
        {"type": "text", "text": MARK[:4]}, {"type": "text", "text": MARK[4:]}]}]},
    {"messages": [{"role": "assistant", "reasoning": MARK}]},
    {"messages": [{"role": "assistant", "reasoning_content": MARK}]},
    {"messages": [{"role": "assistant", "tool_calls": [
        {**CALL, "function": {"name": "f", "arguments": f'"{MARK}"'}}]}]},
    {"messages": [{"role": "assistant", "tool_calls": [
        {**CALL, "function": {"name": "f", "arguments": '{"a": "\\u003c|im_end|>"}'}}]}]},
    {"tools": [{"type": "function", "function": {"name": "f", "description": MARK}}]},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": [{"b": MARK}]}}}]},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {MARK: 1}}}]},
    {"stop": MARK}, {"stop": ["a", f"b{MARK}"]},
    {"structured_outputs": {"choice": [MARK]}}, {"structured_outputs": {"regex": f"a{MARK}"}},
    {"structured_outputs": {"json": {"const": MARK}}},
    {"structured_outputs": {"json": '{"const": "\\u003c|im_end|>"}'}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": MARK}}}},
]  # fmt: skip


@pytest.mark.parametrize("fields", HIDDEN, ids=str)
def test_a_control_token_is_refused_wherever_it_stands(marked: Running, fields: dict[str, Any]) -> None:
    reply = post(marked, chat(**fields), "otto")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "control_token")
    assert marked.engine.requests == []
    assert marked.decisions(1)[0]["rules"][-1] == "control-tokens"


def test_what_only_resembles_a_control_token_passes(marked: Running) -> None:
    assert post(marked, chat(messages=[{"role": "user", "content": "<|im end|> < /s> <|im_end"}])).status_code == 200


def test_control_tokens_on_responses(marked: Running) -> None:
    for body in ({"input": MARK}, {"input": "x", "instructions": MARK}):
        reply = post(marked, {"model": "stdlib", **body}, path="/v1/responses")
        assert reply.json()["error"]["code"] == "control_token"


def test_a_token_that_json_escapes_is_found() -> None:
    tokens = ControlTokens(['"<end>"', "a\\b", "\n\n"])
    for text in ('x "<end>"', "a\\b", "\n\n", "é\n\n"):
        with pytest.raises(Refusal):
            tokens.check(msgspec.json.encode({"a": [text]}))
    tokens.check(msgspec.json.encode(["\n", "ab", "<end>"]))
    assert not ControlTokens([])


def test_escapes_in_past_arguments_hide_nothing(run: Running) -> None:
    arguments = '{"card": "\\u0034111 and \\u0034' + CARD[1:] + '"}'
    turn = {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "look", "arguments": arguments}}]}
    assert post(run, chat(messages=[turn])).status_code == 200
    sent = run.engine.requests[0]["messages"][0]["tool_calls"][0]["function"]["arguments"]
    assert orjson.loads(sent) == {"card": "4111 and [REDACTED:card]"}


NAMED: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "a", "name": CARD}]},
    {"messages": [{"role": "tool", "content": "a", "tool_call_id": f"x-{CARD}"}]},
    {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "id": CARD}]}]},
    {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": CARD, "arguments": ""}}]}]},
    {"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": CARD}}]},
]


@pytest.mark.parametrize("fields", NAMED, ids=str)
def test_a_name_that_a_rule_would_hide_is_refused(run: Running, fields: dict[str, Any]) -> None:
    reply = post(run, chat(**fields))
    assert (reply.status_code, reply.json()["error"]["rules"]) == (400, ["cards-stay-inside"])
    assert run.engine.requests == []


def test_names_are_read_one_by_one(run: Running) -> None:
    turn = {"role": "assistant", "tool_calls": [{**CALL, "id": CARD[:8]}, {**CALL, "id": CARD[8:]}]}
    tools = [{"type": "function", "function": {"name": name}} for name in ("nerve", "agent")]
    assert post(run, chat(messages=[turn], tools=tools)).status_code == 200


@pytest.mark.parametrize("depth", [MOST_DEPTH - 2, MOST_DEPTH + 4])
def test_free_form_fields_have_a_depth(run: Running, depth: int) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": nested(depth)}}
    for fields in ({"tools": [tool]}, {"structured_outputs": {"json": nested(depth)}}):
        reply = post(run, chat(**fields), "otto")
        assert reply.status_code == (200 if depth < MOST_DEPTH else 400)
        assert depth < MOST_DEPTH or "levels" in reply.json()["error"]["message"]


def test_free_form_fields_have_a_size(run: Running) -> None:
    wide = {str(number): number for number in range(9000)}
    reply = post(run, chat(tools=[{"type": "function", "function": {"name": "f", "parameters": wide}}]))
    assert reply.json()["error"]["param"] == "tools"
    assert post(run, chat(metadata={str(number): "x" for number in range(17)})).status_code == 400
    assert post(run, chat(metadata={"a": "x" * 513})).status_code == 400


def test_what_has_no_effect_does_not_reach_the_engine(run: Running) -> None:
    client(run).chat.completions.create(
        model="stdlib", messages=[{"role": "user", "content": "a"}], user="u", metadata={"a": "b"}, store=False,
        service_tier="auto", safety_identifier="s", prompt_cache_key="k", modalities=["text"], logprobs=False,
    )  # fmt: skip
    sent = run.engine.requests[0]
    assert not {*WITHOUT_EFFECT, "store", "modalities", "logprobs"} & sent.keys()
    client(run).completions.create(model="stdlib", prompt="a", best_of=1, echo=False, user="u")
    assert set(run.engine.requests[1]) == {"model", "prompt", "cache_salt"}


@pytest.mark.parametrize("tool_choice", ["none", "auto", "required", {"type": "function", "function": {"name": "f"}}])
def test_tool_choices(tool_choice: Any) -> None:
    decode("chat", orjson.dumps(chat(tool_choice=tool_choice)))
    with pytest.raises(Refusal):
        decode("chat", orjson.dumps(chat(tool_choice={"type": "allowed_tools", "extra": tool_choice})))


# ---- strings of JSON, decoded --------------------------------------------------------------------------------------

PIECES = st.lists(st.sampled_from(['"', "\\", "u", "d83d", "de00", "0041", "n", "a", " ", "{", "é"]), max_size=16)


def decoded(pieces: list[str]) -> list[tuple[str, str]]:
    view = JsonStrings()
    parts = [part for piece in pieces for part in view.feed(piece)] + list(view.finish())
    joined: list[tuple[str, str]] = []
    for kind, text in parts:
        if joined and joined[-1][0] == kind and kind != "end":
            joined[-1] = (kind, joined[-1][1] + text)
        else:
            joined.append((kind, text))
    return joined


@given(PIECES)
def test_the_strings_are_the_same_for_every_cut(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert decoded(pieces) == decoded([text]) == decoded(list(text))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(VALUES, st.booleans())
def test_a_parser_reads_the_same_after_rewriting(value: Any, ascii_only: bool) -> None:
    import json

    text = json.dumps(value, ensure_ascii=ascii_only)
    rewritten = json_strings.rewrite(text, lambda string: string)
    assert json.loads(rewritten) == json.loads(text)
    assert json_strings.rewrite(rewritten, lambda string: string) == rewritten


def test_the_strings_are_what_a_parser_reads() -> None:
    assert json_strings.strings('{"a\\u0062": ["\\ud83d\\ude00", "\\n", "", "\\/x"]}') == ["ab", "😀", "\n", "/x"]
    assert json_strings.strings('"\\ud83d x" "\\q" "open \\u00') == ["\ufffd x", "q", "open "]
