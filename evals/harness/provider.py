"""Ask an OpenAI-compatible endpoint over httpx and read its answer: every text it returned, or that a rule blocked it.

Written here because inspect-ai's own OpenAI provider needs an `openai` that cannot be installed beside guardrails-ai.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from evals.cache import AnswerCache
from registry.errors import EngineFailure

TIMEOUT = httpx.Timeout(120.0, connect=10.0)
RETRIES = 2
RETRIED = {429, 502, 503}
_STRUCTURE = {"id", "object", "model", "system_fingerprint", "role", "finish_reason", "type", "request_id"}
"""Fields that name things; every other string in an answer is text that reached the caller."""
_TOO_LONG = ("context_length_exceeded", "maximum context length", "maximum model length")
"""How engines say that a prompt does not fit: the model's own limit, so it is an answer and no failure."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `texts` holds every text of the answer on any channel; `blocked` says that a rule refused it.

    `tool_calls` are as the endpoint sent them: `id` and `function` with `name` and `arguments` (a JSON text).
    """

    content: str
    texts: tuple[str, ...]
    finish_reason: str
    blocked: bool
    rules: tuple[str, ...]
    usage: dict[str, int]
    tool_calls: tuple[dict[str, Any], ...] = ()
    reasoning: str = ""
    latency_ms: float = 0.0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.usage.get("prompt_tokens", 0) + self.usage.get("completion_tokens", 0)


class Client:
    """A client of one endpoint; its HTTP connections belong to the running event loop and are made anew for another.

    Args:
        target: `base_url`, `api_key`, `headers`, as `EndpointTarget.plain()` gives them, and perhaps `model`.
        answers: where answers are kept, so that a run after a crash asks only what is missing.
        timeout: how long to wait for an answer.
        patience: after so many failures in a row the endpoint is not asked again.

    `tick` is called after each answer, `spent` with the tokens of each answer that was not kept from before; `failure`
    is the error that used up the patience, and `failed` is called with it once.
    """

    def __init__(
        self, target: dict[str, Any], answers: AnswerCache | None = None, *,
        timeout: httpx.Timeout | float = TIMEOUT, patience: int = 1,
    ) -> None:  # fmt: skip
        self.tick: Callable[[], None] = _nothing
        self.spent: Callable[[int], None] = _spent_nothing
        self.failed: Callable[[EngineFailure], None] = _note_nothing
        self.failure: EngineFailure | None = None
        self._base = target["base_url"]
        self._headers = {**target["headers"], "Authorization": f"Bearer {target['api_key']}"}
        self._answers, self._timeout, self._patience, self._failures = answers, timeout, patience, 0
        self._asked: Counter[str] = Counter()
        self._http: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
        self._model: str | None = target.get("model") or None

    @classmethod
    def resuming(cls, target: dict[str, Any], answers: str, identity: dict[str, Any], **more: Any) -> Client:
        """Return a client whose answers are kept in the file `answers` under the model's identity."""
        return cls(target, AnswerCache(Path(answers), identity), **more)

    async def chat(self, messages: list[dict[str, Any]], settings: dict[str, Any], *, scope: str = "") -> Answer:
        """Ask for one chat completion.

        Args:
            messages: the conversation, as the API takes it.
            settings: further body fields.
            scope: what the question belongs to (a sample and epoch): repeated questions are counted within it, so a
                run that is resumed finds each kept answer where it was.

        Raises:
            EngineFailure: the endpoint is unreachable, refuses the caller, or answers nonsense. That is never an
                answer: only `content_filter`, a content rule's own code, and a prompt that is too long count as one.
        """
        if self.failure is not None:
            raise self.failure
        try:
            answer = await self._chat({"model": await self.model(), "messages": messages, **settings}, scope)
        except EngineFailure as error:
            self._failures += 1
            if self._failures >= self._patience and self.failure is None:
                self.failure = error
                self.failed(error)
            raise
        self._failures = 0
        self.tick()
        return answer

    async def _chat(self, body: dict[str, Any], scope: str) -> Answer:
        key = self._key(body, scope)
        known = self._answers.get(key) if self._answers is not None else None
        if known is not None:
            return read_answer(known["status"], known["body"], known.get("latency_ms", 0.0))
        started = time.perf_counter()
        status, data = await self._send("POST", "/chat/completions", body)
        latency = (time.perf_counter() - started) * 1000
        answer = read_answer(status, data, latency)
        if self._answers is not None:
            self._answers.put(key, {"status": status, "body": data, "latency_ms": latency})
        self.spent(answer.tokens)
        return answer

    def _key(self, body: dict[str, Any], scope: str) -> str:
        if self._answers is None:
            return ""
        asked = {"scope": scope, "body": body} if scope else body
        bare = self._answers.key(asked, 0)
        key = self._answers.key(asked, self._asked[bare])
        self._asked[bare] += 1
        return key

    async def model(self) -> str:
        """Return the name of the model: the one that was asked for, else the first that the endpoint serves."""
        if self._model is None:
            status, data = await self._send("GET", "/models", None)
            names = [entry.get("id") for entry in data.get("data", [])] if status == httpx.codes.OK else []
            if not names or not isinstance(names[0], str):
                raise EngineFailure(
                    f"`{self._base}/models` answered {status}: {_message(data)}",
                    hint="the endpoint must list its model and accept this key; the guarded one also asks for a permit",
                )
            self._model = names[0]
        return self._model

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        content = None if body is None else json.dumps(body).encode()  # ASCII: a lone surrogate must not break it
        for attempt in range(RETRIES + 1):
            try:
                response = await self._client().request(method, self._base + path, content=content)
                data = response.json()
            except httpx.HTTPError as error:
                raise EngineFailure(
                    f"`{self._base}` does not answer: {type(error).__name__}", hint="is the endpoint running?"
                ) from None
            except ValueError:
                raise EngineFailure(
                    f"`{self._base}` answered no JSON", hint="is this an OpenAI-compatible endpoint?"
                ) from None
            if response.status_code not in RETRIED or attempt == RETRIES:
                break
            await asyncio.sleep(min(5.0, _seconds(response.headers.get("retry-after"))))
        return response.status_code, data if isinstance(data, dict) else {}

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._http:
            self._http = {known: client for known, client in self._http.items() if not known.is_closed()}
            headers = {**self._headers, "Content-Type": "application/json"}
            self._http[loop] = httpx.AsyncClient(headers=headers, timeout=self._timeout, trust_env=False)
        return self._http[loop]

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        client = self._http.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


