"""A text described by a few numbers in which drift shows: entropy, script, language and a keyed projection.

The decision log holds these numbers instead of texts, and canary answers are compared by them. Only the first
`MOST_CHARS` code points count; of a text shorter than `FEWEST_CHARS` nothing is said, since little would be hidden.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

MOST_CHARS, FEWEST_CHARS = 8_192, 16
DIMENSIONS = 8
"""Numbers of the projection."""
_BORDERS = (
    (0x41, "latin"), (0x5B, ""), (0x61, "latin"), (0x7B, ""), (0xAA, "latin"), (0xAB, ""), (0xBA, "latin"), (0xBB, ""),
    (0xC0, "latin"), (0xD7, ""), (0xD8, "latin"), (0xF7, ""), (0xF8, "latin"), (0x250, ""), (0x370, "greek"),
    (0x400, "cyrillic"), (0x530, "armenian"), (0x590, "hebrew"), (0x600, "arabic"), (0x780, ""), (0x900, "devanagari"),
    (0x980, "indic"), (0xE00, "thai"), (0xE80, ""), (0x10A0, "georgian"), (0x1100, "hangul"), (0x1200, ""),
    (0x1E00, "latin"), (0x1F00, "greek"), (0x2000, ""), (0x3040, "kana"), (0x3100, ""), (0x3400, "han"), (0x4DC0, ""),
    (0x4E00, "han"), (0xA000, ""), (0xAC00, "hangul"), (0xD7A4, ""), (0xF900, "han"), (0xFB00, ""), (0x20000, "han"),
    (0x32000, ""),
)  # fmt: skip
"""From which code point on letters are of which script (Unicode 15 blocks, coarse); `` is no letter."""
_STARTS = np.asarray([start for start, _ in _BORDERS], dtype=np.uint32)
_NAMES = ("", *(name for _, name in _BORDERS))
_SMALL = 2048
_PLACES: Any = np.searchsorted(_STARTS, np.arange(_SMALL, dtype=np.uint32), side="right")
"""The place in `_NAMES` of each of the first code points."""
_HIGHEST = 3 if sys.byteorder == "little" else 0
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)).reshape(256, DIMENSIONS).astype(np.float64)
"""The signs of each byte, as 0 and 1: sums of them are whole numbers, which a float holds exactly."""
_WORDS = {
    "en": "the of and to in is that it for you with are this not be on have was",
    "de": "der die und das ist nicht ein eine zu den mit sich auf für von dem im auch",
    "fr": "le la les et des est une pas que dans pour qui vous sur avec ce au du",
    "es": "el los las una por con para está como pero del más su lo muy hay ser y",
    "it": "il che di non per gli sono della una con anche più come nel ma alla questo e",
    "pt": "o os um uma não para com mais como mas dos foi ele tem seu pela isso são",
    "nl": "het een van niet zijn dat met voor maar ook aan wordt naar bij nog wel hij deze",
    "pl": "nie się na jest że do to jak tak ale za od przez dla tym czy już jego",
}
"""Function words by language, of Latin script; a word of two languages counts for both."""
_LANGUAGES: dict[str, list[str]] = {}
for _language, _list in _WORDS.items():
    for _word in _list.split():
        _LANGUAGES.setdefault(_word, []).append(_language)


def describe(text: str, key: bytes = b"") -> dict[str, Any]:
    """Return the traits of a text, `{}` for a very short one.

    `entropy` is the Shannon entropy of its characters in bits, `script` and `language` what most letters and function
    words are of (`` where none prevails), `embedding` the projection of `embed`.

    Args:
        text: any text.
        key: keys the projection: without it, a guess at the text cannot be checked against the projection.
    """
    if len(text) < FEWEST_CHARS:
        return {}
    codes = _codes(text)
    kinds, counts = _histogram(codes)
    shares = counts / len(codes)
    script = _script(kinds, counts)
    return {
        "entropy": round(max(0.0, -float(shares @ np.log2(shares))), 2),
        "script": script,
        "language": _language_of(text) if script == "latin" else "",
        "embedding": _project(codes, key),
    }


def embed(text: str, key: bytes = b"") -> list[float]:
    """Return the projection of a text: `DIMENSIONS` numbers from -1 to 1, all 0 below three characters.

    Each sequence of three characters is hashed to eight signs, and the signs are averaged over the text: a random
    projection of its trigram frequencies. Texts of like wording lie near each other; the numbers fix no text.
    """
    return _project(_codes(text), key)


def _codes(text: str) -> np.ndarray[Any, np.dtype[np.uint32]]:
    codes: np.ndarray[Any, np.dtype[np.uint32]] = np.frombuffer(
        text[:MOST_CHARS].encode("utf-32-le", "surrogatepass"), dtype=np.uint32
    )
    return codes


def _histogram(codes: np.ndarray[Any, np.dtype[np.uint32]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the different code points and their counts; sorting is spared where all are small."""
    if codes.max() < _SMALL:
        counted = np.bincount(codes)
        kinds = counted.nonzero()[0]
        return kinds, counted[kinds]
    return np.unique(codes, return_counts=True)


def _project(codes: np.ndarray[Any, np.dtype[np.uint32]], key: bytes) -> list[float]:
    if len(codes) < 3:
        return [0.0] * DIMENSIONS
    first, second, third, last = _factors(key)
    mixed = codes[:-2] * first
    mixed += codes[1:-1] * second
    mixed += codes[2:] * third
    mixed ^= mixed >> np.uint32(15)
    mixed *= last
    bytes_ = mixed.view(np.uint8)[_HIGHEST::4]
    shares = (np.bincount(bytes_, minlength=256) @ _BITS).tolist()
    return [round(2 * share / len(mixed) - 1, 3) for share in shares]


@lru_cache(maxsize=16)
def _factors(key: bytes) -> tuple[np.uint32, ...]:
    """Return four odd 32-bit multipliers made from a key."""
    digest = hashlib.blake2b(b"hallmark projection", key=key[:64], digest_size=16).digest()
    return tuple(np.uint32(int.from_bytes(digest[i : i + 4], "little") | 1) for i in range(0, 16, 4))


def _script(kinds: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]) -> str:
    """Return the script of most letters, `` where a text has none."""
    found: dict[str, int] = {}
    small = bool(kinds[-1] < _SMALL)
    places: Any = _PLACES[kinds] if small else np.searchsorted(_STARTS, kinds, side="right")
    for place, count in zip(places.tolist(), counts.tolist(), strict=True):
        if _NAMES[place]:
            found[_NAMES[place]] = found.get(_NAMES[place], 0) + count
    return max(sorted(found), key=lambda name: found[name]) if found else ""


def _language_of(text: str) -> str:
    """Return the language whose function words are most frequent: at least two, and more than any other's."""
    hits: dict[str, int] = {}
    for word in text[: MOST_CHARS // 4].lower().split():
        for language in _LANGUAGES.get(word, ()):
            hits[language] = hits.get(language, 0) + 1
    best = sorted(hits, key=lambda name: -hits[name])[:2]
    if not best or hits[best[0]] < 2 or (len(best) > 1 and hits[best[0]] == hits[best[1]]):
        return ""
    return best[0]


def distance(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the Euclidean distance of two projections, divided by its largest value."""
    return math.dist(first, second) / (2 * math.sqrt(DIMENSIONS))
