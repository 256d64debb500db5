"""The whole surface against the real vLLM, through a real gateway: three releases of one base behind one engine."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from policies.access.authorize import Authorizer, ModelState
from policies.access.callers import Callers
from policies.bundle import compile_bundle
from policies.endpoint.audit import DecisionLog
from policies.endpoint.desk import Desk, Front
from policies.endpoint.exchange import Served
from policies.endpoint.gateway import Gateway
from policies.endpoint.listener import Listener, bind, url_of
from policies.endpoint.upstream import Upstream
from policies.enforcement.engine import Enforcer
from tests.policies.running import RULES, SECRET, Written, caller_rows, make_bundle
from tests.waiting import until

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]
RULES_HERE = RULES + "  - {id: ends-here, kind: terms, side: output, action: block, type: end, terms: [plutonium]}\n"
MESSAGES: Any = [{"role": "user", "content": "add an argument"}]
FREE = {"temperature": 0, "max_tokens": 8}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
NAMED: Any = {"type": "function", "function": {"name": "weather"}}
FORMS = {
    "coded": ("kind: format, pattern: '[A-Z]{2}-[0-9]{3}(?: ok)?'", r"[A-Z]{2}-[0-9]{3}(?: ok)?"),
    "chosen": ("kind: choice, choices: ['left', 'right', 'straight on']", "left|right|straight on"),
}
"""Models whose bundle fixes the form of every answer: the rule, and what its answers match."""
LONG = 6000
"""Tokens of an answer that nobody waits for: several seconds of work."""


@dataclass
class Endpoint:
    """A running gateway, its keys, and the engine's own metrics."""

    url: str
    gateway: Gateway
    keys: dict[str, str]
    log: Written
    engine: httpx.Client

    def client(self, name: str = "otto") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.keys[name], max_retries=0, timeout=120)

    def post(self, path: str, name: str = "otto", **body: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[name]}"}
        return httpx.post(f"{self.url}/v1/{path}", json=body, headers=headers, timeout=120, trust_env=False)

    def metric(self, name: str) -> float:
        lines = self.engine.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:{name}{{"))

    def settled(self) -> float:
        """Return the tokens generated so far, once nothing runs."""
        time.sleep(0.3)  # a request that has just begun is not counted yet
        until(lambda: self.metric("num_requests_running") == 0 and self.metric("num_requests_waiting") == 0, 60)
        time.sleep(0.3)
        return self.metric("generation_tokens_total")


@pytest.fixture(scope="module")
def endpoint(vllm: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("gateway")
    bundle = make_bundle(folder / "bundle", RULES_HERE)
    keys: dict[str, str] = {}
    rows, written = caller_rows(keys), Written()
    log = DecisionLog(written, endpoint="prod", mode="group")
    enforcer, upstream = Enforcer(compile_bundle(bundle)), Upstream(vllm.uds)
    desks = []
    makers = [(name, model, bundle, enforcer) for name, model in (("base", "tiny"), ("one", "one"), ("two", "two"))]
    for name, (rule, _) in FORMS.items():
        formed = make_bundle(folder / name, f"name: formed\nrules:\n  - {{id: form, {rule}}}\n")
        makers.append((name, "tiny", formed, Enforcer(compile_bundle(formed))))
    for name, engine_model, bound, enforcing in makers:
        certificate = f"sha256:cert-{name}"
        served = Served(
            "prod", name, engine_model, f"sha256:{name}", certificate, bound.digest,
            fim=("<|user|>", "<|system|>", "<|assistant|>"), surfaces=vllm.surfaces,
        )  # fmt: skip
        state = ModelState(name, f"sha256:{name}", certificate, "certified")
        desks.append(Desk(served, state, enforcing, Authorizer(bound), upstream))
    gateway = Gateway(Front(Callers(lambda: rows), log, b"key" * 8), desks)
    with _listening(gateway, folder) as url, _engine_client(vllm.uds) as engine:
        yield Endpoint(url, gateway, keys, written, engine)
    assert log.close(10)


@contextmanager
def _listening(gateway: Gateway, folder: Path) -> Iterator[str]:
    bound = bind("127.0.0.1", 0)
    listener = Listener(gateway, bound, drain_s=5)
    thread = threading.Thread(target=listener.run, daemon=True)
    thread.start()
    try:
        until(lambda: listener.started)
        yield url_of(bound)
    finally:
        listener.stop()
        thread.join(20)


@contextmanager
def _engine_client(uds: Path) -> Iterator[httpx.Client]:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(uds)), base_url="http://engine", timeout=60) as client:
        yield client


def test_chat_completions_and_responses_answer_whole_and_streamed(endpoint: Endpoint) -> None:
    client = endpoint.client()
    whole = client.chat.completions.create(model="base", messages=MESSAGES, **FREE).choices[0].message.content
    chunks = client.chat.completions.create(model="base", messages=MESSAGES, stream=True, **FREE)
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == whole
    text = client.completions.create(model="base", prompt="def f(", **FREE).choices[0].text
    pieces = client.completions.create(model="base", prompt="def f(", stream=True, **FREE)
    assert "".join(one.choices[0].text for one in pieces if one.choices) == text
    asked = {"model": "base", "input": "add an argument", "temperature": 0, "max_output_tokens": 8}
    answer = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert whole
    assert said == answer.output_text == whole


def test_the_middle_is_asked_for_by_prompt(endpoint: Endpoint, tokenizer: Any) -> None:
    answer = endpoint.client().completions.create(model="base", prompt="def f(", suffix="return a", **FREE)
    prompt = tokenizer("<|user|>def f(<|system|>return a<|assistant|>", add_special_tokens=False)["input_ids"]
    assert answer.usage is not None
    assert abs(answer.usage.prompt_tokens - len(prompt)) <= 1  # with or without the beginning of sequence


def test_each_adapter_answers_in_its_own_words_under_its_own_certificate(endpoint: Endpoint) -> None:
    texts, certificates = set(), []
    for name in ("base", "one", "two"):
        answer = endpoint.post("chat/completions", model=name, messages=MESSAGES, **FREE)
        texts.add(answer.json()["choices"][0]["message"]["content"])
        certificates.append(answer.headers["x-hallmark-certificate"])
    assert len(texts) == 3
    assert certificates == ["sha256:cert-base", "sha256:cert-one", "sha256:cert-two"]
    assert endpoint.post("chat/completions", model="tiny", messages=MESSAGES).status_code == 404


def test_tool_calls_are_named_required_and_read_from_the_text(endpoint: Endpoint) -> None:
    client = endpoint.client()
    asked: dict[str, Any] = {"model": "base", "messages": MESSAGES, "tools": TOOLS, "max_tokens": 60, "temperature": 0}
    (call,) = client.chat.completions.create(**asked, tool_choice=NAMED).choices[0].message.tool_calls or ()
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in {"Oslo", "Rome"}
    for choice in (NAMED, "required"):
        pieces = [
            piece.function
            for chunk in client.chat.completions.create(**asked, tool_choice=choice, stream=True)
            for one in chunk.choices
            for piece in one.delta.tool_calls or ()
            if piece.function
        ]
        assert [piece.name for piece in pieces if piece.name] == ["weather"]
        arguments = "".join(piece.arguments or "" for piece in pieces)
        # vLLM's schema of a required call has room for more keys, which a random model fills without end.
        assert arguments.startswith(('{"city":"Oslo","days":', '{"city":"Rome","days":'))
    written = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
    choice = endpoint.post("chat/completions", model="base", messages=MESSAGES, tools=TOOLS, max_tokens=150,
                           structured_outputs={"choice": [written]}).json()["choices"][0]  # fmt: skip
    assert choice["finish_reason"] == "tool_calls"
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome"}


def test_structured_outputs_hold_their_form(endpoint: Endpoint) -> None:
    client = endpoint.client()
    form: Any = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}
    answer = client.chat.completions.create(model="base", messages=MESSAGES, max_tokens=100, response_format=form)
    assert set(json.loads(answer.choices[0].message.content or "")) == {"city", "days"}
    chosen = endpoint.post("completions", model="two", prompt="a", max_tokens=20,
                           structured_outputs={"choice": ["yes", "no"]})  # fmt: skip
    assert chosen.json()["choices"][0]["text"] in {"yes", "no"}


