"""Texts out of a rule's own language: drawn from its pattern by seed, and in the spellings that its view undoes."""

from __future__ import annotations

import base64
import random
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import accumulate

from policies.authoring.repair import repaired
from policies.enforcement.normalize import is_word
from policies.enforcement.pattern import Branch, Chars, Choice, Node, Ranges, Repeat, Series
from policies.enforcement.rules import RegexRule, SpanRule

MOST_TRIES = 4_000
"""Draws after which a checksum counts as out of reach."""
_PRINTABLE = (0x21, 0x7E)
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
_MARKS = "\u0300\u0301\u0302\u0308\u030a\u0323"
_SURROGATES = range(0xD800, 0xE000)
_BEFORE = ("", "see ", "here it is: ", "note - ", "line 7\n", "(", "the answer is ")
_AFTER = ("", " ", ".", ", thanks", " and nothing else", "\nend of file", ")")


def draw(node: Node, rng: random.Random) -> str:
    """Return a text that a node matches, mostly short and printable; every match of it can come up."""
    if isinstance(node, Chars):
        return _character(node.ranges, rng)
    if isinstance(node, Series):
        return "".join(draw(item, rng) for item in node.items)
    if isinstance(node, Choice):
        return draw(rng.choice(node.options), rng)
    return "".join(draw(node.item, rng) for _ in range(_turns(node, rng)))


def draw_match(rule: SpanRule, rng: random.Random, branch: Branch | None = None) -> tuple[str, Branch] | None:
    """Return a text that a rule matches as a whole, checksum included, and the branch it came from.

    None where `MOST_TRIES` draws, each with its check digits set right, have not passed the rule's check.
    """
    branches, check = rule.branches(), getattr(rule, "check", None)
    for _ in range(MOST_TRIES):
        chosen = branch or rng.choice(branches)
        text = draw(chosen.body, rng)
        if not isinstance(rule, RegexRule) or rule.passes(text):
            return text, chosen
        better = repaired(text, check or "", rule.passes)
        if better is not None:
            return better, chosen
    return None


def embed(text: str, branch: Branch, rng: random.Random, *, bare: bool = False) -> str:
    """Return a matching text between others (`bare`: alone if it can be), with the word edges its branch asks for."""
    before, after = ("", "") if bare else (rng.choice(_BEFORE), rng.choice(_AFTER))
    if branch.left and not is_word(text[0]):
        before += "x"  # an edge before what is no word needs a word on its other side
    if branch.right and not is_word(text[-1]):
        after = "x" + after
    return before + text + after


def spellings(view: str) -> tuple[str, ...]:
    """Return the names of the ways to write a text that a view takes for the same."""
    ways = {
        "exact": (),
        "plain": ("full width", "invisible characters"),
        "folded": ("full width", "invisible characters", "upper case", "accents"),
        "lookalike": ("full width", "invisible characters", "upper case", "accents", "look-alikes"),
    }
    return ways.get(view, ())


def spell(text: str, way: str, rng: random.Random, same: Callable[[str], str]) -> str:
    """Return a text written another way; only characters that `same`, the view, maps back are changed.

    The first and last characters keep their kind (word or not), so that word edges hold as before.
    """
    if way == "invisible characters":
        return _between(text, _INVISIBLE, rng)
    if way == "accents":
        return _between(text, _MARKS, rng, after=str.isalpha)
    change = {"full width": _full_width, "upper case": str.upper, "look-alikes": _look_alike}[way]
    out = []
    for char in text:
        other = change(char)
        fits = other != char and same(other) == same(char) and is_word(other[0]) == is_word(char)
        out.append(other if fits and rng.random() < 0.7 else char)
    return "".join(out)


def encode(text: str, coding: str) -> str:
    """Return a text as `base64`, `hex` or `url` writes it."""
    data = text.encode("utf-8")
    if coding == "base64":
        return base64.b64encode(data).decode("ascii")
    return data.hex() if coding == "hex" else "".join(f"%{byte:02X}" for byte in data)


def _turns(node: Repeat, rng: random.Random) -> int:
    if rng.random() < 0.05:
        return min(node.high, node.low + 64)
    return min(node.high, node.low + int(rng.expovariate(0.4)))


def _character(ranges: Ranges, rng: random.Random) -> str:
    common, every = _characters(ranges)
    if common and rng.random() >= 0.02:
        return common[int(rng.random() * len(common))]
    ends, lows, total = every
    place = int(rng.random() * total)
    chosen = bisect_right(ends, place)
    code = lows[chosen] + place - (ends[chosen - 1] if chosen else 0)
    return chr(code) if code not in _SURROGATES else chr(lows[chosen])


@lru_cache(maxsize=4096)
def _characters(ranges: Ranges) -> tuple[str, tuple[list[int], list[int], int]]:
    """Return the printable ASCII characters of ranges, and the running sizes, first codes and total of all of them."""
    low, high = _PRINTABLE
    common = "".join(chr(code) for first, last in ranges for code in range(max(low, first), min(high, last) + 1))
    ends = list(accumulate(last - first + 1 for first, last in ranges))
    return common, (ends, [first for first, _ in ranges], ends[-1])


def _between(text: str, marks: str, rng: random.Random, after: Callable[[str], bool] = lambda char: True) -> str:
    """Put marks behind characters, never behind the last one."""
    places = [place for place in range(len(text) - 1) if after(text[place])]
    chosen = set(rng.sample(places, min(len(places), 1 + rng.randrange(3)))) if places else set()
    return "".join(char + (rng.choice(marks) if place in chosen else "") for place, char in enumerate(text))


def _full_width(char: str) -> str:
    return chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char


def _look_alike(char: str) -> str:
    return _TWINS.get(char, char)


def _twins(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {latin: other for latin, other in pairs if unicodedata.category(other)[0] == "L"}


_TWINS = _twins(
    zip("aceopxysijhABCEHIKMOPTXY", "\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u0455\u0456\u0458\u04bb"
        "\u0410\u0412\u0421\u0415\u041d\u0406\u041a\u041c\u041e\u0420\u0422\u0425\u0423", strict=True)
)  # fmt: skip
"""Cyrillic letters that are drawn like Latin ones."""
