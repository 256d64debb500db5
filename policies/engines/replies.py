"""OpenAI's response bodies and stream chunks."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import orjson

from policies.engines.decoding import Sequence
from policies.engines.tool_calls import Delta, message_of

DONE = b"data: [DONE]\n\n"


def event(body: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + orjson.dumps(body) + b"\n\n"


@dataclass(slots=True)
class Reply:
    """Shapes one request's answer. `chat` tells chat completions from text completions."""

    chat: bool
    model: str
    prompt_tokens: int
    include_usage: bool = False
    completion_tokens: int = 0
    logprob: float = 0.0
    id: str = field(init=False)
    created: int = field(init=False)

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def add(self, ended: Sequence) -> None:
        """Count a sequence that has ended."""
        self.completion_tokens += len(ended.tokens)
        self.logprob += ended.logprob

    def usage(self) -> dict[str, float]:
        """Return the usage object; beside OpenAI's counts, the tokens' mean log probability for the decision log."""
        total = self.prompt_tokens + self.completion_tokens
        mean = {"mean_logprob": round(self.logprob / self.completion_tokens, 4)} if self.completion_tokens else {}
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
            **mean,
        }

    def whole(self, deltas: list[list[Delta]], finishes: list[str]) -> bytes:
        """Return the body of an answer that is not streamed, of the deltas of each choice."""
        choices: list[dict[str, Any]] = []
        for index, (said, finish) in enumerate(zip(deltas, finishes, strict=True)):
            message = message_of(said)
            shown: dict[str, Any] = {"message": message} if self.chat else {"text": message["content"]}
            choices.append({"index": index, **shown, "logprobs": None, "finish_reason": finish})
        kind = "chat.completion" if self.chat else "text_completion"
        return orjson.dumps({**self._head(kind), "choices": choices, "usage": self.usage()})

    def opening(self, choices: int) -> bytes:
        """Return the first chunks of a stream: for chats the role with empty content, for each choice."""
        if not self.chat:
            return b""
        return b"".join(self._chunk(index, {"role": "assistant", "content": ""}, None) for index in range(choices))

    def delta(self, index: int, delta: Delta) -> bytes:
        """Return a chunk with text, or a piece of a tool call."""
        return self._chunk(index, delta if self.chat else delta["content"], None)

    def ending(self, index: int, finish: str) -> bytes:
        """Return the chunk that says why a choice ended."""
        return self._chunk(index, {} if self.chat else "", finish)

    def closing(self) -> bytes:
        """Return the last chunks: usage when it was asked for, then the end mark."""
        if not self.include_usage:
            return DONE
        return event({**self._head(self._chunk_kind), "choices": [], "usage": self.usage()}) + DONE

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, index: int, content: Any, finish: str | None) -> bytes:
        shown = {"delta": content} if self.chat else {"text": content}
        choice = {"index": index, **shown, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self.include_usage else {}
        return event({**self._head(self._chunk_kind), "choices": [choice], **usage})
