"""How a stream is written to the caller: chunks of chat completions and completions. Responses have their own.

A frame whose only news is a piece of text is put together from bytes made once; nothing else of it ever changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from policies.wire import surfaces
from policies.wire.refusal import Refusal
from policies.wire.surfaces import Chunk, ChunkChoice, TextAnswer, TextChoice, Usage

Choices = Sequence[ChunkChoice | TextChoice]
_QUICK_END = b"}}]}\n\n"
_QUICK_TEXT_END = b"}]}\n\n"


class Frames(Protocol):
    """Writes one stream. Nothing of it may be sent before the rules have released it."""

    def quick(self, index: int, text: str) -> bytes:
        """Return a piece of the main text of a choice that has spoken before."""

    def pieces(self, created: int, choices: Choices) -> bytes:
        """Return released pieces of any kind, with the finish reasons of choices that end."""

    def closing(self, usage: Usage | None) -> bytes:
        """Return what ends a stream well: it is sent once the outcome is logged."""

    def failing(self, refusal: Refusal, request_id: str) -> bytes:
        """Return what ends a stream with an error."""


class ChunkFrames:
    """The chunks of one stream of `chat` or `completions`."""

    def __init__(self, surface: str, answer_id: str, model: str, *, include_usage: bool) -> None:
        self._chat = surface == "chat"
        self._id, self._model, self._include_usage = answer_id, model, include_usage
        self._created = 0
        self._heads: dict[int, bytes] = {}
        self._tail = _QUICK_END if self._chat else _QUICK_TEXT_END

    def quick(self, index: int, text: str) -> bytes:
        """Return a piece of the main text of a choice that has spoken before."""
        head = self._heads.get(index) or self._head(index)
        return head + surfaces.encode(text) + self._tail

    def pieces(self, created: int, choices: Choices) -> bytes:
        """Return one chunk with released pieces."""
        self._created = created or self._created
        return surfaces.event(self._frame(choices))

    def closing(self, usage: Usage | None) -> bytes:
        """Return the chunk with the token counts, where they are asked for and known, and the end mark."""
        if not self._include_usage or usage is None:
            return surfaces.DONE
        return surfaces.event(self._frame([], usage)) + surfaces.DONE

    def failing(self, refusal: Refusal, request_id: str) -> bytes:
        """Return the terminal error event and the end mark."""
        return surfaces.event({"error": refusal.detail(request_id)}) + surfaces.DONE

    def _frame(self, choices: Choices, usage: Usage | None = None) -> surfaces.Streamed:
        if self._chat:
            return Chunk(self._id, "chat.completion.chunk", self._created, self._model, list(choices), usage)  # type: ignore[arg-type]
        return TextAnswer(self._id, "text_completion", self._created, self._model, list(choices), usage)  # type: ignore[arg-type]

    def _head(self, index: int) -> bytes:
        """Return the bytes of a chunk up to the text: the same for every quick chunk of a choice."""
        frame = surfaces.event(self._frame([]))
        start = frame[: frame.rindex(b"]}")]
        text = b'"delta":{"content":' if self._chat else b'"logprobs":null,"text":'
        head = self._heads[index] = b'%b{"index":%d,"finish_reason":null,%b' % (start, index, text)
        return head
