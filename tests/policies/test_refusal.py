"""Who and what is refused, each with the right code and the name of what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.policies.asking import ASK, HTTP, chat, client, post
from tests.policies.running import Running


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
    for path in ("/v1/models", "/v1/models/stdlib", "/v1/models/other", "/metrics"):
        assert HTTP.get(run.url + path).status_code == 401
    assert len(run.decisions(6)) == 6


def test_two_keys_in_one_request_are_refused(run: Running) -> None:
    key = ("authorization", f"Bearer {run.keys['mia']}")
    reply = HTTP.post(f"{run.url}/v1/chat/completions", json=chat(), headers=[key, key])
    assert reply.status_code == 400


def test_the_rate_limit_says_when_to_come_back(run: Running) -> None:
    codes = [post(run, chat(), "sam").status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    assert int(post(run, chat(), "sam").headers["retry-after"]) <= 30


VLLM_ROUTES = [
    "/invocations", "/inference/v1/generate", "/tokenize", "/detokenize", "/v1/responses/x", "/pooling",
    "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/v1/audio/transcriptions", "/load",
    "/version", "/server_info", "/reset_prefix_cache", "/sleep", "/wake_up", "/collective_rpc", "/v1/load_lora_adapter",
    "/start_profile", "/docs", "/openapi.json", "/ping", "/", "//v1/chat/completions", "/v1/chat/completions/",
    "/v1/chat%2Fcompletions/x", "/V1/chat/completions", "/v1/models/", "/v1/modelsx", "/v1/messages",
]  # fmt: skip


@pytest.mark.parametrize("path", VLLM_ROUTES)
def test_every_other_route_is_refused(run: Running, path: str) -> None:
    assert post(run, chat(), path=path).status_code == 404
    assert run.engine.requests == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/completions"), ("PUT", "/v1/models"), ("POST", "/health"), ("DELETE", "/v1/models/stdlib"),
     ("POST", "/v1/models/stdlib")],
)  # fmt: skip
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


FORMATS = [
    ({"type": "text"}, None),
    ({"type": "json_object"}, {"type": "object"}),
    ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array"}}}, {"type": "array"}),
]


@pytest.mark.parametrize(("wanted", "schema"), FORMATS)
def test_a_response_format_becomes_a_constraint(run: Running, wanted: dict[str, Any], schema: Any) -> None:
    assert post(run, chat(response_format=wanted), "otto").status_code == 200
    assert run.engine.requests[0].get("structured_outputs") == (None if schema is None else {"json": schema})


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "grammar"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        {"structured_outputs": {}},
        {"structured_outputs": {"regex": "a", "choice": ["b"]}},
    ],
)
def test_a_constraint_that_makes_no_sense_is_refused(run: Running, fields: dict[str, Any]) -> None:
    assert post(run, chat(**fields), "otto").status_code == 400
    assert run.engine.requests == []
