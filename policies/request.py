"""A caller's request, typed: the field allow-list of each surface, and the way every text in it is checked.

A field that is not listed here never reaches the engine. What is listed is re-encoded from the typed value, so the
engine cannot read the bytes otherwise than the gateway did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from policies.refusal import Refusal

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
Unit = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Stop = Annotated[str, Meta(min_length=1, max_length=256)]

FORBIDDEN = {
    "allowed_token_ids": "token ids are not a surface of this endpoint",
    "bad_words": "the policy sets it",
    "cache_salt": "the endpoint sets it for each caller",
    "chat_template": "the template is part of what was certified",
    "chat_template_kwargs": "the template is part of what was certified",
    "continue_final_message": "an answer starts with the certified template",
    "echo": "it would return text that no output rule expects",
    "kv_transfer_params": "it belongs to the engine's operator",
    "logit_bias": "token ids are not a surface of this endpoint",
    "logprobs": "token probabilities would spell out text past the output rules",
    "priority": "it belongs to the engine's operator",
    "prompt_logprobs": "token probabilities would spell out text past the output rules",
    "return_token_ids": "token ids would spell out text past the output rules",
    "suffix": "fill-in-the-middle is not offered",
    "top_logprobs": "token probabilities would spell out text past the output rules",
}


class _Wire(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Closed to unknown fields; absent fields stay absent when encoded."""


class TextPart(_Wire):
    """One text part of a message; other kinds of part are refused."""

    type: Literal["text"]
    text: str


class FunctionCall(_Wire):
    """The function a past assistant turn called."""

    name: Name
    arguments: str


class ToolCall(_Wire):
    """A tool call of a past assistant turn."""

    id: Name
    type: Literal["function"]
    function: FunctionCall
    index: int | None = None


class Message(_Wire):
    """One turn. Fields that OpenAI's client sends back as null are accepted as null only."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Name | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Name | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[None], Meta(max_length=0)] | None = None


class Function(_Wire):
    """A function the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Wire):
    """A tool; only functions exist."""

    type: Literal["function"]
    function: Function


class StreamOptions(_Wire):
    """Whether a last chunk carries the token counts."""

    include_usage: bool = False


class StructuredOutputs(_Wire):
    """A decode-time constraint in the engine's terms: exactly one of its fields."""

    json: dict[str, Any] | str | None = None
    regex: Annotated[str, Meta(max_length=4096)] | None = None
    choice: Annotated[list[str], Meta(min_length=1, max_length=1024)] | None = None


