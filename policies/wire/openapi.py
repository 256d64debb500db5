"""The endpoint's surface as an OpenAPI 3.1 document, made of the same types that decode requests and write answers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from policies.wire.embeddings import Embeddings, EmbeddingsRequest
from policies.wire.request_types import ChatRequest, CompletionRequest
from policies.wire.responses import ResponsesRequest
from policies.wire.surfaces import ChatAnswer, TextAnswer


class ErrorDetail(Struct):
    """What went wrong, in OpenAI's shape; `rules` decided it, `request_id` is the receipt."""

    message: str
    type: str
    param: str | None
    code: str | None
    rules: list[str]
    request_id: str


class Error(Struct):
    """Every answer that is not a success."""

    error: ErrorDetail


class ListedModel(Struct):
    """A model that the caller may ask for."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(Struct):
    """The models that the caller may ask for."""

    object: Literal["list"]
    data: list[ListedModel]


class Probe(Struct):
    """Whether the endpoint is up, or ready."""

    status: Literal["ok", "unavailable"]


class Response(Struct):
    """A response; its output items are messages, reasoning and function calls."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


_POSTS: dict[str, tuple[str, type, type, str]] = {
    "/v1/chat/completions": ("createChatCompletion", ChatRequest, ChatAnswer, "An answer to a chat."),
    "/v1/completions": ("createCompletion", CompletionRequest, TextAnswer, "A text that continues a prompt."),
    "/v1/responses": ("createResponse", ResponsesRequest, Response, "A response; nothing of it is stored."),
    "/v1/embeddings": ("createEmbedding", EmbeddingsRequest, Embeddings, "A vector for each text."),
}
_GETS: dict[str, tuple[str, type, str]] = {
    "/v1/models": ("listModels", Models, "The models that the caller may ask for."),
    "/v1/models/{model}": ("retrieveModel", ListedModel, "One model that the caller may ask for."),
    "/health": ("health", Probe, "Whether the process is up."),
    "/ready": ("ready", Probe, "Whether requests can be answered."),
}
_EVENT = {
    "type": "object",
    "description": "Each server-sent event; `data` is JSON, or `[DONE]` at the end of a stream of completions.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
_MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
_OPEN = ("/health", "/ready")
_ERRORS = {
    "400": "wrong or forbidden, or blocked by a rule",
    "401": "no valid key, token or certificate",
    "403": "denied by an access rule",
    "404": "no such model, or its engine has no such surface",
    "408": "the body did not arrive in time",
    "413": "the body is too large",
    "415": "not JSON, or compressed",
    "429": "over a limit or a budget; `Retry-After` says when to come back",
    "502": "the engine did not answer properly",
    "503": "not ready; `Retry-After` says when to come back",
    "504": "the answer took too long",
}


def document(version: str = "1") -> dict[str, Any]:
    """Return the document; `version` is what it says of itself. It is new on every call and plain JSON."""
    types = [
        Error,
        *[kind for _, *kinds, _ in _POSTS.values() for kind in kinds],
        *[kind for _, kind, _ in _GETS.values()],
    ]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    components["Usage"]["properties"].pop("mean_logprob")  # for the decision log, never sent
    named = dict(zip(types, schemas, strict=True))
    paths: dict[str, Any] = {}
    for path, (name, asked, answered, summary) in _POSTS.items():
        paths[path] = {
            "post": _post(name, summary, named[asked], named[answered], streams=asked is not EmbeddingsRequest)
        }
    for path, (name, answered, summary) in _GETS.items():
        paths[path] = {"get": _get(name, summary, named[answered], secured=path not in _OPEN)}
        if path.endswith("/{model}"):
            paths[path]["get"]["parameters"] = [_MODEL]
    metrics = _answer("Prometheus metrics.", {"text/plain": {"schema": {"type": "string"}}})
    paths["/metrics"] = {
        "get": _operation("metrics", "Counters, for a caller with a key.", {"200": metrics}, secured=True)
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Hallmark endpoint", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _post(name: str, summary: str, asked: dict[str, Any], answered: dict[str, Any], *, streams: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": answered}}
    if streams:
        content["text/event-stream"] = {"schema": _EVENT}
    body = {"required": True, "content": {"application/json": {"schema": asked}}}
    return {**_operation(name, summary, {"200": _answer(summary, content)}, secured=True), "requestBody": body}


def _get(name: str, summary: str, answered: dict[str, Any], *, secured: bool) -> dict[str, Any]:
    content = {"application/json": {"schema": answered}}
    answers = {"200": _answer(summary, content)}
    if not secured:
        answers["503"] = _answer("Not ready.", content)
    return _operation(name, summary, answers, secured=secured)


def _operation(name: str, summary: str, answers: dict[str, Any], *, secured: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": answers}
    if secured:
        error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        operation["responses"] |= {status: _answer(why, error) for status, why in _ERRORS.items()}
        operation["security"] = [{"bearer": []}]
    return operation


def _answer(description: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": content}