@pytest.mark.parametrize("name", list(FORMS))
def test_a_form_that_a_rule_fixes_is_kept_while_decoding(endpoint: Endpoint, name: str) -> None:
    asked: dict[str, Any] = {"model": name, "messages": MESSAGES, "max_tokens": 40}
    client = endpoint.client()
    for seed in range(4):
        answer = client.chat.completions.create(**asked, seed=seed).choices[0].message.content or ""
        assert re.fullmatch(FORMS[name][1], answer)
    chunks = client.chat.completions.create(**asked, stream=True)
    said = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert re.fullmatch(FORMS[name][1], said)
    cut = endpoint.post("chat/completions", **asked | {"max_tokens": 1})
    assert (cut.status_code, cut.json()["error"]["rules"]) == (400, ["form"])
    own = endpoint.post("chat/completions", **asked, structured_outputs={"regex": "[a-z]{4}"})
    assert (own.status_code, own.json()["error"]["code"]) == (400, "format_is_fixed")


def test_a_secret_is_redacted_in_mid_stream(endpoint: Endpoint) -> None:
    body = {"model": "one", "messages": MESSAGES, "stream": True, "max_tokens": 100,
            "structured_outputs": {"choice": [f"the key is {SECRET} ok"]}}  # fmt: skip
    text = endpoint.post("chat/completions", **body).text
    assert SECRET[:8] not in text
    assert "[REDACTED:api_key]" in text.replace("\\", "")


