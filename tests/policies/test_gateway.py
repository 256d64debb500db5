"""The endpoint as its callers see it: OpenAI's own client and plain HTTP against the real gateway over sockets."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from policies.gateway import Bounds
from policies.guards import GuardOutcome
from tests.policies.running import CARD, SECRET, Running, gateway_running, until
from tests.stubs.engine import Script

SAFE = "the [REDACTED:api_key] is what you need"
SPOKEN = f"the {SECRET} is what you need"
HTTP = httpx.Client(timeout=20, trust_env=False)
ASK = [{"role": "user", "content": "what is the key?"}]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with gateway_running(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def run(shared: Running) -> Running:
    """The shared gateway with a clean slate."""
    shared.engine.script = Script()
    until(lambda: shared.gateway.desk.decisions.waiting == 0)
    shared.engine.requests.clear()
    shared.log.records.clear()
    return shared


def client(run: Running, name: str = "mia") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{run.url}/v1", api_key=run.keys[name], max_retries=0, http_client=HTTP)


def post(run: Running, body: Any, name: str = "mia", path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {run.keys.get(name, name)}", "content-type": "application/json"}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HTTP.post(run.url + path, content=content, headers=headers | more.pop("headers", {}), timeout=20)


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "stdlib", "messages": ASK, **more}


def streamed(run: Running, **more: Any) -> str:
    chunks = client(run).chat.completions.create(model="stdlib", messages=ASK, stream=True, **more)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# ---- what works ------------------------------------------------------------------------------------------------


def test_chat_whole_and_streamed_say_the_same(run: Running) -> None:
    run.engine.script = Script(["one ", "two ", "three"])
    whole = client(run).chat.completions.create(model="stdlib", messages=ASK)
    assert whole.choices[0].message.content == "one two three"
    assert whole.model == "stdlib"
    assert whole.usage is not None
    assert whole.usage.total_tokens == 10
    assert streamed(run) == "one two three"
    decided = run.decisions(2)
    assert decided[0]["output_hash"] == decided[1]["output_hash"] != ""
    assert [row["completion_tokens"] for row in decided] == [3, 3]


def test_completions_whole_and_streamed(run: Running) -> None:
    run.engine.script = Script(["def ", "f():"])
    asked = client(run).completions
    assert asked.create(model="stdlib", prompt="code", max_tokens=4).choices[0].text == "def f():"
    chunks = list(asked.create(model="stdlib", prompt="code", stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "def f():"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2
    assert run.engine.requests[0]["max_tokens"] == 4


def test_the_stream_ends_as_clients_expect(run: Running) -> None:
    lines = post(run, chat(stream=True)).text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    first, last = json.loads(lines[0][6:]), json.loads(lines[-2][6:])
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert not any("usage" in line for line in lines)


def test_models_lists_what_the_caller_may_use(run: Running) -> None:
    assert [model.id for model in client(run).models.list()] == ["stdlib"]
    assert list(client(run, "ivy").models.list()) == []


def test_several_choices_are_kept_apart(run: Running) -> None:
    run.engine.script = Script(["a sk-abc", "def123456", " z"], choices=3)
    answer = client(run).chat.completions.create(model="stdlib", messages=ASK, n=3)
    assert [choice.message.content for choice in answer.choices] == ["a [REDACTED:api_key] z"] * 3
    texts = {0: "", 1: "", 2: ""}
    for chunk in client(run).chat.completions.create(model="stdlib", messages=ASK, n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert set(texts.values()) == {"a [REDACTED:api_key] z"}


def test_receipt_and_certificate_are_in_the_headers(run: Running) -> None:
    reply = post(run, chat())
    assert reply.headers["x-hallmark-certificate"] == "sha256:cert"
    assert run.decisions(1)[0]["request_id"] == reply.headers["x-hallmark-receipt"]


def test_what_reaches_the_engine_is_what_was_checked(run: Running) -> None:
    post(run, chat(user="me", temperature=0, max_completion_tokens=9, logprobs=False))
    sent = run.engine.requests[0]
    salt = sent.pop("cache_salt")
    assert sent == {"model": "engine", "messages": ASK, "temperature": 0.0, "max_tokens": 9}
    post(run, chat(), "otto")
    assert run.engine.requests[1]["cache_salt"] != salt


# ---- output rules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_secret_is_redacted_however_it_is_cut(run: Running, seed: int) -> None:
    rng = random.Random(seed)
    pieces, rest = [], SPOKEN
    while rest:
        size = rng.choice((1, 1, 2, 3, 7, 20))
        pieces.append(rest[:size])
        rest = rest[size:]
    run.engine.script = Script(pieces, glue=seed % 2 == 0)
    assert streamed(run) == SAFE
    answer = client(run).chat.completions.create(model="stdlib", messages=ASK)
    assert answer.choices[0].message.content == SAFE
    decided = run.decisions(2)
    assert [row["action"] for row in decided] == ["redact", "redact"]
    assert "keys-stay-inside" in decided[0]["rules"]
    assert decided[0]["output_hash"] == decided[1]["output_hash"]


@pytest.mark.parametrize("channel", ["reasoning_content", "reasoning", "tool", "refusal"])
def test_every_text_channel_is_guarded(run: Running, channel: str) -> None:
    run.engine.script = Script(["{x sk-abc", "def", "123456 y}"], channel=channel)
    body = chat(tools=[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}])
    for stream in (False, True):
        text = post(run, {**body, "stream": stream}).text
        assert "abc" not in text
        assert "123456" not in text
        assert "[REDACTED:api_key]" in text


def test_log_probabilities_and_unknown_engine_fields_are_stripped(run: Running) -> None:
    run.engine.script = Script([SPOKEN], extra={"prompt_token_ids": [1, 2], "kv_transfer_params": {"a": SECRET}})
    for stream in (False, True):
        text = post(run, chat(stream=stream)).text
        assert "token" not in text.replace("_tokens", "")
        assert SECRET not in text


def test_a_tool_that_was_not_offered_is_blocked(run: Running) -> None:
    run.engine.script = Script(["{}"], channel="tool")
    assert post(run, chat()).json()["error"]["rules"] == ["tool-not-offered"]
    assert "tool-not-offered" in post(run, chat(stream=True)).text


def test_a_blocked_topic_is_refused_whole(run: Running) -> None:
    run.engine.script = Script(["to make a nerve ", "agent you need more"])
    reply = post(run, chat())
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "content_filter"
    assert reply.json()["error"]["rules"] == ["no-weapons"]
    assert "need more" not in reply.text
    assert run.decisions(1)[0]["action"] == "block"


def test_a_block_in_mid_stream_ends_it_and_the_engines_work(run: Running) -> None:
    run.engine.script = Script(["well, to make a ", "nerve agent", *[" you need more"] * 500], delay=0.005)
    aborted = run.engine.aborted
    got = ""
    finish = None
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012 - what came before the error is looked at too
        for chunk in client(run).chat.completions.create(model="stdlib", messages=ASK, stream=True):
            got += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
    assert got == "well, to make a "
    assert finish == "content_filter"
    assert caught.value.code == "content_filter"
    until(lambda: run.engine.aborted == aborted + 1)
    row = run.decisions(1)[0]
    assert (row["action"], row["finish_reason"], row["output_chars"]) == ("block", "content_filter", len(got))


def test_a_block_before_the_first_byte_is_an_error_answer(run: Running) -> None:
    run.engine.script = Script(["sarin is"])
    reply = post(run, chat(stream=True))
    assert reply.status_code == 400
    assert reply.json()["error"]["rules"] == ["no-weapons"]


# ---- input rules -----------------------------------------------------------------------------------------------


def test_input_is_masked_in_every_place(run: Running) -> None:
    tool = {"type": "function", "function": {"name": "look", "description": CARD, "parameters": {"enum": [CARD]}}}
    messages = [
        {"role": "system", "content": f"card {CARD}"},
        {"role": "user", "content": [{"type": "text", "text": f"pay with {CARD}"}]},
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "c", "type": "function", "function": {"name": "look", "arguments": f'"{CARD}"'}}]},
        {"role": "tool", "tool_call_id": "c", "content": CARD},
    ]  # fmt: skip
    assert post(run, chat(messages=messages, tools=[tool])).status_code == 200
    sent = json.dumps(run.engine.requests[0])
    assert CARD not in sent
    assert sent.count("[REDACTED:card]") == 6
    post(run, {"model": "stdlib", "prompt": ["a", CARD]}, path="/v1/completions")
    assert run.engine.requests[1]["prompt"] == ["a", "[REDACTED:card]"]
    row = run.decisions(2)[0]
    assert (row["action"], row["rules"]) == ("redact", ["members-may-use-models", "cards-stay-inside"])


def test_a_blocked_input_never_reaches_the_engine(run: Running) -> None:
    reply = post(run, chat(messages=[{"role": "user", "content": "how is sarin made?"}]))
    assert (reply.status_code, reply.json()["error"]["rules"]) == (400, ["no-weapons"])
    assert "sarin" not in reply.text
    assert run.engine.requests == []
    assert run.decisions(1)[0]["action"] == "block"


# ---- who and what may --------------------------------------------------------------------------------------------


def test_an_intern_is_denied_by_a_named_rule(run: Running) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="interns-do-not-chat") as caught:
        client(run, "ivy").chat.completions.create(model="stdlib", messages=ASK)
    assert caught.value.body["rules"] == ["interns-do-not-chat"]  # type: ignore[index]
    assert run.engine.requests == []
    row = run.decisions(1)[0]
    assert (row["action"], row["status"], row["principal"], row["groups"]) == ("deny", 403, "ivy", ["interns"])


@pytest.mark.parametrize(
    "field",
    [{"structured_outputs": {"choice": ["a"]}}, {"response_format": {"type": "json_object"}}],
)
def test_only_operators_constrain_decoding(run: Running, field: dict[str, Any]) -> None:
    denied = post(run, chat(**field))
    assert denied.status_code == 403
    assert denied.json()["error"]["rules"] == ["only-operators-constrain-decoding"]
    assert post(run, chat(**field), "otto").status_code == 200
    assert "structured_outputs" in run.engine.requests[0]
    assert "response_format" not in run.engine.requests[0]


@pytest.mark.parametrize("key", ["-", "hk_", "hk_00_11", "sk-123", "x" * 5000, "hk_\u00e9_x"])
def test_a_wrong_key_is_refused(run: Running, key: str) -> None:
    headers = {"authorization": f"Bearer {key}".encode()}
    reply = HTTP.post(f"{run.url}/v1/chat/completions", json=chat(), headers=headers)
    assert reply.status_code == 401
    assert run.decisions(1)[0]["status"] == 401


def test_another_callers_id_with_ones_own_secret_is_refused(run: Running) -> None:
    mia, otto = run.keys["mia"].split("_", 2), run.keys["otto"].split("_", 2)
    assert post(run, chat(), f"hk_{otto[1]}_{mia[2]}").status_code == 401


def test_a_missing_key_is_refused(run: Running) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        assert HTTP.post(run.url + path, json=chat()).status_code == 401
    for path in ("/v1/models", "/metrics"):
        assert HTTP.get(run.url + path).status_code == 401
    assert len(run.decisions(4)) == 4


def test_two_keys_in_one_request_are_refused(run: Running) -> None:
    key = ("authorization", f"Bearer {run.keys['mia']}")
    reply = HTTP.post(f"{run.url}/v1/chat/completions", json=chat(), headers=[key, key])
    assert reply.status_code == 400


def test_the_rate_limit_says_when_to_come_back(run: Running) -> None:
    codes = [post(run, chat(), "sam").status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    assert int(post(run, chat(), "sam").headers["retry-after"]) <= 30


VLLM_ROUTES = [
    "/invocations", "/inference/v1/generate", "/tokenize", "/detokenize", "/v1/embeddings", "/v1/responses", "/pooling",
    "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/v1/audio/transcriptions", "/load",
    "/version", "/server_info", "/reset_prefix_cache", "/sleep", "/wake_up", "/collective_rpc", "/v1/load_lora_adapter",
    "/start_profile", "/docs", "/openapi.json", "/ping", "/", "//v1/chat/completions", "/v1/chat/completions/",
    "/v1/chat%2Fcompletions/x", "/V1/chat/completions", "/v1/models/stdlib", "/v1/messages",
]  # fmt: skip


@pytest.mark.parametrize("path", VLLM_ROUTES)
def test_every_other_route_is_refused(run: Running, path: str) -> None:
    assert post(run, chat(), path=path).status_code == 404
    assert run.engine.requests == []


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/completions"), ("PUT", "/v1/models"), ("POST", "/health")])
def test_other_methods_are_refused(run: Running, method: str, path: str) -> None:
    headers = {"authorization": f"Bearer {run.keys['mia']}"}
    assert HTTP.request(method, run.url + path, headers=headers).status_code == 405


FORBIDDEN = [
    ("chat_template", "x"), ("chat_template_kwargs", {}), ("continue_final_message", True), ("echo", True),
    ("prompt_logprobs", 1), ("return_token_ids", True), ("kv_transfer_params", {}), ("priority", 1), ("best_of", 2),
    ("cache_salt", "x"), ("logprobs", True), ("top_logprobs", 3), ("logit_bias", {"1": 1}), ("bad_words", ["x"]),
    ("allowed_token_ids", [1]), ("guided_json", {}), ("add_special_tokens", True), ("include_stop_str_in_output", True),
    ("mm_processor_kwargs", {}), ("vllm_xargs", {}), ("documents", []), ("surprise", 1), ("n", 9), ("temperature", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), FORBIDDEN)
def test_a_field_outside_the_list_is_named_and_refused(run: Running, field: str, value: Any) -> None:
    reply = post(run, chat(**{field: value}), "otto")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == field
    assert run.engine.requests == []


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": "a", "surprise": 1}, "messages[0].surprise"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[0].content[0]"),
        ({"role": "hacker", "content": "a"}, "messages[0].role"),
    ],
)
def test_fields_inside_messages_are_named(run: Running, message: dict[str, Any], param: str) -> None:
    reply = post(run, chat(messages=[message]))
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith(param)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"model":"\\ud800"}', b'{"model":"\xff"}', b'{"a":' * 5000,
     b'{"model":"stdlib","messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":'
     b'{"name":"f","parameters":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}}]}"],
)  # fmt: skip
def test_a_bad_body_is_refused(run: Running, body: bytes) -> None:
    reply = post(run, body)
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert len(run.decisions(1)) == 1


def test_an_oversized_body_is_refused(run: Running) -> None:
    big = chat(messages=[{"role": "user", "content": "x" * (1 << 20)}])
    assert post(run, big).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 65_536

    headers = {"authorization": f"Bearer {run.keys['mia']}", "content-type": "application/json"}
    assert HTTP.post(f"{run.url}/v1/chat/completions", content=pieces(), headers=headers).status_code == 413


def test_other_media_types_and_encodings_are_refused(run: Running) -> None:
    assert post(run, chat(), headers={"content-type": "text/plain"}).status_code == 415
    assert post(run, chat(), headers={"content-encoding": "gzip"}).status_code == 415


def test_another_model_is_not_found(run: Running) -> None:
    with pytest.raises(openai.NotFoundError):
        client(run).chat.completions.create(model="engine", messages=ASK)
    assert run.engine.requests == []


# ---- when things go wrong ------------------------------------------------------------------------------------------


def test_the_engines_own_refusal_is_passed_on_as_a_400(run: Running) -> None:
    run.engine.script = Script(status=400, message="maximum context length is 512 tokens")
    reply = post(run, chat())
    assert reply.status_code == 400
    assert "maximum context length" in reply.json()["error"]["message"]
    run.engine.script = Script(status=500, message=SECRET)
    reply = post(run, chat())
    assert reply.status_code == 502
    assert SECRET not in reply.text
    run.engine.script = Script(status=400, message=SECRET)
    assert SECRET not in post(run, chat()).text


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnope",
        b'HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{"choices":[]}',
        b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\ndata: [DONE]\n\n",
        b'HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\ndata: {"error":"boom"}\n\n',
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_answers_nonsense_is_a_502(run: Running, raw: bytes, stream: bool) -> None:
    run.engine.script = Script(raw=raw)
    reply = post(run, chat(stream=stream))
    assert reply.status_code == 502
    assert run.decisions(1)[0]["action"] == "error"


def test_an_engine_that_dies_in_mid_stream_releases_nothing_held(run: Running) -> None:
    run.engine.script = Script(["hello ", "sk-abcdef12345", "6"], die_after=2)
    with pytest.raises(openai.APIError) as caught:
        streamed(run)
    assert caught.value.code == "engine_unavailable"
    row = run.decisions(1)[0]
    assert (row["action"], row["output_chars"]) == ("error", len("hello "))


def test_a_caller_who_hangs_up_stops_the_engine(run: Running) -> None:
    run.engine.script = Script(["word "] * 1000, delay=0.01)
    aborted = run.engine.aborted
    stream = client(run).chat.completions.create(model="stdlib", messages=ASK, stream=True)
    next(iter(stream))
    stream.close()
    until(lambda: run.engine.aborted == aborted + 1)
    row = run.decisions(1)[0]
    assert (row["status"], row["finish_reason"], row["action"]) == (499, "disconnect", "allow")


def test_a_caller_who_hangs_up_while_waiting_stops_the_engine(run: Running) -> None:
    run.engine.script = Script(["sk-abcdef"], hang_after=1)
    aborted = run.engine.aborted
    host, port = run.url.removeprefix("http://").split(":")
    body = json.dumps(chat(stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {run.keys['mia']}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(head.encode() + body)
        until(lambda: len(run.engine.requests) == 1)
    until(lambda: run.engine.aborted == aborted + 1)
    assert run.decisions(1)[0]["output_chars"] == 0


def test_every_request_has_exactly_one_decision(run: Running) -> None:
    run.engine.script = Script(["fine"])
    for number in range(60):
        kind = number % 6
        if kind == 0:
            post(run, chat())
        elif kind == 1:
            post(run, chat(stream=True))
        elif kind == 2:
            post(run, b"{")
        elif kind == 3:
            post(run, chat(), "nobody")
        elif kind == 4:
            post(run, chat(), "ivy")
        else:
            post(run, chat(), path="/nowhere")
    decided = run.decisions(60)
    assert len(decided) == 60
    assert len({row["request_id"] for row in decided}) == 60
    assert sorted({row["status"] for row in decided}) == [200, 400, 401, 403, 404]
    answered = {row["request_id"] for row in decided if row["status"] == 200}
    assert {row["request_id"] for row in run.log.of("gateway.intent")} <= answered


def test_metrics_need_a_key_and_name_nobody(run: Running) -> None:
    post(run, chat())
    page = HTTP.get(f"{run.url}/metrics", headers={"authorization": f"Bearer {run.keys['mia']}"}).text
    assert 'hallmark_requests_total{surface="chat",action="allow",status="200"}' in page
    assert "mia" not in page


# ---- gateways of their own -------------------------------------------------------------------------------------------


def test_engine_gone_means_503_and_not_ready(tmp_path: Path) -> None:
    with gateway_running(tmp_path) as run:
        assert HTTP.get(f"{run.url}/ready").status_code == 200
        run.engine.stop()
        assert post(run, chat()).status_code == 503
        run.gateway.closed["engine"] = "the engine has stopped"
        assert HTTP.get(f"{run.url}/ready").status_code == 503
        assert HTTP.get(f"{run.url}/health").status_code == 200
        reply = post(run, chat())
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")


def test_too_slow_is_a_504(tmp_path: Path) -> None:
    with gateway_running(tmp_path, bounds=Bounds(request_s=0.3)) as run:
        run.engine.script = Script(["a", "b"], hang_after=0)
        assert post(run, chat(stream=True)).status_code == 504
        until(lambda: run.engine.aborted == 1)


def test_a_log_that_cannot_be_written_refuses_and_recovers(tmp_path: Path) -> None:
    with gateway_running(tmp_path) as run:
        run.log.broken = True
        assert post(run, chat()).status_code == 200  # its record is queued, not lost
        until(lambda: not run.gateway.desk.decisions.healthy)
        assert post(run, chat()).json()["error"]["code"] == "log_unavailable"
        assert HTTP.get(f"{run.url}/ready").status_code == 503
        run.log.broken = False
        until(lambda: run.gateway.ready)
        assert post(run, chat()).status_code == 200
        assert len(run.decisions(3)) == 3


def test_strict_mode_writes_before_it_answers(tmp_path: Path) -> None:
    with gateway_running(tmp_path, mode="strict") as run:
        for stream in (False, True):
            assert post(run, chat(stream=stream)).status_code == 200
        assert len(run.log.of("gateway.decision")) == 2  # no waiting: it was durable before the end mark
        assert len(run.log.of("gateway.intent")) == 2
        run.log.broken = True
        run.engine.requests.clear()
        assert post(run, chat()).status_code == 503
        assert run.engine.requests == []


class Validator:
    """A validator outside of our rules: blocks `forbidden`, replaces `soft`."""

    async def validate(self, text: str, deadline_s: float) -> GuardOutcome:
        if "forbidden" in text:
            return GuardOutcome(False, "guard-a", "block", "", "no")
        if "soft" in text:
            return GuardOutcome(False, "guard-b", "redact", text.replace("soft", "[REDACTED:guard]"), "softened")
        return GuardOutcome(True, "", "", text, "")


def test_validators_see_the_whole_text_before_any_of_it_leaves(tmp_path: Path) -> None:
    with gateway_running(tmp_path, guards={"chat": Validator()}) as run:
        run.engine.script = Script([SPOKEN, " so", "ft"])
        assert streamed(run) == SAFE + " [REDACTED:guard]"
        answer = client(run).chat.completions.create(model="stdlib", messages=ASK)
        assert answer.choices[0].message.content == SAFE + " [REDACTED:guard]"
        run.engine.script = Script(["first ", "for", "bidden"])
        for stream in (False, True):
            reply = post(run, chat(stream=stream))
            assert (reply.status_code, reply.json()["error"]["rules"]) == (400, ["guard-a"])
        assert [row["action"] for row in run.decisions(4)] == ["redact", "redact", "block", "block"]
        said = post(run, {"model": "stdlib", "prompt": "x"}, path="/v1/completions").json()["choices"][0]["text"]
        assert said == "first forbidden"  # this validator is for chat only


FORMAT = """\
name: fixed
rules:
  - {id: yes-or-no, kind: choice, choices: ["yes", "no"]}
"""


def test_a_fixed_format_is_injected_and_checked(tmp_path: Path) -> None:
    with gateway_running(tmp_path, rules=FORMAT) as run:
        run.engine.script = Script(["y", "es"])
        assert streamed(run) == "yes"
        assert run.engine.requests[0]["structured_outputs"] == {"choice": ["yes", "no"]}
        run.engine.script = Script(["may", "be"])
        for stream in (False, True):
            assert post(run, chat(stream=stream)).json()["error"]["rules"] == ["yes-or-no"]
        refused = post(run, chat(structured_outputs={"choice": ["maybe"]}), "otto")
        assert refused.json()["error"]["code"] == "format_is_fixed"
