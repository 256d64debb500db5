"""Tokens to text one at a time: never half a character, never a stop string or the beginning of one."""

from __future__ import annotations

from typing import Any


class TextStream:
    """The text of one sequence as it grows. What `push` and `finish` return, joined, is the whole text.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        stop: strings at which the text ends; they are not part of it.
        stream: false when nobody reads before the end: `push` then returns nothing, unless it looks for `stop`.
    """

    def __init__(self, tokenizer: Any, stop: tuple[str, ...] = (), *, stream: bool = True) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer, self._stop = tokenizer, stop
        self._decoder = DecodeStream(skip_special_tokens=True) if stream or stop else None
        self._tokens: list[int] = []
        self._decoded = 0
        self._held = ""
        self.ended = False
        """A stop string was met: nothing may follow."""

    def push(self, token: int, *, may_stop: bool = True) -> str:
        """Add a token; return the text that is now certain. With `may_stop` false stop strings pass as text."""
        if self.ended:
            return ""
        self._tokens.append(token)
        piece = self._decoder.step(self._tokenizer, token) if self._decoder else None
        if not piece:
            return ""
        self._decoded += len(piece)
        return self._release(piece, may_stop=may_stop)

    def finish(self) -> str:
        """Return the rest when no further token comes; an unfinished character at the very end is left out."""
        if self.ended:
            return ""
        whole = self._tokenizer.decode(self._tokens, skip_special_tokens=True).rstrip("\ufffd")
        text = self._release(whole[self._decoded :], may_stop=True)
        self._decoded = len(whole)
        rest, self._held = self._held, ""
        return text if self.ended else text + rest

    def _release(self, piece: str, *, may_stop: bool) -> str:
        if not self._stop or not may_stop:
            text, self._held = self._held + piece, ""
            return text
        pending = self._held + piece
        starts = [start for start in (pending.find(stop) for stop in self._stop) if start >= 0]
        if starts:
            self.ended, self._held = True, ""
            return pending[: min(starts)]
        keep = max(_overlap(pending, stop) for stop in self._stop)
        cut = len(pending) - keep
        self._held = pending[cut:]
        return pending[:cut]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `stop`, shorter than `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
