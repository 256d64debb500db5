"""Every route and every request field of the installed vLLM and of OpenAI's client: each is taken or refused by name.

The lists are read out of the installed sources, so that a new version's new field or route fails here until decided.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import msgspec
import orjson
import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from policies.endpoint.gateway import ROUTES
from policies.wire.refusal import Refusal
from policies.wire.refused_fields import REFUSED_FIELDS
from policies.wire.request import _DECODERS, decode
from tests.policies.asking import HTTP
from tests.policies.running import Running

CLASSES = {
    "chat": "ChatCompletionRequest",
    "completions": "CompletionRequest",
    "responses": "ResponsesRequest",
    "embeddings": "EmbeddingCompletionRequest",
}
VALID: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "a"}]},
    "completions": {"model": "m", "prompt": "a"},
    "responses": {"model": "m", "input": "a"},
    "embeddings": {"model": "m", "input": "a"},
}
OPENAI: dict[str, Any] = {
    "chat": chat_create_params.CompletionCreateParamsBase,
    "completions": completion_create_params.CompletionCreateParamsBase,
    "responses": response_create_params.ResponseCreateParamsBase,
    "embeddings": embedding_create_params.EmbeddingCreateParams,
}
REFUSED_ROUTES = frozenset([
    "/abort_requests", "/classify", "/cohere/v2/chat", "/cohere/v2/chat/render", "/collective_rpc", "/detokenize",
    "/docs", "/fault_tolerance/apply", "/fault_tolerance/status", "/finish_weight_update", "/generative_scoring",
    "/get_world_size", "/inference/v1/abort_requests", "/inference/v1/generate", "/init_weight_transfer_engine",
    "/invocations", "/is_paused", "/is_scaling_elastic_ep", "/is_sleeping", "/kv_event_sources", "/load", "/pause",
    "/ping", "/pooling", "/readyz", "/release_kv_cache_memory", "/rerank", "/reset_encoder_cache", "/reset_mm_cache",
    "/reset_prefix_cache", "/resume", "/scale_elastic_ep", "/score", "/server_info",
    "/shutdown_weight_transfer_engine", "/sleep", "/start_draft_weight_update", "/start_profile",
    "/start_weight_update", "/static", "/stop_profile", "/tokenize", "/tokenizer_info", "/update_weight_version",
    "/update_weights", "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/chat/completions/batch",
    "/v1/chat/completions/derender", "/v1/chat/completions/render", "/v1/completions/derender",
    "/v1/completions/render", "/v1/load_lora_adapter", "/v1/messages", "/v1/messages/count_tokens",
    "/v1/messages/render", "/v1/realtime", "/v1/rerank", "/v1/responses/render", "/v1/responses/{response_id}",
    "/v1/responses/{response_id}/cancel", "/v1/score", "/v1/systemone", "/v1/unload_lora_adapter", "/v2/embed",
    "/v2/rerank", "/version", "/wake_up", "/weight_checker", "/weight_info",
])  # fmt: skip


@cache
def sources() -> tuple[ast.Module, ...]:
    """Return the parsed sources of the installed vLLM's entry points."""
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    folder = Path(spec.origin).parent / "entrypoints"
    return tuple(ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py")))


@cache
def classes() -> dict[str, ast.ClassDef]:
    return {node.name: node for tree in sources() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def fields_of(name: str) -> set[str]:
    """Return the annotated fields of a pydantic class and of its bases."""
    node = classes().get(name)
    if node is None:
        return set()
    own = {
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and "ClassVar" not in ast.dump(item)
    }
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return {field for field in own if not field.startswith("_")}.union(*map(fields_of, bases))


def routes() -> set[str]:
    """Return every path that a router of vLLM's takes."""
    return {path for tree in sources() for node in ast.walk(tree) if isinstance(node, ast.Call) for path in _path(node)}


def _path(call: ast.Call) -> Iterator[str]:
    verbs = {"get", "post", "put", "delete", "patch", "websocket", "api_route", "add_api_route", "add_route", "mount"}
    if isinstance(call.func, ast.Attribute) and call.func.attr in verbs and call.args:
        first = call.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value.startswith("/"):
            yield first.value


def taken(surface: str) -> set[str]:
    return {field.name for field in msgspec.structs.fields(_DECODERS[surface].type)}


@pytest.mark.parametrize("surface", CLASSES)
def test_every_field_of_vllm_is_taken_or_refused_by_name(surface: str) -> None:
    found = fields_of(CLASSES[surface])
    assert len(found) > 10
    assert found - taken(surface) - REFUSED_FIELDS.keys() == set()


@pytest.mark.parametrize("surface", CLASSES)
def test_every_parameter_of_openais_client_is_taken_or_refused_by_name(surface: str) -> None:
    found = set(OPENAI[surface].__annotations__)
    assert len(found) >= 5
    assert found - taken(surface) - REFUSED_FIELDS.keys() == set()


@pytest.mark.parametrize("surface", CLASSES)
def test_what_is_not_taken_is_refused_with_its_reason(surface: str) -> None:
    decode(surface, orjson.dumps(VALID[surface]))
    for field in (fields_of(CLASSES[surface]) | set(OPENAI[surface].__annotations__)) - taken(surface):
        with pytest.raises(Refusal) as caught:
            decode(surface, orjson.dumps({**VALID[surface], field: None}))
        assert (caught.value.code, caught.value.param) == ("forbidden_field", field)
        assert REFUSED_FIELDS[field] in caught.value.message


@pytest.mark.parametrize("surface", CLASSES)
def test_what_is_taken_as_null_only_is_refused_with_its_reason_otherwise(surface: str) -> None:
    closed = taken(surface) & REFUSED_FIELDS.keys() - VALID[surface].keys() - {"suffix", "modalities"}
    assert closed or surface == "embeddings"
    for field in sorted(closed):
        decode(surface, orjson.dumps({**VALID[surface], field: None}))
        with pytest.raises(Refusal) as caught:
            decode(surface, orjson.dumps({**VALID[surface], field: "anything else"}))
        assert (caught.value.code, caught.value.param) == ("forbidden_field", field)
        assert REFUSED_FIELDS[field] in caught.value.message


def types_in(kind: Any) -> Iterator[type]:
    """Yield the record types that a type is made of."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for field in msgspec.structs.fields(kind):
            yield from types_in(field.type)
    for part in get_args(kind):
        yield from types_in(part)


@pytest.mark.parametrize("surface", CLASSES)
def test_every_record_within_a_request_is_closed(surface: str) -> None:
    found = set(types_in(_DECODERS[surface].type))
    assert len(found) > 4 or surface == "embeddings"
    assert [kind.__name__ for kind in found if not kind.__struct_config__.forbid_unknown_fields] == []


def test_every_route_of_vllm_is_taken_or_listed() -> None:
    found = routes()
    assert {"/invocations", "/v1/chat/completions", "/v1/responses"} <= found
    assert found - ROUTES.keys() - REFUSED_ROUTES == set()


def test_every_other_route_is_refused(run: Running) -> None:
    headers = {"authorization": f"Bearer {run.keys['otto']}"}
    for path in sorted(routes() | REFUSED_ROUTES):
        if path in ROUTES:
            continue
        for method in ("GET", "POST"):
            reply = HTTP.request(method, run.url + path, headers=headers, json={} if method == "POST" else None)
            assert (path, reply.status_code) == (path, 404)
            assert reply.json()["error"]["type"] == "not_found_error"
    assert run.engine.requests == []
