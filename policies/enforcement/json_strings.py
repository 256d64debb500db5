"""The strings inside JSON text as a parser will read them, piece by piece: what an escape hides is seen decoded.

The same strings come out for every way the text is cut. An escape that JSON does not know stands for its character, a
lone surrogate for U+FFFD: whatever a lenient parser would make of them, it is handed the decoded form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

Part = tuple[Literal["outside", "inside", "end"], str]
"""Text outside of strings with their quotes, decoded text of the current string, or the end of that string."""

_PLAIN = re.compile(r'[^"\\]+')
_HEX = re.compile(r"[0-9A-Fa-f]{0,4}")
_SIMPLE = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_MARK = "\\u"


class JsonStrings:
    """Splits JSON text that arrives in pieces: `feed` each, then `finish`."""

    __slots__ = ("_inside", "_rest")

    def __init__(self) -> None:
        self._inside, self._rest = False, ""

    def feed(self, text: str) -> Iterator[Part]:
        """Yield what more text says; at most one unfinished escape is kept for the next piece."""
        text, self._rest = self._rest + text, ""
        place, size = 0, len(text)
        while place < size:
            if not self._inside:
                quote = text.find('"', place)
                stop = size if quote < 0 else quote + 1
                self._inside = quote >= 0
                yield "outside", text[place:stop]
                place = stop
            elif text[place] == '"':
                self._inside = False
                yield "end", ""
                yield "outside", '"'
                place += 1
            elif text[place] == "\\":
                read = _escape(text, place)
                if read is None:
                    self._rest = text[place:]
                    return
                yield "inside", read[0]
                place += read[1]
            else:
                run = _PLAIN.match(text, place)
                stop = run.end() if run else size
                yield "inside", text[place:stop]
                place = stop

    def finish(self) -> Iterator[Part]:
        """Yield what is left when nothing follows: a string without its end, an escape cut short."""
        text, self._rest = self._rest, ""
        if len(text) >= 6:  # half of a pair, and perhaps the beginning of the other half
            yield "inside", "\ufffd"
            text = text[6:]
        if self._inside:
            self._inside = False
            yield "end", ""
        if text:
            yield "outside", text


def encode(text: str) -> str:
    """Return decoded text as it is written inside a JSON string: the shortest way, escaped only where it must be."""
    return msgspec.json.encode(text)[1:-1].decode()


def rewrite(text: str, change: Callable[[str], str]) -> str:
    """Return JSON text with every string replaced by `change(string)`, all of them written the shortest way."""
    view, out, string = JsonStrings(), [], ""
    for parts in (view.feed(text), view.finish()):
        for kind, part in parts:
            if kind == "inside":
                string += part
            elif kind == "end":
                out.append(encode(change(string)) if string else "")
                string = ""
            else:
                out.append(part)
    return "".join(out)


def strings(text: str) -> list[str]:
    """Return every string of JSON text, decoded."""
    found: list[str] = []

    def keep(string: str) -> str:
        found.append(string)
        return string

    rewrite(text, keep)
    return found


def _escape(text: str, place: int) -> tuple[str, int] | None:
    """Return the character that an escape stands for and how long the escape is; None when it is not all there."""
    mark = text[place + 1 : place + 2]
    if not mark:
        return None
    if mark != "u":
        return _SIMPLE.get(mark, mark), 2
    code = _code(text, place)
    if code is None:
        return None
    if code == _NOT_HEX:
        return "u", 2
    if 0xD800 <= code <= 0xDBFF:
        return _pair(text, place, code)
    return "\ufffd" if 0xDC00 <= code <= 0xDFFF else chr(code), 6


def _pair(text: str, place: int, high: int) -> tuple[str, int] | None:
    """Return the character of a surrogate pair, or U+FFFD for a half without its other half; None when cut short."""
    following = text[place + 6 : place + 8]
    if following != _MARK[: len(following)]:
        return "\ufffd", 6
    low = _code(text, place + 6) if len(following) == len(_MARK) else None
    if low is None:
        return None
    if 0xDC00 <= low <= 0xDFFF:
        return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)), 12
    return "\ufffd", 6


_NOT_HEX = -1


def _code(text: str, place: int) -> int | None:
    """Return the code unit of a four-digit escape; None when it is cut short, _NOT_HEX when it is none."""
    digits = _HEX.match(text, place + 2)
    found = digits.group() if digits else ""
    if len(found) == 4:
        return int(found, 16)
    return None if place + 2 + len(found) == len(text) else _NOT_HEX
