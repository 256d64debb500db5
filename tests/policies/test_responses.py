"""The responses surface: OpenAI's client reads it unchanged, whole and streamed, and every rule holds on it."""

from __future__ import annotations

from typing import Any

import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.wire.refusal import Refusal
from policies.wire.request import decode
from policies.wire.responses_stream import ResponseFrames
from policies.wire.surfaces import ChunkChoice, FunctionPiece, ToolPiece, Turn, Usage
from tests.policies.asking import HTTP, client, post
from tests.policies.running import SECRET, Running
from tests.stubs.engine import Script

PATH = "/v1/responses"
TOOL: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
CALL = {"index": 0, "id": "call_1", "function": {"name": "look", "arguments": ""}}
RICH = [
    {"reasoning": "I think "},
    {"reasoning": f"of {SECRET[:9]}"},
    {"reasoning": f"{SECRET[9:]} now"},
    {"content": "the key "},
    {"content": f"is {SECRET}, yes"},
    {"tool_calls": [CALL]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": "sk-\\u0061bcd'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": 'ef123456"}'}}]},
]


def ask(run: Running, **more: Any) -> Any:
    return client(run).responses.create(model="stdlib", input="what is the key?", **more)


def events(run: Running, **more: Any) -> list[Any]:
    return list(ask(run, stream=True, **more))


# ---- what the engine is asked --------------------------------------------------------------------------------------


def asked(**body: Any) -> dict[str, Any]:
    request = decode("responses", orjson.dumps({"model": "m", **body}))
    import msgspec

    said: dict[str, Any] = msgspec.to_builtins(request)
    return said


def test_items_become_turns() -> None:
    said = asked(
        instructions="be brief",
        input=[
            {"role": "user", "content": "a"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
             "content": [{"type": "output_text", "text": "c", "annotations": [], "logprobs": []}]},
            {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}", "id": "fc_1"},
            {"type": "function_call_output", "call_id": "call_1", "output": "found"},
        ],
        tools=[TOOL],
        tool_choice={"type": "function", "name": "look"},
        text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
        max_output_tokens=9,
    )  # fmt: skip
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    assert said["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c", "reasoning": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "found", "tool_call_id": "call_1"},
    ]
    function = {"name": "look", "parameters": {"type": "object"}, "strict": False}
    assert said["tools"] == [{"type": "function", "function": function}]
    assert said["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert (said["max_tokens"], said["structured_outputs"]) == (9, {"json": {"type": "object"}})


REFUSED = [
    {"store": True}, {"previous_response_id": "resp_1"}, {"background": True}, {"conversation": "c"},
    {"include": ["message.output_text.logprobs"]}, {"top_logprobs": 2}, {"truncation": "auto"}, {"prompt": {"id": "p"}},
    {"max_tool_calls": 3}, {"moderation": {"model": "x"}}, {"context_management": []}, {"surprise": 1},
    {"reasoning": {"effort": "high"}}, {"text": {"verbosity": "low"}}, {"tools": [{"type": "web_search"}]},
    {"stream_options": {"include_obfuscation": True}}, {"input": [{"type": "item_reference", "id": "x"}]},
    {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, {"input": []},
    {"input": [{"type": "function_call", "name": "look"}]}, {"input": [{"role": "user"}]}, {"chat_template": "x"},
]  # fmt: skip


@pytest.mark.parametrize("body", REFUSED, ids=str)
def test_what_needs_state_or_media_is_refused_with_the_reason(body: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        asked(**{"input": "x", **body})
    assert caught.value.status == 400
    assert next(iter(body)) in (caught.value.param or caught.value.message)


def test_what_says_nothing_new_is_accepted() -> None:
    said = asked(
        input="x", store=False, background=False, include=[], truncation="disabled", top_logprobs=0, user="u",
        metadata={"a": "b"}, service_tier="auto", safety_identifier="s", prompt_cache_key="k",
        previous_response_id=None, reasoning={"effort": None}, text={"format": {"type": "text"}},
        stream_options={"include_obfuscation": False},
    )  # fmt: skip
    assert said == {"model": "m", "messages": [{"role": "user", "content": "x"}]}


# ---- what the caller reads -----------------------------------------------------------------------------------------


def test_a_whole_response(run: Running) -> None:
    run.engine.script = Script(["the ", SECRET])
    answer = ask(run, instructions="be brief")
    assert answer.output_text == "the [REDACTED:api_key]"
    assert (answer.status, answer.object, answer.store) == ("completed", "response", False)
    assert answer.usage.total_tokens == 9
    assert "be brief" not in answer.model_dump_json()
    assert run.decisions(1)[0]["action"] == "redact"


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_text_and_calls_are_items(run: Running, stream: bool) -> None:
    run.engine.script = Script(deltas=RICH, finish="tool_calls")
    answer = events(run, tools=[TOOL])[-1].response if stream else ask(run, tools=[TOOL])
    thought, said, call = answer.output
    assert thought.content[0].text == "I think of [REDACTED:api_key] now"
    assert said.content[0].text == "the key is [REDACTED:api_key], yes"
    assert (call.name, call.call_id, call.arguments) == ("look", "call_1", '{"a": "[REDACTED:api_key]"}')
    assert answer.status == "completed"
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call"]


def test_the_events_of_a_stream_come_in_order(run: Running) -> None:
    run.engine.script = Script(["one ", "two ", "three"])
    found = events(run)
    assert [event.type for event in found] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.delta", "response.output_text.delta",
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in found] == list(range(len(found)))
    assert found[-4].text == "one two three"
    assert found[-1].response.usage.output_tokens == 3
    assert found[-1].response.id == found[0].response.id


def test_the_clients_own_accumulation_agrees(run: Running) -> None:
    run.engine.script = Script(deltas=RICH, finish="tool_calls")
    with client(run).responses.stream(model="stdlib", input="x", tools=[TOOL]) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert final.output_text == "the key is [REDACTED:api_key], yes"
    assert {"response.function_call_arguments.delta", "response.reasoning_text.delta"} <= kinds


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
@pytest.mark.parametrize("stream", [False, True])
def test_an_unfinished_response_says_why(run: Running, finish: str, reason: str, stream: bool) -> None:
    run.engine.script = Script(["half"], finish=finish)
    answer = events(run)[-1].response if stream else ask(run)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", reason)
    assert answer.output[0].status == "incomplete"


def test_a_blocked_stream_ends_as_failed(run: Running) -> None:
    run.engine.script = Script(["well, ", "sa", "rin is ", "more"])
    found = events(run)
    assert found[-1].type == "response.failed"
    assert found[-1].response.error.code == "content_filter"
    said = "".join(event.delta for event in found if event.type == "response.output_text.delta")
    assert said == "well, "
    assert run.decisions(1)[0]["action"] == "block"


def test_a_blocked_whole_response_is_an_error(run: Running) -> None:
    run.engine.script = Script(["sarin"])
    with pytest.raises(openai.BadRequestError, match="no-weapons"):
        ask(run)


def test_an_engine_that_dies_ends_the_response_as_failed(run: Running) -> None:
    run.engine.script = Script(["hello ", "world"], die_after=2)
    assert events(run)[-1].response.error.code == "engine_unavailable"


def test_input_rules_see_every_text(run: Running) -> None:
    card = "4111111111111111"
    call = {"type": "function_call", "call_id": "x", "name": "look", "arguments": '{"n": "\\u0034111111111111111"}'}
    body = {
        "model": "stdlib", "instructions": f"a {card}", "tools": [{**TOOL, "description": f"b {card}"}],
        "input": [{"role": "user", "content": f"c {card}"},
                  call,
                  {"type": "function_call_output", "call_id": "x", "output": f"d {card}"}],
    }  # fmt: skip
    assert post(run, body, path=PATH).status_code == 200
    assert card not in str(run.engine.requests[0])
    assert str(run.engine.requests[0]).count("[REDACTED:card]") == 5
    assert run.decisions(1)[0]["action"] == "redact"


def test_a_response_can_be_sent_back_as_input(run: Running) -> None:
    run.engine.script = Script(deltas=RICH, finish="tool_calls")
    first = ask(run, tools=[TOOL])
    items: Any = [{"role": "user", "content": "x"}, *[item.model_dump() for item in first.output]]
    items.append({"type": "function_call_output", "call_id": "call_1", "output": "42"})
    run.engine.script = Script(["done"])
    assert client(run).responses.create(model="stdlib", input=items, tools=[TOOL]).output_text == "done"
    roles = [message["role"] for message in run.engine.requests[-1]["messages"]]
    assert roles == ["user", "assistant", "tool"]


@pytest.mark.parametrize("stream", [False, True])
def test_channels_that_were_checked_apart_are_not_joined(run: Running, stream: bool) -> None:
    half = len(SECRET) // 2
    texts = ("reasoning", "reasoning_content", "content", "refusal")
    deltas = [{name: SECRET[:half] if place % 2 == 0 else SECRET[half:]} for place, name in enumerate(texts)]
    run.engine.script = Script(deltas=deltas)
    answer = events(run)[-1].response if stream else ask(run)
    assert sorted(item.type for item in answer.output) == ["message", "message", "reasoning", "reasoning"]
    assert SECRET not in answer.model_dump_json()


def test_it_answers_without_a_client(run: Running) -> None:
    headers = {"authorization": f"Bearer {run.keys['mia']}"}
    body = {"model": "stdlib", "input": "x", "stream": True}
    with HTTP.stream("POST", run.url + PATH, json=body, headers=headers) as reply:
        lines = [line for line in reply.iter_lines() if line]
    assert lines[0] == "event: response.created"
    assert lines[-2] == "event: response.completed"
    assert "[DONE]" not in "".join(lines)


@given(
    st.lists(
        st.sampled_from(["content", "reasoning", "reasoning_content", "refusal", "tool:0", "tool:1"]), max_size=12
    ),
    st.booleans(),
)
def test_deltas_add_up_to_the_items(channels: list[str], quick: bool) -> None:
    frames = ResponseFrames("hr-1", "m")
    wire = b""
    for number, channel in enumerate(channels):
        text = f"<{number}>"
        if quick and channel == "content" and channel in channels[:number]:
            wire += frames.quick(0, text)
            continue
        turn = Turn(**{channel: text}) if ":" not in channel else Turn()
        if ":" in channel:
            turn.tool_calls = [ToolPiece(int(channel[-1]), "c", function=FunctionPiece("f", text))]
        wire += frames.pieces(1, [ChunkChoice(turn)])
    wire += frames.closing(Usage(1, 2, 3))
    found = [orjson.loads(block.split(b"data: ", 1)[1]) for block in wire.split(b"\n\n") if block]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    texts: dict[int, str] = {}
    for event in found:
        if event["type"].endswith(".delta"):
            texts[event["output_index"]] = texts.get(event["output_index"], "") + event["delta"]
    for place, item in enumerate(found[-1]["response"]["output"]):
        part = {"text": item["arguments"]} if item["type"] == "function_call" else item["content"][0]
        said = part.get("text", part.get("refusal"))
        assert said == texts.get(place, "")
    assert len(found[-1]["response"]["output"]) == max(1, len(set(channels)))