def test_log_probabilities_that_the_engine_sends_are_stripped(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = endpoint.gateway.desks[0]
    probed = {"logprobs": True, "top_logprobs": 3}
    direct = {"model": "tiny", "messages": MESSAGES, **FREE, **probed}
    assert endpoint.engine.post("/v1/chat/completions", json=direct).json()["choices"][0]["logprobs"]["content"]
    monkeypatch.setattr(desk, "injected", {**desk.injected, **probed})
    for stream in (False, True):
        text = endpoint.post("chat/completions", model="base", messages=MESSAGES, stream=stream, **FREE).text
        assert '"content":' in text
        assert "top_logprobs" not in text
        assert "bytes" not in text


def test_a_block_stops_the_generation(endpoint: Endpoint) -> None:
    body = {"model": "base", "messages": MESSAGES, "max_tokens": LONG,
            "structured_outputs": {"regex": "well plutonium [a-z ]{30000}"}}  # fmt: skip
    before = endpoint.settled()
    answer = endpoint.post("chat/completions", stream=True, **body)
    assert "content_filter" in answer.text or answer.status_code == 400
    assert "plutonium" not in answer.text
    assert endpoint.settled() - before < LONG / 3


@pytest.mark.parametrize("leave", ["at once", "in mid-stream", "with a whole answer to come"])
def test_a_caller_who_leaves_stops_the_generation(endpoint: Endpoint, leave: str) -> None:
    whole = leave == "with a whole answer to come"
    body = {"model": "two", "messages": MESSAGES, "max_tokens": LONG, "stream": not whole,
            "structured_outputs": {"regex": "[a-z ]{30000}"}}  # fmt: skip
    headers = {"authorization": f"Bearer {endpoint.keys['otto']}", "content-type": "application/json"}
    before = endpoint.settled()
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    if leave == "in mid-stream":
        answer = connection.getresponse()
        assert (answer.status, answer.read(5)) == (200, b"data:")
    elif whole:
        until(lambda: endpoint.metric("num_requests_running") == 1, 60)
    connection.close()
    assert endpoint.settled() - before < LONG / 3


def test_callers_do_not_share_a_prefix_cache(endpoint: Endpoint) -> None:
    """The engine computes again what another caller has asked, and only that."""
    prompt = f"{time.time()} " + " ".join(f"word{number}" for number in range(150))

    def hits(name: str) -> float:
        before = endpoint.metric("prefix_cache_hits_total")
        answer = endpoint.post("completions", name, model="base", prompt=prompt, max_tokens=1)
        assert answer.status_code == 200
        endpoint.settled()
        return endpoint.metric("prefix_cache_hits_total") - before

    assert hits("otto") == 0
    assert hits("otto") > 0
    assert hits("mia") == 0


def test_every_request_was_decided_and_written(endpoint: Endpoint) -> None:
    answer = endpoint.post("chat/completions", model="two", messages=MESSAGES, **FREE)
    receipt = answer.headers["x-hallmark-receipt"]
    until(lambda: any(one["request_id"] == receipt for one in endpoint.log.of("gateway.decision")))
    (decision,) = [one for one in endpoint.log.of("gateway.decision") if one["request_id"] == receipt]
    assert (decision["certificate"], decision["completion_tokens"]) == ("sha256:cert-two", 8)
