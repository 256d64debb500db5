"""The model that lm-eval sees: every request is answered from what is kept, else by a backend, and kept at once.

lm-eval's own cache names no model, so it would hand one model's answers to another; ours is keyed by the model.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from evals.cache import AnswerCache

SPEND_EVERY = 16
SPEND_TOKENS = 1000
"""Answers, or tokens, between two messages about them."""
MAX_NEW_TOKENS = 256
"""Tokens of a completion where the task names no number, as in lm-eval."""
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: a log-probability with whether it is greedy, a log-probability, or a text; and what it cost."""

    value: Any
    latency_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """One request: lm-eval's kind and arguments; `occurrence` tells repetitions of a sampled generation apart."""

    kind: str
    arguments: tuple[Any, ...]
    occurrence: int = 0

    @property
    def sampled(self) -> bool:
        """Whether asking again may give another answer."""
        return self.kind == "generate_until" and temperature(self.arguments[1]) > 0

    def plain(self) -> dict[str, Any]:
        """Return it as JSON data, which is what its answer is kept under."""
        settings = [json.loads(json.dumps(each, default=str)) for each in self.arguments]
        return {"kind": self.kind, "arguments": settings, "occurrence": self.occurrence}


class Backend(Protocol):
    """What answers: a model in this process, or an endpoint."""

    def answer(self, questions: Sequence[Question], told: Callable[[int, Reply], None]) -> None:
        """Answer questions of one kind, in any order; `told` is called with each one's place and reply at once."""

    def chat_prompt(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        """Return a conversation as the model's template writes it."""


def temperature(settings: dict[str, Any]) -> float:
    """Return the temperature of lm-eval's generation settings; 0 where they ask for greedy decoding."""
    if settings.get("do_sample") is False:
        return 0.0
    return float(settings.get("temperature") or (1.0 if settings.get("do_sample") else 0.0))


def new_tokens(settings: dict[str, Any]) -> int:
    """Return how many tokens a completion may have."""
    return next((int(settings[name]) for name in _LIMITS if settings.get(name) is not None), MAX_NEW_TOKENS)


def stop_texts(settings: dict[str, Any]) -> list[str]:
    """Return the stop texts of lm-eval's generation settings."""
    until = settings.get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop]


def cut_at(text: str, stops: list[str]) -> str:
    """Return a text up to the first stop text in it."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text


class AskedModel(LM):  # type: ignore[misc]
    """lm-eval's model interface over a backend and the kept answers.

    Args:
        backend: what answers.
        answers: where answers are kept.
        tick: called with the number of requests answered since the last call.
        spend: called with the number of tokens used since the last call; kept answers cost nothing.
    """

    def __init__(
        self, backend: Backend, answers: AnswerCache, *, tick: Callable[[float], None], spend: Callable[[int], None]
    ) -> None:
        super().__init__()
        self.backend, self.answers = backend, answers
        self.epoch = 0
        self.costs: dict[int, list[Reply]] = {}
        """Replies by `id` of lm-eval's request, since `forget` was called."""
        self._tick, self._spend = tick, spend
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Drop the costs noted so far: another task begins."""
        self.costs = {}

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, whether greedy decoding would say it) of each continuation."""
        return [(float(value[0]), bool(value[1])) for value in self._ask("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-probability (nats) of each whole text."""
        return [float(value) for value in self._ask("loglikelihood_rolling", requests)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return a completion of each prompt, cut at the first stop text."""
        return [str(value) for value in self._ask("generate_until", requests)]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation as the model's template writes it."""
        return self.backend.chat_prompt(chat_history, add_generation_prompt=add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """Name nothing: it only serves lm-eval's cache of requests, which is off."""
        return ""

    def _ask(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        seen: Counter[int] = Counter()
        keys, missing = [], {}
        for request in requests:
            question = Question(kind, request.args)
            if question.sampled:
                turn = self.epoch * (request.repeats or 1) + seen[id(request)]
                seen[id(request)] += 1
                question = Question(kind, request.args, turn)
            key = self.answers.key(question.plain(), 0)
            keys.append(key)
            if self.answers.get(key) is None:
                missing[key] = question
        self._tick(len(keys) - len(missing))
        self._answer(missing)
        values = []
        for request, key in zip(requests, keys, strict=True):
            reply = Reply(**self.answers.get(key))  # type: ignore[arg-type]
            self.costs.setdefault(id(request), []).append(reply)
            values.append(reply.value)
        return values

    def _answer(self, missing: dict[str, Question]) -> None:
        """Let the backend answer, each different question once, and keep every reply as it comes."""
        names = list(missing)
        waiting = [0, 0]

        def flush() -> None:
            if waiting[0]:
                self._tick(waiting[0])
                self._spend(waiting[1])
            waiting[:] = [0, 0]

        def told(place: int, reply: Reply) -> None:
            with self._lock:
                self.answers.put(names[place], asdict(reply))
                waiting[0] += 1
                waiting[1] += reply.prompt_tokens + reply.completion_tokens
                if waiting[0] >= SPEND_EVERY or waiting[1] >= SPEND_TOKENS:
                    flush()

        if names:
            self.backend.answer(list(missing.values()), told)
        flush()
