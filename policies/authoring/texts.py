"""Whole texts through one side of a bundle: what would be done to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from policies.bundle import SIDES
from policies.enforcement.engine import Enforcer, Piece
from policies.enforcement.scan import CompiledBundle, CompiledSide
from registry.errors import SpecError, UnknownName

_STRENGTH = {"block": 4, "abort": 3, "redact": 2, "mask": 1}


def scan_texts(compiled: CompiledBundle, records: Iterable[Mapping[str, Any]], side: str) -> Iterator[dict[str, Any]]:
    """Yield `{id, action, spans}` for each `{id, text}`; offsets are code points of the text as it was given.

    Rules that need the guard worker are not run.
    """
    examine, _ = side_check(compiled, side)
    for number, record in enumerate(records, 1):
        text = record.get("text")
        if "id" not in record or not isinstance(text, str):
            raise SpecError("a record needs `id` and a string `text`", line=number, hint='{"id": "a", "text": "..."}')
        piece = examine(text)
        spans = [{"start": hit.start, "end": hit.end, "type": hit.type, "rule": hit.rule} for hit in piece.hits]
        yield {"id": record["id"], "action": action_of(piece), "spans": spans}


def side_check(compiled: CompiledBundle, side: str) -> tuple[Callable[[str], Piece], CompiledSide]:
    """Return the check of whole texts on a side, `input` or `output`, and what is compiled for it."""
    if side not in SIDES:
        raise UnknownName("side", side, SIDES)
    enforcer = Enforcer(compiled)
    return (enforcer.check_input, compiled.input) if side == "input" else (enforcer.check_output, compiled.output)


def action_of(piece: Piece) -> str:
    """Return the strongest action taken on a text: `block`, `abort`, `redact`, `mask` or `pass`."""
    if piece.blocked is not None:
        return "abort" if piece.aborts else "block"
    return max((hit.action for hit in piece.hits), key=lambda action: _STRENGTH[action], default="pass")
