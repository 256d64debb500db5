"""The request bodies of the built-in engine: typed decoding, defaults, and OpenAI's error shape."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

MOST_CHOICES = 8
MOST_STOPS = 16
Body = TypeVar("Body", "ChatBody", "TextBody")


class RequestError(Exception):
    """A request that cannot be served; carries what OpenAI's error object shows."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code

    def body(self) -> dict[str, Any]:
        """Return the JSON body, `{"error": {...}}`."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True):
    """vLLM's `structured_outputs` object; exactly one of the first five is set."""

    json: str | dict[str, Any] | bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = True


class StreamOptions(msgspec.Struct):
    """OpenAI's `stream_options`."""

    include_usage: bool = False
    include_obfuscation: bool = False


class _Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    ignore_eos: bool = False
    structured_outputs: StructuredOutputs | None = None
    response_format: dict[str, Any] | None = None
    # Accepted without effect: they say nothing about the text to generate.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    cache_salt: str | None = None
    priority: int | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class ChatBody(_Body, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    # Known to OpenAI's clients, refused when they ask for something.
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: list[str] | None = None


class TextBody(_Body, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/completions."""

    prompt: str | list[int | str | list[int]]
    logprobs: int | None = None
    echo: bool = False
    suffix: str | None = None
    best_of: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How one sequence is decoded. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    ignore_eos: bool = False

    def rng(self, choice: int) -> random.Random:
        """Return the generator of one choice: seeded when the request has a seed (choice i uses seed + i)."""
        return random.Random(None if self.seed is None else self.seed + choice)  # noqa: S311 - sampling, no secret


@dataclass(frozen=True, slots=True)
class Defaults:
    """Sampling defaults of a model folder, used where a request is silent."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None

    @classmethod
    def of(cls, generation_config: Mapping[str, Any]) -> Defaults:
        """Read the fields that vLLM reads too; `max_new_tokens` becomes the default `max_tokens`."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        found = {name: generation_config[name] for name in names if generation_config.get(name) is not None}
        return cls(**found, max_tokens=generation_config.get("max_new_tokens"))


def decode(raw: bytes, kind: type[Body]) -> Body:
    """Decode and check a body; RequestError (400) says which field is wrong."""
    try:
        body = msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        text = str(error)
        place = text.rpartition("`$.")[2].rstrip("`") if "`$." in text else None
        raise RequestError(text[0].lower() + text[1:], param=place) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    _refuse_unsupported(body)
    return body


def _refuse_unsupported(body: ChatBody | TextBody) -> None:
    asked = [name for name in ("logprobs", "top_logprobs", "echo", "suffix") if getattr(body, name, None)]
    if getattr(body, "best_of", None) not in (None, 1):
        asked.append("best_of")
    if isinstance(body, ChatBody) and body.modalities not in (None, ["text"]):
        asked.append("modalities")
    if asked:
        raise RequestError(f"`{asked[0]}` is not supported by this engine", param=asked[0], code="unsupported_value")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise RequestError(f"`{name}` must be between {low:g} and {high:g}, not {value:g}", param=name)


def settings_of(body: ChatBody | TextBody, defaults: Defaults, vocab_size: int) -> Settings:
    """Merge a body with the folder's defaults into checked Settings; RequestError names the field out of range."""
    asked = body.max_tokens
    if isinstance(body, ChatBody) and body.max_completion_tokens is not None:
        asked = body.max_completion_tokens
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    settings = Settings(
        temperature=_or(body.temperature, defaults.temperature),
        top_p=_or(body.top_p, defaults.top_p),
        top_k=max(0, int(_or(body.top_k, defaults.top_k))),
        min_p=_or(body.min_p, defaults.min_p),
        seed=body.seed,
        max_tokens=asked if asked is not None else defaults.max_tokens,
        min_tokens=body.min_tokens,
        stop=stop,
        stop_token_ids=frozenset(body.stop_token_ids or ()),
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=_or(body.repetition_penalty, defaults.repetition_penalty),
        logit_bias=_biases(body.logit_bias),
        allowed_token_ids=tuple(body.allowed_token_ids or ()),
        bad_words=tuple(body.bad_words or ()),
        ignore_eos=body.ignore_eos,
    )
    _check(settings, body.n, vocab_size)
    return settings


def _or(value: float | None, default: float) -> Any:
    return default if value is None else value


def _biases(raw: Mapping[str, float] | None) -> tuple[tuple[int, float], ...]:
    try:
        return tuple((int(token), value) for token, value in (raw or {}).items())
    except ValueError:
        raise RequestError("`logit_bias` maps token ids to numbers", param="logit_bias") from None


def _check(settings: Settings, n: int, vocab_size: int) -> None:
    _within("n", n, 1, MOST_CHOICES)
    _within("temperature", settings.temperature, 0, 2)
    _within("min_p", settings.min_p, 0, 1)
    if not 0 < settings.top_p <= 1:
        raise RequestError(f"`top_p` must be above 0 and at most 1, not {settings.top_p:g}", param="top_p")
    for name in ("presence_penalty", "frequency_penalty"):
        _within(name, getattr(settings, name), -2, 2)
    if not settings.repetition_penalty > 0:
        raise RequestError("`repetition_penalty` must be above 0", param="repetition_penalty")
    if settings.max_tokens is not None and settings.max_tokens < 1:
        raise RequestError("`max_tokens` must be at least 1", param="max_tokens")
    if settings.min_tokens < 0 or settings.min_tokens > (settings.max_tokens or settings.min_tokens):
        raise RequestError("`min_tokens` must be between 0 and `max_tokens`", param="min_tokens")
    _check_lists(settings, vocab_size)


def _check_lists(settings: Settings, vocab_size: int) -> None:
    for name in ("stop", "bad_words"):
        if "" in getattr(settings, name):
            raise RequestError(f"`{name}` must not hold an empty string", param=name)
    if len(settings.stop) > MOST_STOPS:
        raise RequestError(f"at most {MOST_STOPS} stop strings", param="stop")
    for name, ids in (
        ("logit_bias", [i for i, _ in settings.logit_bias]),
        ("allowed_token_ids", settings.allowed_token_ids),
    ):
        if any(not 0 <= token < vocab_size for token in ids):
            raise RequestError(f"`{name}` holds a token id outside the vocabulary", param=name)


def messages_of(body: ChatBody) -> list[dict[str, Any]]:
    """Return the messages with plain text content; RequestError where a part is not text or a role is missing."""
    return [_plain(message, number) for number, message in enumerate(body.messages)] or _no_messages()


def _no_messages() -> list[dict[str, Any]]:
    raise RequestError("`messages` must hold at least one message", param="messages")


def _plain(message: dict[str, Any], number: int) -> dict[str, Any]:
    place = f"messages[{number}]"
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise RequestError(f"`{place}.role` must be a string", param=f"{place}.role")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        texts = [text for text in parts if isinstance(text, str)]
        if len(texts) != len(content):
            raise RequestError("only text content parts are supported", param=f"{place}.content")
        content = "".join(texts)
    if content is None and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise RequestError(f"`{place}.content` must be text", param=f"{place}.content")
    named = {name: message[name] for name in ("name", "tool_call_id", "tool_calls") if message.get(name)}
    return {"role": role, "content": content, **named}


def include_usage(body: ChatBody | TextBody) -> bool:
    """Say whether a stream ends with a usage chunk."""
    return bool(body.stream_options and body.stream_options.include_usage)
