"""A channel of JSON (a tool call's arguments, an answer asked for as JSON): what its strings say is enforced as well.

Every string, decoded, passes the rules as a text of its own; what they release is spelled again, the shortest way, and
the JSON so made passes the rules once more as one text. So no escape hides a match. A match that begins in one string
and ends in another is found only as the JSON spells it. Strings inside strings are decoded once.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from policies.enforcement.engine import Enforcer, Hit, OutputStream, Piece
from policies.enforcement.json_strings import JsonStrings, Part, encode


class JsonStream:
    """An `OutputStream` for one channel of JSON: `push` each piece, then `finish` once.

    `exempt` are the rules that do not apply to the JSON, `inside` those that do not apply to its strings either.
    """

    __slots__ = ("_closed", "_enforcer", "_inner", "_inside", "_outer", "_strings")

    def __init__(self, enforcer: Enforcer, exempt: frozenset[str], inside: frozenset[str]) -> None:
        self._enforcer, self._inside = enforcer, inside
        self._outer = enforcer.stream(exempt=exempt)
        self._inner: OutputStream | None = None
        self._strings = JsonStrings()
        self._closed = False

    @property
    def held(self) -> int:
        """Code points taken in and not yet released."""
        return self._outer.held + (self._inner.held if self._inner is not None else 0)

    def push(self, delta: str) -> Piece:
        """Return what may be sent now. With `blocked` set it is the last piece."""
        return self._outer.push("") if self._closed else self._pass(self._strings.feed(delta), final=False)

    def finish(self) -> Piece:
        """Return the rest, once the engine has ended the call."""
        return self._outer.push("") if self._closed else self._pass(self._strings.finish(), final=True)

    def _pass(self, parts: Iterable[Part], *, final: bool) -> Piece:
        spelled: list[str] = []
        hits: list[Hit] = []
        stopped: Piece | None = None
        for kind, text in parts:
            if kind == "outside":
                spelled.append(text)
                continue
            piece = self._decide(kind, text)
            if piece is None:
                continue
            spelled.append(encode(piece.text))
            hits += piece.hits
            if piece.blocked is not None:
                stopped = piece
                break
        return self._outside("".join(spelled), tuple(hits), stopped, final=final)

    def _decide(self, kind: str, text: str) -> Piece | None:
        """Put a part of a string through the rules; None where a string was empty."""
        if kind == "inside":
            if self._inner is None:
                self._inner = self._enforcer.stream(exempt=self._inside)
            return self._inner.push(text)
        inner, self._inner = self._inner, None
        return inner.finish() if inner is not None else None

    def _outside(self, text: str, hits: tuple[Hit, ...], stopped: Piece | None, *, final: bool) -> Piece:
        """Put the JSON through the rules. Where a string was stopped it ends there, unless it is stopped before."""
        piece = self._outer.push(text)
        if piece.blocked is None and (final or stopped is not None):
            last = self._outer.finish()
            piece = replace(last, text=piece.text + last.text, hits=piece.hits + last.hits)
        self._closed = final or stopped is not None or piece.blocked is not None
        if stopped is not None and piece.blocked is None:
            piece = replace(stopped, text=piece.text, hits=piece.hits)
        return replace(piece, hits=hits + piece.hits) if hits else piece


def check_json(enforcer: Enforcer, text: str, exempt: frozenset[str], inside: frozenset[str]) -> Piece:
    """Return what of whole JSON may go to the caller: the same as for every way to stream it."""
    stream = JsonStream(enforcer, exempt, inside)
    piece = stream.push(text)
    if piece.blocked is not None:
        return piece
    last = stream.finish()
    return replace(last, text=piece.text + last.text, hits=piece.hits + last.hits)
