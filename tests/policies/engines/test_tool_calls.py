"""Tool calls of the built-in engine: offered, forced, read from the text, shown to the template again."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.engines.tool_calls import message_of, offer_of, past_calls
from policies.engines.wire import ChatBody, RequestError

MESSAGES = [{"role": "user", "content": "add an argument"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
NAMED = {"type": "function", "function": {"name": "weather"}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rom\u00e9"}}</tool_call>'


def _offer(**fields: Any) -> Any:
    return offer_of(
        msgspec.convert({"model": "m", "messages": MESSAGES, "tools": [WEATHER, CLOCK], **fields}, ChatBody)
    )


def _read(choice: Any, pieces: list[str], reason: str = "stop") -> tuple[dict[str, Any], str]:
    reader = _offer(tool_choice=choice).reader()
    deltas = [delta for piece in pieces for delta in reader.feed(piece)]
    rest, finish = reader.finish(reason)
    return message_of(deltas + rest), finish


def test_a_named_call_is_its_arguments_as_they_come() -> None:
    message, finish = _read(NAMED, ['{"city":', '"Oslo"}'])
    assert finish == "stop"
    assert message["content"] is None
    assert [call["function"] for call in message["tool_calls"]] == [{"name": "weather", "arguments": '{"city":"Oslo"}'}]


def test_a_required_call_is_known_when_it_is_whole() -> None:
    message, finish = _read("required", ['{"name":"clock",', '"arguments":{}}'])
    assert (finish, message["tool_calls"][0]["function"]) == ("tool_calls", {"name": "clock", "arguments": "{}"})
    cut, finish = _read("required", ['{"name":"clo'], "length")
    assert (finish, cut["content"], "tool_calls" in cut) == ("length", '{"name":"clo', False)


@given(st.lists(st.integers(0, 200), max_size=6), st.booleans())
def test_marked_calls_do_not_depend_on_how_the_text_is_cut(cuts: list[int], second: bool) -> None:
    text = "let me <tool_see: " + CALL + ("\n" + CALL.replace("weather", "clock") if second else "")
    places = sorted({min(cut, len(text)) for cut in cuts})
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    message, finish = _read("auto", pieces)
    assert (message["content"], finish) == ("let me <tool_see: ", "tool_calls")
    calls = [call["function"] for call in message["tool_calls"]]
    assert [call["name"] for call in calls] == ["weather", "clock"][: 1 + second]
    assert all(json.loads(call["arguments"]) == {"city": "Rom\u00e9"} for call in calls)


@pytest.mark.parametrize(
    "text",
    ["no call", "<tool_call>{}</tool_call>", CALL.replace("weather", "rocket"), CALL + "<tool_call>{", "a <tool_c",
     '<tool_call>{"name": "clock", "arguments": "x"}</tool_call>'],
)  # fmt: skip
def test_what_is_no_call_of_an_offered_tool_stays_text(text: str) -> None:
    message, finish = _read("auto", list(text))
    assert (message["content"], finish, "tool_calls" in message) == (text, "stop", False)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{}]}, {"tools": [WEATHER, WEATHER]}, {"tool_choice": "perhaps"}, {"tool_choice": {"type": "x"}},
        {"tool_choice": {"type": "function", "function": {"name": "rocket"}}}, {"tools": [], "tool_choice": "required"},
        {"tools": None, "tool_choice": "auto"}, {"tools": [{**CLOCK, "more": 1}]},
    ],
)  # fmt: skip
def test_malformed_tools_and_choices_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        _offer(**fields)


@pytest.mark.parametrize("calls", ["x", [{}], [{"function": {"name": "a", "arguments": "[1]"}}], [{"function": None}]])
def test_malformed_past_calls_are_refused(calls: Any) -> None:
    with pytest.raises(RequestError, match="arguments as a JSON object"):
        past_calls(calls, "messages[1]")


def _chat(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": MESSAGES, "tools": [WEATHER, CLOCK], "max_tokens": 60, **fields}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _streamed(client: httpx.Client, **fields: Any) -> tuple[dict[str, Any], str]:
    body = {
        "model": "tiny",
        "messages": MESSAGES,
        "tools": [WEATHER, CLOCK],
        "max_tokens": 60,
        "stream": True,
        **fields,
    }
    text = client.post("/v1/chat/completions", json=body).text
    choices = [json.loads(line[6:])["choices"][0] for line in text.split("\n\n") if line.startswith("data: {")]
    return message_of([choice["delta"] for choice in choices]), choices[-1]["finish_reason"]


def test_named_and_required_calls_hold_their_schema(client: httpx.Client) -> None:
    whole = _chat(client, tool_choice=NAMED, seed=1)["choices"][0]
    streamed, finish = _streamed(client, tool_choice=NAMED, seed=1)
    for message, why in ((whole["message"], whole["finish_reason"]), (streamed, finish)):
        (call,) = message["tool_calls"]
        assert (call["type"], call["function"]["name"], why) == ("function", "weather", "stop")
        assert set(json.loads(call["function"]["arguments"])) == {"city", "days"}
    assert whole["message"]["tool_calls"][0]["function"] == streamed["tool_calls"][0]["function"]
    required = _chat(client, tool_choice="required", seed=2, tools=[WEATHER])["choices"][0]
    assert required["finish_reason"] == "tool_calls"
    assert json.loads(required["message"]["tool_calls"][0]["function"]["arguments"])["city"] in {"Oslo", "Rome"}


def test_a_call_the_model_writes_by_itself_is_read(client: httpx.Client) -> None:
    text = f"well {CALL}"
    fields = {"structured_outputs": {"choice": [text]}, "max_tokens": 200}
    choice = _chat(client, **fields)["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "well ")
    streamed, finish = _streamed(client, **fields)
    assert (finish, streamed["content"]) == ("tool_calls", "well ")
    assert streamed["tool_calls"][0]["function"] == choice["message"]["tool_calls"][0]["function"]
    off = _chat(client, tool_choice="none", **fields)["choices"][0]
    assert (off["finish_reason"], off["message"]["content"]) == ("stop", text)


def test_tools_and_past_calls_are_shown_to_the_template(client: httpx.Client) -> None:
    plain = _chat(client, tool_choice="none", max_tokens=1)["usage"]["prompt_tokens"]
    shown = _chat(client, max_tokens=1)["usage"]["prompt_tokens"]
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    turns = [
        *MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]  # fmt: skip
    later = _chat(client, messages=turns, tool_choice="none", max_tokens=1)["usage"]["prompt_tokens"]
    assert shown > plain + 3
    assert later > plain + 10


def test_a_forced_call_and_a_constraint_exclude_each_other(client: httpx.Client) -> None:
    body = {"model": "tiny", "messages": MESSAGES, "tools": [CLOCK], "tool_choice": "required",
            "structured_outputs": {"regex": "a"}}  # fmt: skip
    assert client.post("/v1/chat/completions", json=body).status_code == 400


def test_constrained_and_free_requests_share_a_batch(client: httpx.Client) -> None:
    """Each request of a mixed batch holds its own constraint, and the free ones say what they say alone."""
    free = {"temperature": 0, "ignore_eos": True, "max_tokens": 30, "tools": None}
    alone = _chat(client, **free)["choices"][0]["message"]["content"]
    wanted: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
        (free, lambda message: message["content"] == alone),
        ({"tools": None, "structured_outputs": {"json": SCHEMA}}, lambda m: set(json.loads(m["content"])) >= {"days"}),
        ({"tools": None, "structured_outputs": {"choice": ["yes", "no"]}}, lambda m: m["content"] in {"yes", "no"}),
        ({"tool_choice": NAMED}, lambda m: "city" in json.loads(m["tool_calls"][0]["function"]["arguments"])),
        ({"tools": None, "structured_outputs": {"regex": "[a-c]{4}"}}, lambda m: set(m["content"]) <= set("abc")),
    ]
    with ThreadPoolExecutor(20) as pool:
        jobs = [(pool.submit(_chat, client, **fields), holds) for fields, holds in wanted * 4]
        assert all(holds(job.result()["choices"][0]["message"]) for job, holds in jobs)
