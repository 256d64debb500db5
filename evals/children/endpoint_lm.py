"""An OpenAI-compatible endpoint as what answers lm-eval's requests: completions, and prompt log-probabilities."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx

from evals.children.lm_eval_model import Question, Reply, cut_at, new_tokens, stop_texts, temperature
from registry.errors import EngineFailure, SpecError

CONNECTIONS = 8
TIMEOUT = httpx.Timeout(600.0, connect=10.0)
RETRIES = 2
RETRIED = frozenset({429, 502, 503})
NO_COMPLETIONS = frozenset({404, 405, 501})
_PASSED = ("top_p", "top_k", "min_p", "repetition_penalty", "seed")
"""lm-eval's generation settings that servers know under the same name."""
_CURE = "use `endpoint: weights`"


class EndpointLM:
    """Asks an endpoint: a `Backend`.

    Completions come from `/completions`; from `/chat/completions`, through the model's own template, where the
    endpoint is guarded or has no other. Log-probabilities come from `/completions` with `echo`.

    Args:
        target: `base_url`, `api_key`, `headers`, `guarded`; `model` (empty: the one it serves) and `tokenizer` (the
            folder of its tokenizer, or None). With a tokenizer, prompts are sent as the very ids that weights in this
            process would see, so that the numbers agree; without, as text, which the server cuts into tokens.
    """

    def __init__(self, target: dict[str, Any]) -> None:
        self._base = str(target["base_url"])
        headers = {**target["headers"], "Authorization": f"Bearer {target['api_key']}"}
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        self._http = httpx.Client(headers=headers, timeout=TIMEOUT, trust_env=False, limits=limits)
        self._chat = bool(target["guarded"])
        self._guarded = bool(target["guarded"])
        self._tokens = _tokens(target.get("tokenizer"))
        self._model = str(target.get("model") or "") or self._only_model()

    def answer(self, questions: Sequence[Question], told: Callable[[int, Reply], None]) -> None:
        """Answer questions of one kind, several at a time; see `evals.children.lm_eval_model.Backend`."""
        ask = self._complete if questions[0].kind == "generate_until" else self._score
        if ask == self._score and self._guarded:
            raise SpecError("the guarded endpoint gives no log-probabilities of prompts", field="endpoint", hint=_CURE)
        told(0, ask(questions[0]))  # alone: what the endpoint cannot do shows before more is asked
        pool = ThreadPoolExecutor(CONNECTIONS)
        try:
            asked = {pool.submit(ask, question): place for place, question in enumerate(questions) if place}
            for done in as_completed(asked):
                told(asked[done], done.result())
        finally:
            pool.shutdown(cancel_futures=True)

    def chat_prompt(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        """Return a conversation as the model's template writes it."""
        if self._tokens is None:
            raise SpecError("the task asks for a chat template, and this endpoint's is not known", field="task",
                            hint=_CURE)  # fmt: skip
        return str(self._tokens.chat_prompt(messages, add_generation_prompt=add_generation_prompt))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _complete(self, question: Question) -> Reply:
        context, settings = question.arguments
        stops = stop_texts(settings)
        body: dict[str, Any] = {name: settings[name] for name in _PASSED if settings.get(name) is not None}
        body |= {"max_tokens": new_tokens(settings), "temperature": temperature(settings)}
        if question.sampled:
            body["seed"] = int(body.get("seed", 0)) + question.occurrence
        if stops:
            body["stop"] = stops[:4]  # the API takes four; the text is cut at all of them below
        started = time.perf_counter()
        data = self._generate(context, settings, body)
        choice = (data.get("choices") or [{}])[0]
        text = choice.get("text")
        if text is None:
            text = (choice.get("message") or {}).get("content")
        ms = (time.perf_counter() - started) * 1000
        return Reply(cut_at(str(text or ""), stops), ms, *_usage(data))

    def _generate(self, context: str, settings: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        if not self._chat:
            prompt: str | list[int] = context
            if self._tokens is not None:
                prompt, body["max_tokens"] = self._tokens.prompt(context, settings)
            status, data = self._send("/completions", {**body, "prompt": prompt})
            if status not in NO_COMPLETIONS:
                return self._checked(status, data)
            self._chat = True
        messages = [{"role": "user", "content": context}]
        status, data = self._send("/chat/completions", {**body, "messages": messages})
        error = data.get("error")
        if status == httpx.codes.BAD_REQUEST and isinstance(error, dict) and error.get("code") == "content_filter":
            return {"choices": [{"text": ""}]}  # a rule's block is an answer, and an empty one
        return self._checked(status, data)

    def _score(self, question: Question) -> Reply:
        started = time.perf_counter()
        if question.kind == "loglikelihood":
            scores, sent = self._pair(*question.arguments)
            value: Any = [sum(score for score, _ in scores), all(best for _, best in scores)]
        else:
            scores, sent = self._text(question.arguments[0])
            value = sum(score for score, _ in scores) if scores else float("nan")
        return Reply(value, (time.perf_counter() - started) * 1000, sent)

    def _pair(self, context: str, continuation: str) -> tuple[list[Score], int]:
        if self._tokens is None:
            return self._scores(context + continuation, len(context.rstrip()))
        before, target = self._tokens.pair(context, continuation)
        ids = [self._tokens.prefix, *before, *target][1 - self._tokens.max_length :]
        return self._scores(ids, max(1, len(ids) - len(target)))

    def _text(self, text: str) -> tuple[list[Score], int]:
        """Score every token of a text once, in windows where the model's context asks for them."""
        if self._tokens is None:
            return self._scores(text, 0)
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        ids = self._tokens.encode(text)
        if not ids or self._tokens.unknown in ids:
            return [], 0
        found, sent = [], 0
        # Inputs and their last target, and a token more, as a server wants room to say one, fill the context.
        for window in get_rolling_token_windows(ids, self._tokens.prefix, self._tokens.max_length - 2, 1):
            before, target = make_disjoint_window(window)
            scores, used = self._scores([*before, *target], len(before))
            found += scores
            sent += used
        return found, sent

    def _scores(self, prompt: str | list[int], start: int) -> tuple[list[Score], int]:
        """Return (log-probability, whether likeliest) of each token of a prompt from `start` on, and tokens sent.

        `start` counts tokens of ids and characters of text.
        """
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
        status, data = self._send("/completions", body)
        if status in NO_COMPLETIONS or status == httpx.codes.BAD_REQUEST:
            raise SpecError(f"this endpoint returns no prompt log-probabilities: {_message(data)}", field="endpoint",
                            hint=_CURE)  # fmt: skip
        found = (self._checked(status, data)["choices"][0].get("logprobs")) or {}
        logs, best = found.get("token_logprobs") or [], found.get("top_logprobs") or []
        said = int((data.get("usage") or {}).get("completion_tokens") or 1)
        count = len(logs) - said  # the token that it had to say
        if count < 1 or len(best) < count or (isinstance(prompt, list) and count != len(prompt)):
            raise SpecError("this endpoint returns no prompt log-probabilities", field="endpoint", hint=_CURE)
        first = start if isinstance(prompt, list) else _first(found.get("text_offset") or [], start, count)
        scores = [(logs[place], best[place]) for place in range(first, count)]
        if not scores or any(score is None for score, _ in scores):
            raise SpecError("this endpoint gives no log-probability of a text's first token", field="endpoint",
                            hint=_CURE)  # fmt: skip
        return [(float(score), score >= max(top.values())) for score, top in scores], count

    def _only_model(self) -> str:
        status, data = self._request("GET", "/models", None)
        names = [entry.get("id") for entry in self._checked(status, data).get("data", []) if isinstance(entry, dict)]
        if not names or not isinstance(names[0], str):
            raise EngineFailure(f"`{self._base}/models` names no model", hint="is this an OpenAI-compatible endpoint?")
        return names[0]

    def _send(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return self._request("POST", path, {"model": self._model, **body})

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        for attempt in range(RETRIES + 1):
            try:
                response = self._http.request(method, self._base + path, json=body)
            except httpx.HTTPError as error:
                raise EngineFailure(
                    f"`{self._base}` does not answer: {type(error).__name__}", hint="is the endpoint running?"
                ) from None
            if response.status_code not in RETRIED or attempt == RETRIES:
                break
            time.sleep(min(5.0, _seconds(response.headers.get("retry-after"))))
        try:
            data = response.json()
        except ValueError:
            data = None
        if not isinstance(data, dict):
            if response.status_code in NO_COMPLETIONS:
                return response.status_code, {}
            raise EngineFailure(f"`{self._base}{path}` answered no JSON", hint="is this an OpenAI-compatible endpoint?")
        return response.status_code, data

    def _checked(self, status: int, data: dict[str, Any]) -> dict[str, Any]:
        if status != httpx.codes.OK or not (data.get("choices") or data.get("data")):
            raise EngineFailure(
                f"the endpoint answered {status}: {_message(data)}", hint="answers so far are kept; see its log"
            )
        return data


Score = tuple[float, bool]
"""A token's log-probability in nats, and whether none is likelier."""


def _tokens(folder: str | None) -> Any:
    if not folder:
        return None
    from evals.children.weights.tokens import Tokens

    return Tokens(Path(folder))


def _first(offsets: list[int], start: int, count: int) -> int:
    """Return the first token that reaches into the text from `start` on."""
    if len(offsets) < count:
        raise SpecError("this endpoint does not say where its tokens begin", field="endpoint", hint=_CURE)
    if not start:
        # A begin token that the server adds stands at 0, as does the first token of the text.
        return 1 if count > 1 and offsets[1] == 0 else 0
    ends = [*offsets[1:count], start + 1]
    return next(place for place, end in enumerate(ends) if end > start)


def _usage(data: dict[str, Any]) -> tuple[int, int]:
    usage = data.get("usage") or {}
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)


def _seconds(value: str | None) -> float:
    try:
        return float(value or 1)
    except ValueError:
        return 1.0


def _message(data: dict[str, Any]) -> str:
    error = data.get("error")
    text = error.get("message") if isinstance(error, dict) else data.get("message")
    return str(text or "no completion")[:200]
