"""Clients as they are: OpenAI's and LiteLLM's Python clients and curl, unchanged, on every surface."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest

from policies.endpoint.exchange import SURFACES
from tests.policies.asking import ASK, client
from tests.policies.running import SECRET, Running
from tests.stubs.engine import Script

SAFE = "the [REDACTED:api_key] is it"
SPOKEN = ["the ", SECRET[:6], SECRET[6:], " is it"]
TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
ARGUMENTS = '{"key": "sk-\\u0061bcdef123456", "n": 1}'


@pytest.fixture
def all_surfaces(run: Running) -> Iterator[Running]:
    """The shared gateway while its engine has embeddings too."""
    before = run.desk.served
    run.desk.served = replace(before, surfaces=SURFACES | {"embeddings"})
    yield run
    run.desk.served = before


def openai_chat(run: Running) -> str:
    return client(run).chat.completions.create(model="stdlib", messages=ASK).choices[0].message.content or ""


def openai_chat_stream(run: Running) -> str:
    with client(run).chat.completions.stream(model="stdlib", messages=ASK) as stream:
        for _ in stream:
            pass
        return stream.get_final_completion().choices[0].message.content or ""


def openai_completion(run: Running) -> str:
    return client(run).completions.create(model="stdlib", prompt="a").choices[0].text


def openai_completion_stream(run: Running) -> str:
    chunks = client(run).completions.create(model="stdlib", prompt="a", stream=True)
    return "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)


def openai_responses(run: Running) -> str:
    return client(run).responses.create(model="stdlib", input="a").output_text


def openai_responses_stream(run: Running) -> str:
    with client(run).responses.stream(model="stdlib", input="a") as stream:
        for _ in stream:
            pass
        return stream.get_final_response().output_text


@pytest.mark.parametrize(
    "ask",
    [openai_chat, openai_chat_stream, openai_completion, openai_completion_stream, openai_responses,
     openai_responses_stream],
)  # fmt: skip
def test_openais_client(run: Running, ask: Callable[[Running], str]) -> None:
    run.engine.script = Script(SPOKEN)
    assert ask(run) == SAFE


@pytest.mark.parametrize("stream", [False, True])
def test_openais_client_calls_tools(run: Running, stream: bool) -> None:
    pieces = [ARGUMENTS[place : place + 3] for place in range(0, len(ARGUMENTS), 3)]
    run.engine.script = Script(pieces, "tool", finish="tool_calls")
    if stream:
        with client(run).chat.completions.stream(model="stdlib", messages=ASK, tools=[TOOL]) as events:
            for _ in events:
                pass
            message: Any = events.get_final_completion().choices[0].message
    else:
        message = client(run).chat.completions.create(model="stdlib", messages=ASK, tools=[TOOL]).choices[0].message
    call = message.tool_calls[0]
    assert call.function.name == "look"
    assert json.loads(call.function.arguments) == {"key": "[REDACTED:api_key]", "n": 1}


def test_openais_client_reads_structured_output(run: Running) -> None:
    import pydantic

    class Place(pydantic.BaseModel):
        city: str

    run.engine.script = Script(['{"city": ', '"Rome"}'])
    answer = client(run, "otto").chat.completions.parse(model="stdlib", messages=ASK, response_format=Place)
    assert answer.choices[0].message.parsed == Place(city="Rome")
    parsed = client(run, "otto").responses.parse(model="stdlib", input="a", text_format=Place)
    assert parsed.output_parsed == Place(city="Rome")
    assert [set(sent["structured_outputs"]) for sent in run.engine.requests] == [{"json"}, {"json"}]


def test_openais_client_raises_its_own_errors(run: Running) -> None:
    for name, model, error in (
        ("nobody", "stdlib", openai.AuthenticationError),
        ("ivy", "stdlib", openai.PermissionDeniedError),
        ("mia", "other", openai.NotFoundError),
    ):
        for create in (
            lambda chosen, model=model: chosen.chat.completions.create(model=model, messages=ASK),
            lambda chosen, model=model: chosen.responses.create(model=model, input="a"),
        ):
            keyed = client(run) if name != "nobody" else client(run).with_options(api_key="nobody")
            with pytest.raises(error):
                create(keyed if name in ("mia", "nobody") else client(run, name))


def test_openais_client_lists_and_retrieves_models(run: Running) -> None:
    (listed,) = client(run).models.list()
    assert client(run).models.retrieve(listed.id) == listed
    with pytest.raises(openai.NotFoundError, match="no such model on this endpoint"):
        client(run, "ivy").models.retrieve(listed.id)


def test_nothing_of_probabilities_or_token_ids_is_in_an_answer(all_surfaces: Running) -> None:
    run = all_surfaces
    run.engine.script = Script(["fine"], extra={"prompt_token_ids": [7], "token_ids": [7], "prompt_logprobs": [7]})
    for stream in (False, True):
        answers = [
            client(run).chat.completions.create(model="stdlib", messages=ASK, stream=stream),
            client(run).completions.create(model="stdlib", prompt="a", stream=stream),
            client(run).responses.create(model="stdlib", input="a", stream=stream),
        ]
        for answer in answers:
            for part in answer if stream else [answer]:
                said = part.model_dump_json(exclude_none=True)
                assert "token_ids" not in said
                assert '"tokens"' not in said
                assert '"prompt_logprobs"' not in said


LITELLM = """\
import asyncio, json, sys
import litellm
litellm.telemetry = False
url, key = sys.argv[1:3]
asked = dict(model="openai/stdlib", api_base=url + "/v1", api_key=key, max_retries=0)
ask = [{"role": "user", "content": "hi"}]
out = {}
out["chat"] = litellm.completion(messages=ask, **asked).choices[0].message.content
chunks = litellm.completion(messages=ask, stream=True, **asked)
out["chat stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
text = {**asked, "model": "text-completion-openai/stdlib"}
out["completions"] = litellm.text_completion(prompt="hi", **text).choices[0].text
out["responses"] = litellm.responses(input="hi", **asked).output[0].content[0].text
events = litellm.responses(input="hi", stream=True, **asked)
deltas = [event.delta for event in events if getattr(event, "type", "") == "response.output_text.delta"]
out["responses stream"] = "".join(deltas)
vectors = litellm.embedding(input=["hi"], **asked)
out["embeddings"] = vectors.data[0]["embedding"]
there = dict(check_provider_endpoint=True, custom_llm_provider="openai", api_base=url + "/v1", api_key=key)
out["models"] = litellm.get_valid_models(**there)
try:
    litellm.completion(messages=ask, **{**asked, "api_key": "nobody"})
except litellm.AuthenticationError as error:
    out["error"] = error.status_code
print(json.dumps(out))
"""


@pytest.mark.slow
def test_litellms_client(all_surfaces: Running) -> None:
    run = all_surfaces
    run.engine.script = Script(SPOKEN)
    quiet = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", LITELLM, run.url, run.keys["mia"]],
        capture_output=True, text=True, timeout=100, env=quiet, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.pop("embeddings") == [0.5, -1.0, 2.0]
    assert said.pop("error") == 401
    assert said.pop("models") == ["stdlib"]
    assert said == dict.fromkeys(("chat", "chat stream", "completions", "responses", "responses stream"), SAFE)


CURLS: list[tuple[str, Any, str]] = [
    ("/v1/chat/completions", {"messages": ASK}, f'"content":"{SAFE}"'),
    ("/v1/completions", {"prompt": "a"}, f'"text":"{SAFE}"'),
    ("/v1/responses", {"input": "a"}, f'"text":"{SAFE}"'),
    ("/v1/responses", {"input": "a", "stream": True}, "event: response.completed"),
    ("/v1/chat/completions", {"messages": ASK, "stream": True}, "data: [DONE]"),
    ("/v1/embeddings", {"input": "a"}, '"embedding":[0.5,-1.0,1.0]'),
    ("/v1/chat/completions", {"messages": ASK, "echo": True}, '"code":"forbidden_field"'),
]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize(("path", "body", "expected"), CURLS)
def test_curl(all_surfaces: Running, path: str, body: dict[str, Any], expected: str) -> None:
    run = all_surfaces
    run.engine.script = Script(SPOKEN)
    done = subprocess.run(
        ["curl", "-sSN", "--noproxy", "*", run.url + path, "-H", f"Authorization: Bearer {run.keys['mia']}",
         "-H", "Content-Type: application/json", "-d", json.dumps({"model": "stdlib", **body})],
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    assert expected in done.stdout
    assert SECRET not in done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize(
    ("path", "expected"), [("/v1/models", '"object":"list"'), ("/v1/models/stdlib", '{"id":"stdlib","object":"model"')]
)
def test_curl_asks_for_models(run: Running, path: str, expected: str) -> None:
    done = subprocess.run(
        ["curl", "-sSN", "--noproxy", "*", run.url + path, "-H", f"Authorization: Bearer {run.keys['mia']}"],
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    assert expected in done.stdout
