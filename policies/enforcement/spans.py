"""Spans that rules found: joined where those of one rule overlap, grouped where any do, and what stands for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from policies.enforcement.rules import AnyRule


@dataclass(frozen=True, slots=True)
class Hit:
    """What one rule found: code points of the original text; matches of a rule that overlap are one hit."""

    rule: str
    type: str
    action: str
    start: int
    end: int


class Span(NamedTuple):
    """Half-open interval of the original text, and the number of the rule that found it."""

    start: int
    end: int
    rule: int


class Spans(dict[int, list[Span]]):
    """The spans that are not decided yet, by the number of their rule."""

    __slots__ = ()

    @property
    def count(self) -> int:
        """How many there are of all rules."""
        return sum(map(len, self.values()))

    def add(self, found: Iterable[Span]) -> None:
        """Add spans in any order; those of one rule that share a character become one."""
        touched = set()
        for span in found:
            self.setdefault(span.rule, []).append(span)
            touched.add(span.rule)
        for rule in touched:
            joined: list[Span] = []
            for span in sorted(self[rule]):
                if joined and span.start < joined[-1].end:
                    joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end), rule)
                else:
                    joined.append(span)
            self[rule] = joined

    def take_before(self, cut: int) -> tuple[int, list[list[Span]]]:
        """Take out the groups that begin before a place; return the place, pulled back over a group that crosses it."""
        groups = self._groups()
        for group in groups:
            if group[0].start < cut < max(span.end for span in group):
                cut = group[0].start
        done = [group for group in groups if group[0].start < cut]
        self.clear()
        for group in groups[len(done) :]:
            for span in group:
                self.setdefault(span.rule, []).append(span)
        return cut, done

    def take_all(self) -> list[Span]:
        """Take out all spans, in order."""
        spans = self._sorted()
        self.clear()
        return spans

    def _sorted(self) -> list[Span]:
        return sorted(span for spans in self.values() for span in spans)

    def _groups(self) -> list[list[Span]]:
        """Return the spans in groups that share characters, in order."""
        groups: list[list[Span]] = []
        reach = -1
        for span in self._sorted():
            if span.start < reach:
                groups[-1].append(span)
            else:
                groups.append([span])
            reach = max(reach, span.end)
        return groups


def replaced(text: str, base: int, groups: Sequence[Sequence[Span]], rules: Sequence[AnyRule]) -> str:
    """Return a text that begins at `base` with each group of spans replaced."""
    parts, place = [], 0
    for group in groups:
        start, end = group[0].start - base, max(span.end for span in group) - base
        parts += [text[place:start], replacement(group, rules, end - start)]
        place = end
    return "".join([*parts, text[place:]])


def replacement(group: Iterable[Span], rules: Sequence[AnyRule], size: int) -> str:
    """Return the placeholder of the first rule that redacts, else one star a character."""
    redacting = [span.rule for span in group if rules[span.rule].action == "redact"]
    return placeholder(rules[min(redacting)].type) if redacting else "*" * size


def placeholder(kind: str) -> str:
    """Return what stands in the place of a redacted span."""
    return f"[REDACTED:{kind}]"


def hit_of(span: Span, rules: Sequence[AnyRule]) -> Hit:
    """Return a span as what is reported of it."""
    rule = rules[span.rule]
    return Hit(rule.id, rule.type, rule.action, span.start, span.end)