class Sampling(_Wire):
    """What both generating surfaces share."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Unit | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    min_p: Unit | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=16)] | None = None
    seed: int | None = None
    n: Annotated[int, Meta(ge=1, le=8)] | None = None
    user: Annotated[str, Meta(max_length=256)] | None = None
    structured_outputs: StructuredOutputs | None = None
    logprobs: bool | int | None = None


class ChatRequest(Sampling, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=4096)]
    max_completion_tokens: Count | None = None
    tools: Annotated[list[Tool], Meta(max_length=256)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    top_logprobs: int | None = None


class CompletionRequest(Sampling, kw_only=True):
    """POST /v1/completions; prompts are text, never token ids."""

    prompt: str | Annotated[list[str], Meta(min_length=1, max_length=16)]


Generating = ChatRequest | CompletionRequest

_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "chat": msgspec.json.Decoder(ChatRequest),
    "completions": msgspec.json.Decoder(CompletionRequest),
}
_UNKNOWN = re.compile(r"unknown field `(?P<name>.*?)`(?: - at `\$\.?(?P<place>.*)`)?$", re.DOTALL)
_PLACE = re.compile(r" - at `\$\.?(?P<place>.*)`$", re.DOTALL)


def decode(surface: str, body: bytes) -> Generating:
    """Return the typed request of a surface (`chat` or `completions`); raises Refusal naming the wrong field."""
    try:
        request: Generating = _DECODERS[surface].decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, "invalid_json", f"the body is not JSON: {str(error)[:200]}") from None
    except RecursionError:
        raise Refusal(400, "invalid_json", "the body is nested too deeply") from None
    _settle(request)
    return request


def _wrong_field(message: str) -> Refusal:
    unknown = _UNKNOWN.search(message)
    if unknown:
        name, place = unknown["name"][:100], unknown["place"]
        param = f"{place}.{name}" if place else name
        why = FORBIDDEN.get(name)
        if why and not place:
            return Refusal(400, "forbidden_field", f"`{param}` is not allowed: {why}", param=param)
        return Refusal(400, "unknown_field", f"unknown field `{param}`", param=param)
    place_match = _PLACE.search(message)
    param = place_match["place"][:100] if place_match else None
    return Refusal(400, "invalid_field", message[:300], param=param or None)


def _settle(request: Generating) -> None:
    """Refuse what only looks harmless, and bring equal spellings to one."""
    for name in ("logprobs", "top_logprobs"):
        if getattr(request, name, None):
            raise Refusal(400, "forbidden_field", f"`{name}` is not allowed: {FORBIDDEN[name]}", param=name)
        if hasattr(request, name):
            setattr(request, name, None)
    if isinstance(request, ChatRequest):
        _settle_format(request)
        if request.max_completion_tokens is not None:
            request.max_tokens, request.max_completion_tokens = request.max_completion_tokens, None


def constraint(request: Generating) -> str:
    """Return the decode-time constraint a caller sent, e.g. `structured_outputs.json` or `response_format`, or ``."""
    if isinstance(request, ChatRequest) and request.response_format is not None:
        return "response_format"
    wanted = request.structured_outputs
    if wanted is None:
        return ""
    given = [name for name in ("json", "regex", "choice") if getattr(wanted, name) is not None]
    if len(given) != 1:
        message = "`structured_outputs` takes exactly one of `json`, `regex`, `choice`"
        raise Refusal(400, "invalid_field", message, param="structured_outputs")
    return f"structured_outputs.{given[0]}"


def _settle_format(request: ChatRequest) -> None:
    """Turn `response_format` into the engine's `structured_outputs`: one constraint, one permission."""
    wanted = request.response_format
    if wanted is None or wanted.get("type") == "text":
        request.response_format = None
        return
    if request.structured_outputs is not None:
        message = "`response_format` and `structured_outputs` exclude one another"
        raise Refusal(400, "invalid_field", message, param="response_format")
    described = wanted.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    if wanted.get("type") == "json_object":
        request.structured_outputs = StructuredOutputs(json={"type": "object"})
    elif wanted.get("type") == "json_schema" and isinstance(schema, dict):
        request.structured_outputs = StructuredOutputs(json=schema)
    else:
        message = "`response_format` takes type `text`, `json_object` or `json_schema` with a schema"
        raise Refusal(400, "invalid_field", message, param="response_format")


def rewrite(request: Generating, check: Callable[[str], str]) -> None:
    """Replace every text that becomes part of the model's input by `check(text)`.

    Constraints (`structured_outputs`) shape the answer, not the input: what they force is met by the output rules.
    """
    if isinstance(request, CompletionRequest):
        prompt = request.prompt
        request.prompt = check(prompt) if isinstance(prompt, str) else [check(text) for text in prompt]
        return
    for message in request.messages:
        _rewrite_message(message, check)
    for tool in request.tools or ():
        if tool.function.description:
            tool.function.description = check(tool.function.description)
        if tool.function.parameters:
            tool.function.parameters = _rewrite_json(tool.function.parameters, check)


def _rewrite_message(message: Message, check: Callable[[str], str]) -> None:
    if isinstance(message.content, str):
        message.content = check(message.content)
    elif message.content is not None:
        for part in message.content:
            part.text = check(part.text)
    if message.reasoning:
        message.reasoning = check(message.reasoning)
    if message.reasoning_content:
        message.reasoning_content = check(message.reasoning_content)
    for call in message.tool_calls or ():
        call.function.arguments = check(call.function.arguments)


def _rewrite_json(value: Any, check: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return check(value)
    if isinstance(value, list):
        return [_rewrite_json(item, check) for item in value]
    if isinstance(value, dict):
        return {check(key): _rewrite_json(item, check) for key, item in value.items()}
    return value


def encode(
    request: Generating, served_name: str, defaults: Mapping[str, Any], injected: Mapping[str, Any], salt: str
) -> bytes:
    """Return the body for the engine: the typed request, the candidate's defaults, and what the policy injects.

    `injected` wins over the caller: a policy narrows. The engine always reports token counts. `salt` (hex) separates
    the callers' prefix caches, so that nobody can time what another has asked.
    """
    request.model, request.user = served_name, None
    if isinstance(request, ChatRequest):
        request.response_format = None  # it was turned into `structured_outputs`
    request.stream_options = StreamOptions(include_usage=True) if request.stream else None
    for name, value in defaults.items():
        if getattr(request, name, value) is None:
            setattr(request, name, value)
    if injected:
        encoded = msgspec.json.encode(msgspec.to_builtins(request) | dict(injected))
    else:
        encoded = msgspec.json.encode(request)
    return b'%b,"cache_salt":"%b"}' % (encoded[:-1], salt.encode("ascii"))
