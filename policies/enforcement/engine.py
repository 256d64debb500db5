"""The enforcement core: texts in, what may be released out. Pure and importable: no network, no clock, no state shared.

The gateway, replay, tests and training rewards decide with this same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from policies.enforcement import decode
from policies.enforcement.guard_rules import GuardRule, guard_rule
from policies.enforcement.normalize import clean
from policies.enforcement.rules import WholeRule
from policies.enforcement.scan import CompiledBundle, CompiledSide
from policies.enforcement.stream import MOST_HELD, NOTHING, OVERFLOW, Hit, HoldBack, Piece


class Enforcer:
    """Enforces one compiled bundle. Calls may be repeated and mixed; use one instance a thread."""

    def __init__(self, compiled: CompiledBundle) -> None:
        self.compiled = compiled
        self.guard_rules: tuple[GuardRule, ...] = tuple(
            guard_rule(rule, compiled.folder) for rule in compiled.output.guards
        )
        self.input_guards: tuple[GuardRule, ...] = tuple(
            guard_rule(rule, compiled.folder) for rule in compiled.input.guards
        )
        self.formats = frozenset(rule.id for rule in compiled.output.whole)
        """The rules about an answer's format: they speak of the answer, not of reasoning or tool arguments."""

    def check_input(self, text: str, *, exempt: frozenset[str] = frozenset()) -> Piece:
        """Return what of a whole input may go to the engine, apart from `input_guards`, which the guard worker runs."""
        piece = _whole(self.compiled.input, _check(self.compiled.input, text, exempt), exempt)
        return replace(piece, aborts=False) if piece.aborts else piece

    def check_output(self, text: str, *, exempt: frozenset[str] = frozenset()) -> Piece:
        """Return what of a whole output may go to the caller, apart from `guard_rules`, which the guard worker runs."""
        piece = _check(self.compiled.output, text, exempt)
        return _whole(self.compiled.output, piece, exempt)

    def stream(self, *, exempt: frozenset[str] = frozenset()) -> OutputStream:
        """Return a new stream state: one for each text channel of each choice."""
        return OutputStream(self, exempt)

    def holds_whole_text(self, exempt: frozenset[str] = frozenset()) -> bool:
        """Say whether a rule needs the whole output, so that a stream is released at its end only."""
        side = self.compiled.output
        return any(rule.id not in exempt for rule in (*side.whole, *side.guards))

    def guards_off(self, surface: str) -> frozenset[str]:
        """Return the ids of guard rules that do not apply to a surface, `chat` or `completions`: exempt them there."""
        return frozenset(rule.id for rule in self.guard_rules if surface not in rule.surfaces)

    def decode_fields(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields to set on the request to the engine; they replace the caller's own. May raise Refused."""
        return decode.decode_fields(self.compiled.output.rules, request)


class OutputStream:
    """One text channel of one choice, as it is streamed: `push` each delta, then `finish` once."""

    __slots__ = ("_enforcer", "_exempt", "_hits", "_hold", "_parts", "_size", "_whole")

    def __init__(self, enforcer: Enforcer, exempt: frozenset[str]) -> None:
        self._enforcer, self._exempt = enforcer, exempt
        self._hold = HoldBack(enforcer.compiled.output, exempt)
        self._whole = enforcer.holds_whole_text(exempt)
        self._parts: list[str] = []
        self._hits: list[Hit] = []
        self._size = 0

    @property
    def held(self) -> int:
        """Code points taken in and not yet released."""
        return self._hold.held + self._size

    def push(self, delta: str) -> Piece:
        """Return what may be sent now. With `blocked` set it is the last piece: stop the engine."""
        piece = self._hold.push(delta)
        return self._keep(piece) if self._whole else piece

    def finish(self) -> Piece:
        """Return the rest of the text, once the engine has ended it."""
        piece = self._hold.finish()
        if not self._whole:
            return piece
        self._parts.append(piece.text)
        whole = Piece("".join(self._parts), (*self._hits, *piece.hits), piece.blocked, piece.aborts)
        self._forget()
        return _whole(self._enforcer.compiled.output, whole, self._exempt)

    def _keep(self, piece: Piece) -> Piece:
        """Keep a piece back until the end; a block is told at once, with nothing of the text."""
        self._parts.append(piece.text)
        self._hits += piece.hits
        self._size += len(piece.text)
        blocked = piece.blocked or (OVERFLOW if self._size > MOST_HELD else None)
        if blocked is None:
            return NOTHING
        told = Piece("", tuple(self._hits), blocked, piece.aborts)
        self._hold = HoldBack(self._enforcer.compiled.output, self._exempt)
        self._hold.close()
        self._forget()
        return told

    def _forget(self) -> None:
        self._parts, self._hits, self._size = [], [], 0


def _check(side: CompiledSide, text: str, exempt: frozenset[str]) -> Piece:
    text = clean(text)
    found = side.look(text)
    return Piece(text, (), None) if found is None else HoldBack(side, exempt).whole(text, found)


def _whole(side: CompiledSide, piece: Piece, exempt: frozenset[str]) -> Piece:
    """Apply the rules on the whole text to a finished one; where one holds it whole, a block leaves nothing of it."""
    if piece.blocked is not None:
        held = any(rule.id not in exempt for rule in (*side.whole, *side.guards))
        return Piece("", piece.hits, piece.blocked, piece.aborts) if held else piece
    for rule in side.whole:
        if rule.id not in exempt and not rule.accepts(piece.text):
            return Piece("", (*piece.hits, _whole_hit(rule, piece)), rule.id)
    return piece


def _whole_hit(rule: WholeRule, piece: Piece) -> Hit:
    return Hit(rule.id, rule.type, rule.action, 0, len(piece.text))


__all__ = ["Enforcer", "GuardRule", "Hit", "OutputStream", "Piece"]
