"""Our model for inspect-ai: messages and tools out, answers, reasoning and calls in; scores are numbers or errors."""

import asyncio
import math

import pytest

from evals.harness.provider import Client
from registry.errors import SpecError
from tests.stubs.openai_server import FakeEndpoint, called, said

pytest.importorskip("inspect_ai")


def generate(answer, messages, tools=(), choice="auto", **config):
    """Ask the model once; return its output and the body that arrived."""
    from inspect_ai.model import GenerateConfig

    from evals.children.provider import HallmarkModel

    async def once(model):
        try:
            return await model.generate(list(messages), list(tools), choice, GenerateConfig(**config))
        finally:
            await model.aclose()

    with FakeEndpoint(lambda body, count: answer) as endpoint:
        target = {"base_url": endpoint.base_url, "api_key": "k", "headers": {}}
        output = asyncio.run(once(HallmarkModel("model", client=Client(target))))
    return output, endpoint.asked[0]


def add():
    from inspect_ai.tool import ToolInfo, ToolParams
    from inspect_ai.util import JSONSchema

    number = JSONSchema(type="integer")
    return ToolInfo(
        name="add", description="Adds.", parameters=ToolParams(properties={"x": number, "y": number}, required=["x"])
    )


def user(text="hi"):
    from inspect_ai.model import ChatMessageUser

    return ChatMessageUser(content=text)


def test_settings_are_sent_and_nothing_else():
    _, body = generate(
        said("x"), [user()], temperature=0.5, top_p=0.9, top_k=5, stop_seqs=["."], seed=1, max_tokens=9,
        frequency_penalty=0.1, presence_penalty=0.2, extra_body={"structured_outputs": {"choice": ["a"]}},
    )  # fmt: skip
    assert body == {
        "model": "candidate", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5, "top_p": 0.9,
        "top_k": 5, "stop": ["."], "seed": 1, "max_tokens": 9, "frequency_penalty": 0.1, "presence_penalty": 0.2,
        "structured_outputs": {"choice": ["a"]},
    }  # fmt: skip


def test_a_schema_for_the_answer_is_sent_as_the_api_takes_it():
    from inspect_ai.model import ResponseSchema
    from inspect_ai.util import JSONSchema

    schema = ResponseSchema(name="colour", json_schema=JSONSchema(type="object"))
    _, body = generate(said("x"), [user()], response_schema=schema)
    assert body["response_format"]["json_schema"]["name"] == "colour"
    assert body["response_format"]["json_schema"]["schema"]["type"] == "object"


@pytest.mark.parametrize(
    ("choice", "sent"),
    [("auto", "auto"), ("any", "required"), ("none", "none"),
     ("add", {"type": "function", "function": {"name": "add"}})],
)  # fmt: skip
def test_tools_and_the_choice_among_them(choice, sent):
    from inspect_ai.tool import ToolFunction

    given = ToolFunction(name="add") if choice == "add" else choice
    _, body = generate(said("x"), [user()], [add()], given, parallel_tool_calls=False)
    assert body["tool_choice"] == sent
    assert body["parallel_tool_calls"] is False
    (tool,) = body["tools"]
    assert (tool["type"], tool["function"]["name"], tool["function"]["description"]) == ("function", "add", "Adds.")
    assert tool["function"]["parameters"]["required"] == ["x"]


@pytest.mark.parametrize(
    ("arguments", "parsed", "fails"),
    [('{"x": 1, "y": 2}', {"x": 1, "y": 2}, False), ("", {}, False), ('{"x": ', {}, True), ("7", {"x": 7}, False)],
)
def test_calls_are_parsed_and_what_does_not_parse_is_said(arguments, parsed, fails):
    output, _ = generate(called(("add", arguments)), [user()], [add()])
    (call,) = output.message.tool_calls
    assert (call.function, call.id, call.arguments, call.parse_error is not None) == ("add", "call_0", parsed, fails)
    assert output.stop_reason == "tool_calls"


def test_a_conversation_with_tools_goes_out_in_full():
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageTool
    from inspect_ai.tool import ToolCall, ToolCallError

    call = ToolCall(id="7", function="add", arguments={"x": 1})
    _, body = generate(
        said("x"),
        [ChatMessageSystem(content="be brief"), user(), ChatMessageAssistant(content="", tool_calls=[call]),
         ChatMessageTool(content="2", tool_call_id="7", function="add"),
         ChatMessageTool(content="", tool_call_id="8", error=ToolCallError("timeout", "too slow"))],
    )  # fmt: skip
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool", "tool"]
    assert body["messages"][2]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"x": 1}'}
    assert body["messages"][3] == {"role": "tool", "content": "2", "tool_call_id": "7"}
    assert body["messages"][4]["content"] == "Error: too slow"


@pytest.mark.parametrize("answer", [said("four", reasoning_content="2 + 2"), said("<think>2 + 2</think>four")])
def test_reasoning_is_kept_apart(answer):
    output, _ = generate(answer, [user()])
    assert output.completion == "four"
    assert output.message.content[0].reasoning == "2 + 2"
    assert output.usage.total_tokens == 5


def test_only_text_can_be_sent():
    from inspect_ai.model import ChatMessageUser, ContentImage, ContentText

    shown = ChatMessageUser(content=[ContentText(text="what?"), ContentImage(image="a.png")])
    with pytest.raises(SpecError, match="`image`"):
        generate(said("x"), [shown])


def test_tokens_are_estimated_without_a_download():
    from evals.children.provider import HallmarkModel

    assert asyncio.run(HallmarkModel("model", client=None).count_text_tokens("abcdef")) == 2


@pytest.mark.parametrize(
    ("value", "number"),
    [("C", 1.0), ("I", 0.0), ("P", 0.5), ("N", 0.0), (True, 1.0), (3, 3.0), ("0.25", 0.25), ("Yes", 1.0)],
)
def test_scores_are_numbers(value, number):
    from evals.children.inspect_rows import number as read

    assert read(value) == number


@pytest.mark.parametrize("value", ["perhaps", "", None, [1], {"a": 1}, "nan"])
def test_what_is_no_number_is_none(value):
    from evals.children.inspect_rows import number

    assert math.isnan(number(value))
