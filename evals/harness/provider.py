"""Ask an OpenAI-compatible endpoint over httpx and read its answer: every text it returned, or that a rule blocked it.

Written here because inspect-ai's own OpenAI provider needs an `openai` that cannot be installed beside guardrails-ai.
"""

from __future__ import annotations

import asyncio
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


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `texts` holds every text of the answer on any channel; `blocked` says that a rule refused it."""

    content: str
    texts: tuple[str, ...]
    finish_reason: str
    blocked: bool
    rules: tuple[str, ...]
    usage: dict[str, int]


class Client:
    """A client of one endpoint; its HTTP connections belong to the running event loop and are made anew for another.

    Args:
        target: `base_url`, `api_key` and `headers`, as `EndpointTarget.plain()` gives them.
        answers: where answers are kept, so that a run after a crash asks only what is missing.

    `tick` is called after each answer.
    """

    def __init__(self, target: dict[str, Any], answers: AnswerCache | None = None) -> None:
        self.tick: Callable[[], None] = _nothing
        self._base = target["base_url"]
        self._headers = {**target["headers"], "Authorization": f"Bearer {target['api_key']}"}
        self._answers = answers
        self._asked: Counter[str] = Counter()
        self._http: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
        self._model: str | None = None

    @classmethod
    def resuming(cls, target: dict[str, Any], answers: str, identity: dict[str, Any]) -> Client:
        """Return a client whose answers are kept in the file `answers` under the model's identity."""
        return cls(target, AnswerCache(Path(answers), identity))

    async def chat(self, messages: list[dict[str, Any]], settings: dict[str, Any]) -> Answer:
        """Ask for one chat completion; `settings` are further body fields.

        Raises:
            EngineFailure: the endpoint is unreachable, refuses the caller, or answers nonsense. That is never an
                answer: only `content_filter`, a content rule's own code, counts as one.
        """
        body = {"model": await self.model(), "messages": messages, **settings}
        key = None
        if self._answers is not None:
            bare = self._answers.key(body, 0)
            key = self._answers.key(body, self._asked[bare])
            self._asked[bare] += 1
            known = self._answers.get(key)
            if known is not None:
                self.tick()
                return read_answer(known["status"], known["body"])
        status, data = await self._send("POST", "/chat/completions", body)
        answer = read_answer(status, data)
        if self._answers is not None and key is not None:
            self._answers.put(key, {"status": status, "body": data})
        self.tick()
        return answer

    async def model(self) -> str:
        """Return the name of the one model that the endpoint serves."""
        if self._model is None:
            status, data = await self._send("GET", "/models", None)
            names = [entry.get("id") for entry in data.get("data", [])] if status == httpx.codes.OK else []
            if not names or not isinstance(names[0], str):
                raise EngineFailure(
                    f"`{self._base}/models` answered {status}: {_message(data)}",
                    hint="the evaluation permit and its API key must be accepted by this endpoint",
                )
            self._model = names[0]
        return self._model

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        for attempt in range(RETRIES + 1):
            try:
                response = await self._client().request(method, self._base + path, json=body)
                data = response.json()
            except httpx.HTTPError as error:
                raise EngineFailure(
                    f"`{self._base}` does not answer: {type(error).__name__}", hint="is the guarded endpoint running?"
                ) from None
            except ValueError:
                raise EngineFailure(f"`{self._base}` answered no JSON", hint="is this the guarded endpoint?") from None
            if response.status_code not in RETRIED or attempt == RETRIES:
                break
            await asyncio.sleep(min(5.0, float(response.headers.get("retry-after") or 1)))
        return response.status_code, data if isinstance(data, dict) else {}

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._http:
            self._http[loop] = httpx.AsyncClient(headers=self._headers, timeout=TIMEOUT, trust_env=False)
        return self._http[loop]

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        client = self._http.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


def read_answer(status: int, data: dict[str, Any]) -> Answer:
    """Return what an HTTP answer says. Raises EngineFailure for anything that is no completion and no content block."""
    error = data.get("error")
    if status == httpx.codes.BAD_REQUEST and isinstance(error, dict) and error.get("code") == "content_filter":
        # Even a refusal's message is text that reached the caller, and is scored as such.
        return Answer("", tuple(texts_of(data)), "content_filter", True, tuple(error.get("rules") or ()), {})
    choices = data.get("choices")
    if status != httpx.codes.OK or not isinstance(choices, list) or not choices:
        raise EngineFailure(f"the endpoint answered {status}: {_message(data)}", hint="see the endpoint's decision log")
    first = choices[0]
    usage = {name: count for name, count in (data.get("usage") or {}).items() if isinstance(count, int)}
    reason = str(first.get("finish_reason") or "stop")
    content = str((first.get("message") or {}).get("content") or "")
    return Answer(content, tuple(texts_of(data)), reason, reason == "content_filter", (), usage)


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


def _nothing() -> None:
    """Do nothing: the default tick."""


def _message(data: dict[str, Any]) -> str:
    error = data.get("error")
    text = error.get("message") if isinstance(error, dict) else None
    return str(text or "no completion")[:200]
