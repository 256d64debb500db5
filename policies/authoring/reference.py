"""What a span rule matches, read off its definition with Python's `re`: slow, and nothing in common with the automaton.

Scenarios and `policy check` are made with it, so that what they say about a rule is not the checker's own opinion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase, digits, hexdigits

from policies.enforcement.normalize import VIEWS, clean, is_word
from policies.enforcement.pattern import Branch, Chars, Node, lengths, spelled
from policies.enforcement.rules import RegexRule, SpanRule


@lru_cache(maxsize=512)
def view_of(name: str, text: str) -> tuple[str, list[int]]:
    """Return a text as a view has it, and for each character of that the place it came from."""
    if name == "exact":
        return text, list(range(len(text)))
    views = [VIEWS[name][ord(char)] for char in text]
    return "".join(views), [place for place, view in enumerate(views) for _ in view]


@lru_cache(maxsize=64)
def readings(text: str, coding: str, least: int = 1) -> tuple[str, ...]:
    """Return what a text says in a coding: every run of it at every alignment, or with its percent escapes read.

    What a byte that is no text parts counts as texts of their own; those shorter than `least` may be left out.
    """
    if coding == "url":
        said = [re.sub("%([0-9A-Fa-f]{2})", lambda found: _SAID[int(found[1], 16)], text)] if "%" in text else []
    else:
        said = list(_runs(text, least, *((_BASE64, 6, 4) if coding == "base64" else (_HEX, 4, 2))))
    return tuple(dict.fromkeys(part for each in said for part in each.split(_BREAK) if part))


def _runs(text: str, least: int, values: dict[str, int], width: int, alignments: int) -> Iterator[str]:
    for run in re.findall(f"[{re.escape(''.join(values))}]{{{-(-8 * least // width)},}}", text):
        for begin in range(alignments):
            bits = "".join(f"{values[char]:0{width}b}" for char in run[begin:])
            yield "".join(_SAID[int(bits[place : place + 8], 2)] for place in range(0, len(bits) - 7, 8))


_BREAK = "\ud800"
_ALPHABET = ascii_uppercase + ascii_lowercase + digits + "+/"
_BASE64 = {**{char: value for value, char in enumerate(_ALPHABET)}, "-": 62, "_": 63}
_HEX = {char: int(char, 16) for char in hexdigits}
_SAID = [chr(code) if 32 <= code < 127 or code in (9, 10, 13) else _BREAK for code in range(256)]
"""What a byte says; one that is no text parts what is on its sides."""


class Reference:
    """One span rule; with `checked` false, its pattern alone, without the checksum."""

    def __init__(self, rule: SpanRule, *, checked: bool = True) -> None:
        self.rule, self.view = rule, rule.view
        self.branches = rule.branches()
        self._bodies = [re.compile(expression(branch.body)) for branch in self.branches]
        self._shortest = [lengths(branch.body)[0] for branch in self.branches]
        self._least = min(8, *self._shortest)
        self._passes = rule.passes if checked and isinstance(rule, RegexRule) and rule.check is not None else None

    def finds(self, text: str) -> bool:
        """Say whether a rule matches anywhere in a text, or in what its coded runs say."""
        return any(self.found(text))

    def found(self, text: str) -> Iterator[bool]:
        """Yield, for each branch, whether it matches anywhere in a text."""
        text = clean(text)
        texts = [
            text,
            *(said for coding in self.rule.decoded for said in readings(text, coding, self._least)),
        ]
        seen = [(each, *view_of(self.view, each)) for each in texts]
        for branch, body, least in zip(self.branches, self._bodies, self._shortest, strict=True):
            yield any(self._matches(*each, branch, body) for each in seen if len(each[1]) >= least)

    def _matches(self, text: str, view: str, origin: list[int], branch: Branch, body: re.Pattern[str]) -> bool:
        if not body.search(view):
            return False
        if not (branch.left or branch.right or self._passes):
            return True
        return any(True for _ in self._tried(text, view, origin, branch, body))

    def _tried(
        self, text: str, view: str, origin: list[int], branch: Branch, body: re.Pattern[str]
    ) -> Iterator[tuple[int, int]]:
        for start in range(len(view)):
            if not body.match(view, start):
                continue
            begin = origin[start]
            if branch.left and not _is_edge(text, begin):
                continue
            for end in range(start + 1, min(len(view), start + branch.longest) + 1):
                stop = origin[end - 1] + 1
                if (branch.right and not _is_edge(text, stop)) or not body.fullmatch(view, start, end):
                    continue
                if self._passes is None or self._passes(text[begin:stop]):
                    yield begin, stop


def fits(branches: Sequence[Branch], text: str) -> bool:
    """Say whether a text is a match of one of these branches from its first character to its last."""
    return any(re.fullmatch(expression(branch.body), text) for branch in branches)


def expression(node: Node) -> str:
    """Return a node in Python's syntax: only groups, classes of code points and bounded repeats."""
    return spelled(node, _class)


def _class(chars: Chars) -> str:
    return "[" + "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in chars.ranges) + "]"


def _is_edge(text: str, place: int) -> bool:
    before = is_word(text[place - 1]) if place else False
    return before != (is_word(text[place]) if place < len(text) else False)
