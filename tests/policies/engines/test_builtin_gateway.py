"""The built-in engine behind a real gateway: every surface that it has, by OpenAI's client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest

from policies.endpoint.upstream import Upstream
from tests.policies.asking import client, post
from tests.policies.running import Running, gateway_running

pytestmark = pytest.mark.slow
MESSAGES: Any = [{"role": "user", "content": "add an argument"}]
FREE: Any = {"temperature": 0, "max_tokens": 8}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def endpoint(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with gateway_running(tmp_path_factory.mktemp("gateway")) as run:
        run.desk.upstream = Upstream(engine.uds)
        fim = ("<|user|>", "<|system|>", "<|assistant|>")
        run.desk.served = replace(run.desk.served, engine_model="tiny", fim=fim, surfaces=engine.surfaces)
        yield run


def test_all_surfaces_say_the_same_whole_and_streamed(endpoint: Running) -> None:
    asked: Any = {"model": "stdlib", "messages": MESSAGES, **FREE}
    whole = client(endpoint).chat.completions.create(**asked).choices[0].message.content
    chunks = client(endpoint).chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    asked = {"model": "stdlib", "input": "add an argument", "temperature": 0, "max_output_tokens": 8}
    answer = client(endpoint).responses.create(**asked)
    last: Any = list(client(endpoint).responses.create(**asked, stream=True))[-1]
    assert last.response.output_text == answer.output_text == whole
    assert answer.usage is not None
    assert answer.usage.output_tokens == 8
    assert answer.status == "incomplete"
    items: Any = [*MESSAGES, *[item.model_dump() for item in answer.output], {"role": "user", "content": "go on"}]
    assert client(endpoint).responses.create(**{**asked, "input": items}).output_text


def test_the_middle_is_asked_for_by_prompt(endpoint: Running, tokenizer: Any) -> None:
    asked: Any = {"model": "stdlib", "prompt": "def f(", "suffix": "return a", **FREE}
    whole = client(endpoint).completions.create(**asked)
    prompt = tokenizer("<|user|>def f(<|system|>return a<|assistant|>", add_special_tokens=False)["input_ids"]
    assert whole.usage is not None
    assert abs(whole.usage.prompt_tokens - len(prompt)) <= 1
    pieces = client(endpoint).completions.create(**asked, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == whole.choices[0].text


def test_structured_output_on_every_generating_surface(endpoint: Running) -> None:
    otto, room = client(endpoint, "otto"), {"temperature": 0}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
    said = otto.chat.completions.create(
        model="stdlib", messages=MESSAGES, response_format=wanted, max_tokens=40, **room
    )
    assert json.loads(said.choices[0].message.content or "")["city"] in ("Oslo", "Rome")
    flat: Any = {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA}}
    answer = otto.responses.create(model="stdlib", input="where?", text=flat, max_output_tokens=40, **room)
    assert json.loads(answer.output_text)["city"] in ("Oslo", "Rome")
    body = {"model": "stdlib", "prompt": "where?", "response_format": wanted, "max_tokens": 40, **room}
    text = post(endpoint, body, "otto", path="/v1/completions").json()["choices"][0]["text"]
    assert json.loads(text)["city"] in ("Oslo", "Rome")


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_on_chat_and_responses(endpoint: Running, stream: bool) -> None:
    function = {"name": "weather", "parameters": SCHEMA}
    otto: Any = client(endpoint, "otto")
    asked: Any = {"model": "stdlib", "max_output_tokens": 60, "temperature": 0, "input": "where?"}
    asked |= {"tools": [{"type": "function", **function}], "tool_choice": {"type": "function", "name": "weather"}}
    answer = (
        list(otto.responses.create(**asked, stream=True))[-1].response if stream else otto.responses.create(**asked)
    )
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)["city"] in ("Oslo", "Rome")) == ("weather", True)
    chosen = {"type": "function", "function": {"name": "weather"}}
    chat: Any = {"model": "stdlib", "messages": MESSAGES, "max_tokens": 60, "temperature": 0, "tool_choice": chosen}
    message = (
        otto.chat.completions.create(**chat, tools=[{"type": "function", "function": function}]).choices[0].message
    )
    assert json.loads(message.tool_calls[0].function.arguments)["city"] in ("Oslo", "Rome")


def test_embeddings_are_refused(endpoint: Running) -> None:
    with pytest.raises(openai.NotFoundError):
        client(endpoint).embeddings.create(model="stdlib", input="a")
