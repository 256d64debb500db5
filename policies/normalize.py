"""The folded view: what a text says once case, width, accents and invisible characters are taken away.

Folding maps each code point by itself to zero or more code points, so the fold of a stream is the concatenation of the
folds of its pieces: matching on this view gives the same answer for every chunking.
"""

from __future__ import annotations

import re
import unicodedata

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


class _Folds(dict[int, str]):
    """Maps a code point to its fold, worked out on first use; the form `str.translate` wants."""

    def __missing__(self, code: int) -> str:
        folded = _fold_code(code)
        if len(self) < 65_536:
            self[code] = folded
        return folded


def _fold_code(code: int) -> str:
    text = chr(code)
    while True:
        wide = unicodedata.normalize("NFKD", text).casefold()
        kept = "".join(
            char
            for char in wide
            if not unicodedata.combining(char) and unicodedata.category(char) != "Cf" and ord(char) not in _INVISIBLE
        )
        if kept == text:
            return kept
        text = kept


FOLDS = _Folds()
_WIDE = re.compile(r"([^\x00-\x7f]+)")


def fold(text: str) -> str:
    """Return the folded view of a text: NFKD and case folding per code point, without accents and invisible marks."""
    if text.isascii():
        return text.lower()
    return "".join(part.lower() if part.isascii() else part.translate(FOLDS) for part in _WIDE.split(text))


def origins(text: str) -> list[int] | None:
    """Return, for each character of `fold(text)`, the index of the character it came from; None when they are equal."""
    if text.isascii():
        return None
    return [index for index, char in enumerate(text) for _ in FOLDS[ord(char)]]
