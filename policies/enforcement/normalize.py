"""The views of a text: what it says once width, invisible characters, case, accents or foreign shapes are taken away.

A view maps each code point by itself to zero or more code points, so the view of a stream is the concatenation of the
views of its pieces: matching on it gives the same answer for every chunking.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from policies.enforcement.confusables import look

_INVISIBLE = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
)
"""Default-ignorable code points whose category is not Cf: joiners, Hangul fillers, variation selectors."""

_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x1100, 0x11FF),
    (0x2E80, 0xA4CF),
    (0xAC00, 0xD7AF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""Scripts written without spaces between words, or with particles attached: a word edge means nothing there."""


def clean(text: str) -> str:
    """Return a text with each lone surrogate replaced by U+FFFD; offsets do not move."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def is_word(char: str) -> bool:
    """Say whether a character (or nothing) is a letter or digit of any script, or an underscore."""
    return char.isalnum() or char == "_"


def has_word_edges(char: str) -> bool:
    """Say whether a character belongs to a script whose words stand apart, so that an edge means something."""
    code = ord(char)
    return is_word(char) and not any(low <= code <= high for low, high in _UNSPACED)


class View(dict[int, str]):
    """Maps a code point to what it is on a view, worked out on first use; the form `str.translate` wants.

    `lowers`: ASCII letters are read in lower case, else ASCII is left as it is.
    """

    __slots__ = ("_of", "lowers", "name")

    def __init__(self, name: str, of: Callable[[str], str], *, lowers: bool) -> None:
        super().__init__()
        self.name, self._of, self.lowers = name, of, lowers

    def __missing__(self, code: int) -> str:
        seen = self._of(chr(code))
        if len(self) < 65_536:
            self[code] = seen
        return seen

    def see(self, text: str) -> str:
        """Return the view of a text."""
        if text.isascii():
            return text.lower() if self.lowers else text
        return "".join(
            (part.lower() if self.lowers else part) if part.isascii() else part.translate(self)
            for part in _WIDE.split(text)
        )

    def origins(self, text: str) -> list[int] | None:
        """Return, for each character of `see(text)`, the index of the one it came from; None when they are equal."""
        if text.isascii() or self.name == "exact":
            return None
        return [index for index, char in enumerate(text) for _ in self[ord(char)]]


_WIDE = re.compile(r"([^\x00-\x7f]+)")


def _is_visible(char: str) -> bool:
    return unicodedata.category(char) != "Cf" and ord(char) not in _INVISIBLE


def _plain(text: str) -> str:
    while True:
        kept = "".join(char for char in unicodedata.normalize("NFKC", text) if _is_visible(char))
        if kept == text:
            return kept
        text = kept


def _folded(text: str) -> str:
    while True:
        wide = unicodedata.normalize("NFKD", text).casefold()
        kept = "".join(char for char in wide if not unicodedata.combining(char) and _is_visible(char))
        if kept == text:
            return kept
        text = kept


def _lookalike(text: str) -> str:
    alike = look(text) if text > "\x7f" else None
    if alike is not None:
        return alike
    folded = _folded(text)
    return "".join((look(char) or char) if char > "\x7f" else char for char in folded)


VIEWS: dict[str, View] = {
    "exact": View("exact", lambda char: char, lowers=False),
    "plain": View("plain", _plain, lowers=False),
    "folded": View("folded", _folded, lowers=True),
    "lookalike": View("lookalike", _lookalike, lowers=True),
}
"""`exact`: as it is. `plain`: NFKC, no invisible characters. `folded`: NFKD and case folding, no accents, no invisible
characters. `lookalike`: folded, and letters that look like ASCII ones read as those."""
FOLDS = VIEWS["folded"]


def see(text: str, view: str) -> str:
    """Return a text on the view of that name."""
    return VIEWS[view].see(text)


def fold(text: str) -> str:
    """Return the folded view of a text."""
    return FOLDS.see(text)


def origins(text: str, view: str = "folded") -> list[int] | None:
    """Return, for each character of a view, the index of the character it came from; None when they are equal."""
    return VIEWS[view].origins(text)
