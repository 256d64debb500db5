"""What a span rule matches, read off its definition with Python's `re`: slow, and nothing in common with the automaton.

Scenarios and `policy check` are made with it, so that what they say about a rule is not the checker's own opinion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from policies.normalize import VIEWS, clean, is_word
from policies.pattern import Branch, Chars, Choice, Node, Series
from policies.rules import SpanRule


def view_of(name: str, text: str) -> tuple[str, list[int]]:
    """Return a text as a view has it, and for each character of that the place it came from."""
    if name == "exact":
        return text, list(range(len(text)))
    views = [VIEWS[name][ord(char)] for char in text]
    return "".join(views), [place for place, view in enumerate(views) for _ in view]


class Reference:
    """One span rule. `places` names every match by its ends; `finds` only says whether there is one."""

    def __init__(self, rule: SpanRule) -> None:
        self.rule, self.view = rule, rule.view
        self.branches = rule.branches()
        self._bodies = [re.compile(expression(branch.body)) for branch in self.branches]
        self._checked = getattr(rule, "check", None) is not None

    def finds(self, text: str) -> bool:
        """Say whether a rule matches anywhere in a text."""
        return any(self.found(text))

    def found(self, text: str) -> Iterator[bool]:
        """Yield, for each branch, whether it matches anywhere in a text."""
        text = clean(text)
        view, origin = view_of(self.view, text)
        for branch, body in zip(self.branches, self._bodies, strict=True):
            if not body.search(view):
                yield False
            elif not (branch.left or branch.right or self._checked):
                yield True
            else:
                yield any(True for _ in self._tried(text, view, origin, branch, body))

    def whole(self, view: str) -> bool:
        """Say whether a rule's pattern matches a whole text of its view, word edges and checksum aside."""
        return any(body.fullmatch(view) for body in self._bodies)

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
                passes = getattr(self.rule, "passes", None)
                if passes is None or passes(text[begin:stop]):
                    yield begin, stop


def expression(node: Node) -> str:
    """Return a node in Python's syntax: only groups, classes of code points and bounded repeats."""
    if isinstance(node, Chars):
        return "[" + "".join(f"{_code(low)}-{_code(high)}" for low, high in node.ranges) + "]"
    if isinstance(node, Series):
        return "".join(expression(item) for item in node.items)
    if isinstance(node, Choice):
        return "(?:" + "|".join(expression(option) for option in node.options) + ")"
    return f"(?:{expression(node.item)}){{{node.low},{node.high}}}"


def _code(code: int) -> str:
    return f"\\U{code:08x}"


def _is_edge(text: str, place: int) -> bool:
    before = is_word(text[place - 1]) if place else False
    return before != (is_word(text[place]) if place < len(text) else False)