def read_answer(status: int, data: dict[str, Any], latency_ms: float = 0.0) -> Answer:
    """Return what an HTTP answer says.

    Raises EngineFailure for anything that is no completion, no content block and no prompt beyond the model's context.
    """
    error = data.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    if status == httpx.codes.BAD_REQUEST and isinstance(error, dict) and code == "content_filter":
        # Even a refusal's message is text that reached the caller, and is scored as such.
        rules = tuple(error.get("rules") or ())
        return Answer("", tuple(texts_of(data)), "content_filter", True, rules, {}, latency_ms=latency_ms)
    if status == httpx.codes.BAD_REQUEST and any(sign in f"{code} {_message(data)}" for sign in _TOO_LONG):
        return Answer("", tuple(texts_of(data)), "model_length", False, (), {}, latency_ms=latency_ms)
    choices = data.get("choices")
    if status != httpx.codes.OK or not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise EngineFailure(f"the endpoint answered {status}: {_message(data)}", hint="see the endpoint's own log")
    return _read_choice(data, choices[0], latency_ms)


def _read_choice(data: dict[str, Any], choice: dict[str, Any], latency_ms: float) -> Answer:
    message = choice.get("message") or {}
    usage = {name: count for name, count in (data.get("usage") or {}).items() if isinstance(count, int)}
    reason = str(choice.get("finish_reason") or "stop")
    calls = tuple(call for call in message.get("tool_calls") or () if isinstance(call, dict))
    return Answer(
        str(message.get("content") or ""), tuple(texts_of(data)), reason, reason == "content_filter", (), usage, calls,
        str(message.get("reasoning_content") or message.get("reasoning") or ""), latency_ms,
    )  # fmt: skip


def texts_of(value: Any, name: str = "") -> Iterator[str]:
    """Yield every text of an answer on whatever channel: content, reasoning, tool arguments, log-probabilities."""
    if isinstance(value, str):
        if value and name not in _STRUCTURE:
            yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_of(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item, name)


def _seconds(header: str | None) -> float:
    try:
        return max(0.0, float(header or 1))
    except ValueError:  # a date
        return 1.0


def _nothing() -> None:
    """Do nothing: the default tick."""


def _spent_nothing(tokens: int) -> None:
    """Count nothing: the default of `spent`."""


def _note_nothing(error: EngineFailure) -> None:
    """Do nothing: the default of `failed`; whoever asked gets the error."""


def _message(data: dict[str, Any]) -> str:
    error = data.get("error")
    text = error.get("message") if isinstance(error, dict) else data.get("message")
    return str(text or "no completion")[:200]
