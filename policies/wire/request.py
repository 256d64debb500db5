"""A caller's request: decoded to its type, brought to one spelling, checked text by text, and encoded for the engine.

A field that `policies/wire/request_types.py` and its like do not list never reaches the engine. What is listed is
re-encoded from the typed value, so the engine cannot read the bytes otherwise than the gateway did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import msgspec

from policies.enforcement import json_strings
from policies.wire.embeddings import EmbeddingsRequest
from policies.wire.refusal import Refusal
from policies.wire.refused_fields import REFUSED_FIELDS
from policies.wire.request_types import (
    WITHOUT_EFFECT,
    ChatRequest,
    CompletionRequest,
    Generating,
    Message,
    StreamOptions,
    StructuredOutputs,
)
from policies.wire.responses import ResponsesRequest, as_chat

MOST_DEPTH = 32
"""Levels of objects and lists within a free-form field: a schema, a tool's parameters."""
MOST_VALUES = 8192
"""Values within a free-form field."""

Asked = Generating | EmbeddingsRequest
"""What any surface asks of the engine."""

_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "chat": msgspec.json.Decoder(ChatRequest),
    "completions": msgspec.json.Decoder(CompletionRequest),
    "responses": msgspec.json.Decoder(ResponsesRequest),
    "embeddings": msgspec.json.Decoder(EmbeddingsRequest),
}
_UNKNOWN = re.compile(r"unknown field `(?P<name>.*?)`(?: - at `\$\.?(?P<place>.*)`)?$", re.DOTALL)
_PLACE = re.compile(r" - at `\$\.?(?P<place>.*)`$", re.DOTALL)
_UNUSED_CHAT = (*WITHOUT_EFFECT, "modalities", "store")
_UNUSED_TEXT = (*WITHOUT_EFFECT, "echo", "best_of", "suffix")
"""What is not sent on; a suffix has become part of the prompt."""
_READ_CHAT = (_UNUSED_CHAT, attrgetter(*_UNUSED_CHAT))
_READ_TEXT = (_UNUSED_TEXT, attrgetter(*_UNUSED_TEXT))


def decode(surface: str, body: bytes) -> Asked:
    """Return the typed request of a surface; of `responses`, the chat request that asks the same.

    Raises:
        Refusal: 400, naming the wrong field.
    """
    request = decode_as(surface, body)
    if type(request) is ResponsesRequest:
        request = as_chat(request)
    if type(request) is not EmbeddingsRequest:
        _settle(request)
    return request  # type: ignore[no-any-return]


def decode_as(surface: str, body: bytes) -> Any:
    """Return the typed request of a surface as it was sent; raises Refusal (400) naming the wrong field."""
    try:
        return _DECODERS[surface].decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, "invalid_json", f"the body is not JSON: {str(error)[:200]}") from None
    except RecursionError:
        raise Refusal(400, "invalid_json", "the body is nested too deeply") from None


def _wrong_field(message: str) -> Refusal:
    unknown = _UNKNOWN.search(message)
    if unknown:
        name, place = unknown["name"][:100], unknown["place"]
        param = f"{place}.{name}" if place else name
        why = REFUSED_FIELDS.get(name)
        if why and not place:
            return Refusal(400, "forbidden_field", f"`{param}` is not allowed: {why}", param=param)
        return Refusal(400, "unknown_field", f"unknown field `{param}`", param=param)
    place_match = _PLACE.search(message)
    param = place_match["place"][:100] if place_match else ""
    if param in REFUSED_FIELDS and (param != "prompt" or "null" in message):  # completions take a prompt
        return Refusal(400, "forbidden_field", f"`{param}` is not allowed: {REFUSED_FIELDS[param]}", param=param)
    return Refusal(400, "invalid_field", message[:300], param=param or None)


def _settle(request: Generating) -> None:
    """Refuse what only looks harmless, and bring equal spellings to one."""
    if request.logprobs is not None:
        _refuse_asked("logprobs", request.logprobs)
        request.logprobs = None
    _settle_format(request)
    if type(request) is ChatRequest:
        if request.top_logprobs is not None:
            _refuse_asked("top_logprobs", request.top_logprobs)
            request.top_logprobs = None
        for tool in request.tools or ():
            _measure(tool.function.parameters, "tools")
        if request.max_completion_tokens is not None:
            request.max_tokens, request.max_completion_tokens = request.max_completion_tokens, None
    if request.structured_outputs is not None:
        _settle_schema(request.structured_outputs)


def _refuse_asked(name: str, value: int) -> None:
    """Refuse a field that asks for something; 0 and false ask for nothing."""
    if value:
        raise Refusal(400, "forbidden_field", f"`{name}` is not allowed: {REFUSED_FIELDS[name]}", param=name)


