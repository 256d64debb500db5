"""Whether a whole text is a match of a bounded pattern, in time linear in the text, and how engines are told of it.

The pattern is one of `policies/enforcement/pattern.py` without word edges: every engine means the same by it.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

from policies.enforcement import prefilter
from policies.enforcement.pattern import Branch, Chars, PatternError, parse, spelled

_TOP = 0x10FFFF
_SPECIAL = frozenset("\\.+*?()|[]{}^$&-~#/\"'")


class WholeMatch:
    """A compiled pattern; `source` is what engines are given as `structured_outputs.regex`."""

    def __init__(self, pattern: str) -> None:
        """Compile; raises PatternError for what is outside of the language, asks for word edges, or is too large."""
        import hyperscan

        self.branches: tuple[Branch, ...] = parse(pattern)
        if any(branch.left or branch.right for branch in self.branches):
            raise PatternError("a whole answer's pattern has no neighbours: leave `\\b` out")
        self.source = "|".join(spelled(branch.body, _class) for branch in self.branches)
        self._lock = threading.Lock()
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        bodies = "|".join(prefilter.expression(branch.body) for branch in self.branches)
        flags = hyperscan.HS_FLAG_UTF8 | hyperscan.HS_FLAG_SINGLEMATCH
        try:
            self._database.compile([rf"\A(?:{bodies})\z".encode()], ids=[0], elements=1, flags=[flags])
        except hyperscan.HyperscanError as error:
            raise PatternError(f"the pattern is too large to check ({error}): lower its repeats") from None
        self._database.scratch = hyperscan.Scratch(self._database)

    def accepts(self, text: str) -> bool:
        """Say whether a text is a match from its first character to its last."""
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError:
            return False
        found: list[int] = []

        def report(number: int, start: int, end: int, flags: int, context: Any) -> None:
            found.append(end)

        with self._lock:
            self._database.scan(data, match_event_handler=report)
        return bool(found)


@lru_cache(maxsize=128)
def whole_match(pattern: str) -> WholeMatch:
    """Return a compiled pattern, compiled once; raises as WholeMatch does."""
    return WholeMatch(pattern)


def _class(node: Chars) -> str:
    """Return a class in the syntax that Python, Rust and the engines' grammars share."""
    low, high = node.ranges[0]
    if len(node.ranges) == 1 and low == high:
        return _character(low)
    if node.ranges[-1][1] == _TOP:  # everything but some characters; surrogates are none
        gaps = zip(node.ranges, node.ranges[1:], strict=False)
        missing = [(0, low - 1)] if low else []
        missing += [
            (last + 1, first - 1) for (_, last), (first, _) in gaps if (last + 1, first - 1) != (0xD800, 0xDFFF)
        ]
        return "[^" + "".join(map(_range, missing)) + "]" if missing else r"[\s\S]"
    return "[" + "".join(map(_range, node.ranges)) + "]"


def _range(bounds: tuple[int, int]) -> str:
    low, high = bounds
    return _character(low) if low == high else f"{_character(low)}-{_character(high)}"


def _character(code: int) -> str:
    char = chr(code)
    if char in _SPECIAL:
        return "\\" + char if char not in "\"'/&~#" else f"\\x{code:02x}"
    if char.isascii():
        return char if char.isprintable() else f"\\x{code:02x}"
    return char if char.isprintable() else (f"\\u{code:04x}" if code <= 0xFFFF else f"\\u{{{code:x}}}")