def _settle_schema(wanted: StructuredOutputs) -> None:
    """Read a schema that was sent as text, so that it is checked as what it says."""
    if isinstance(wanted.json, str):
        try:
            wanted.json = msgspec.json.decode(wanted.json, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            message = "`structured_outputs.json` is not a JSON schema"
            raise Refusal(400, "invalid_field", message, param="structured_outputs.json") from None
    _measure(wanted.json, "structured_outputs.json")


def _measure(value: Any, param: str) -> None:
    """Refuse a free-form field that is nested too deeply or holds too much."""
    left, level = [value] if value else [], 0
    count = 0
    while left:
        level += 1
        deeper: list[Any] = []
        for item in left:
            deeper.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
        count += len(deeper)
        if level > MOST_DEPTH + 1 or count > MOST_VALUES:
            message = f"`{param}` has more than {MOST_DEPTH} levels or {MOST_VALUES} values"
            raise Refusal(400, "invalid_field", message, param=param)
        left = deeper


def constraint(request: Generating) -> str:
    """Return the decode-time constraint a caller sent, e.g. `structured_outputs.json` or `response_format`, or ``."""
    if request.response_format is not None:
        return "response_format"
    wanted = request.structured_outputs
    if wanted is None:
        return ""
    given = [name for name in ("json", "regex", "choice") if getattr(wanted, name) is not None]
    if len(given) != 1:
        message = "`structured_outputs` takes exactly one of `json`, `regex`, `choice`"
        raise Refusal(400, "invalid_field", message, param="structured_outputs")
    return f"structured_outputs.{given[0]}"


def _settle_format(request: Generating) -> None:
    """Turn `response_format` into the engine's `structured_outputs`: one constraint, one permission."""
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        request.response_format = None
        return
    if request.structured_outputs is not None:
        message = "`response_format` and `structured_outputs` exclude one another"
        raise Refusal(400, "invalid_field", message, param="response_format")
    if wanted.type == "json_object":
        request.structured_outputs = StructuredOutputs(json={"type": "object"})
    elif wanted.json_schema is not None:
        request.structured_outputs = StructuredOutputs(json=wanted.json_schema.schema)
    else:
        message = "`response_format` takes type `text`, `json_object` or `json_schema` with a schema"
        raise Refusal(400, "invalid_field", message, param="response_format")


def rewrite(request: Asked, check: Callable[[str], str], inside: Callable[[str], str] | None = None) -> None:
    """Replace every text that becomes part of the model's input by `check(text)`.

    The arguments of a past tool call are JSON, which a template reads: each string in it, decoded, is replaced by
    `inside(string)` first. Constraints (`structured_outputs`) shape the answer, not the input: what they force is met
    by the output rules.
    """
    if type(request) is EmbeddingsRequest:
        given = request.input
        request.input = check(given) if isinstance(given, str) else [check(text) for text in given]
        return
    if type(request) is CompletionRequest:
        prompt = request.prompt
        request.prompt = check(prompt) if isinstance(prompt, str) else [check(text) for text in prompt]
        if request.suffix is not None:
            request.suffix = check(request.suffix)
        return
    for message in request.messages:
        _rewrite_message(message, check, inside)
    for tool in request.tools or ():
        if tool.function.description:
            tool.function.description = check(tool.function.description)
        if tool.function.parameters:
            tool.function.parameters = _rewrite_json(tool.function.parameters, check)


def _rewrite_message(message: Message, check: Callable[[str], str], inside: Callable[[str], str] | None) -> None:
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
        arguments = call.function.arguments
        if inside is not None and '"' in arguments:
            arguments = json_strings.rewrite(arguments, inside)
        call.function.arguments = check(arguments)


def _rewrite_json(value: Any, check: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return check(value)
    if isinstance(value, list):
        return [_rewrite_json(item, check) for item in value]
    if isinstance(value, dict):
        return {check(key): _rewrite_json(item, check) for key, item in value.items()}
    return value


def names(request: Asked) -> list[str]:
    """Return the names and ids in a request that the model reads: they cannot be rewritten, only refused."""
    if type(request) is not ChatRequest:
        return []
    found = [tool.function.name for tool in request.tools] if request.tools else []
    for message in request.messages:
        if message.name or message.tool_call_id or message.tool_calls:
            found += [message.name or "", message.tool_call_id or ""]
            found += [name for call in message.tool_calls or () for name in (call.id, call.function.name)]
    return [name for name in found if name] if found else found


def hidden_texts(request: Asked) -> list[str]:
    """Return texts that a template puts together or reads out of JSON: they are not in the encoded request as such."""
    if type(request) is not ChatRequest:
        return []
    found = []
    for message in request.messages:
        if isinstance(message.content, list) and len(message.content) > 1:
            found.append("".join(part.text for part in message.content))
        for call in message.tool_calls or ():
            if "\\" in call.function.arguments:
                found.extend(json_strings.strings(call.function.arguments))
    return found


def encode(
    request: Generating, served_name: str, defaults: Mapping[str, Any], injected: Mapping[str, Any], salt: str
) -> bytes:
    """Return the body for the engine: the typed request, the candidate's defaults, and what the policy injects.

    `injected` wins over the caller: a policy narrows. The engine always reports token counts. `salt` (hex) separates
    the callers' prefix caches, so that nobody can time what another has asked.
    """
    request.model = served_name
    unused, values = _READ_CHAT if type(request) is ChatRequest else _READ_TEXT
    if values(request).count(None) < len(unused):
        for name in unused:
            setattr(request, name, None)
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


__all__ = [
    "Asked", "ChatRequest", "CompletionRequest", "Generating", "Message", "constraint", "decode", "decode_as", "encode",
    "hidden_texts", "names", "rewrite",
]  # fmt: skip
