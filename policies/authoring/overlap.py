"""Span rules that leave one another nothing to do: found on drawn texts, then proven on the patterns themselves."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from policies.authoring.inclusion import covers
from policies.authoring.reference import Reference
from policies.authoring.samples import draw, embed
from policies.enforcement.pattern import Branch, PatternError
from policies.enforcement.rules import AnyRule, SpanRule, TopicRule

DRAWN = 4
_WIDTH = {"exact": 0, "plain": 1, "folded": 2, "lookalike": 3}


@dataclass(frozen=True, slots=True)
class Overlap:
    """`rule` leaves no trace because of `by`. `conflict`: what happens is not what `rule` asks for."""

    rule: SpanRule
    by: SpanRule
    why: str
    conflict: bool = False
    undecided: bool = False


def find_overlaps(rules: Sequence[AnyRule]) -> Iterator[Overlap]:
    """Yield, for each rule that another one leaves nothing to, the first such other one."""
    spans = [(number, rule) for number, rule in enumerate(rules) if isinstance(rule, SpanRule)]
    references = {number: Reference(rule, checked=False) for number, rule in spans}
    numbered: dict[_Kind, int] = {}
    kinds = {number: numbered.setdefault(_kind(rule), len(numbered)) for number, rule in spans}
    wider = {(numbered[by], numbered[rule]) for by in numbered for rule in numbered if _same_place(by, rule)}
    told: set[int] = set()
    for number, rule in spans:
        drawn = _drawn(rule, references[number].branches)
        for other, by in spans:
            if (
                other == number
                or other in told
                or not _shows_nothing(rule, by, number > other)
                or (kinds[other], kinds[number]) not in wider
            ):
                continue
            if drawn and not all(references[other].finds(text) for text in drawn):
                continue
            found = _prove(rule, by)
            if found is not None:
                told.add(number)
                yield found
                break


@dataclass(frozen=True, slots=True)
class _Kind:
    """Where a rule looks: what most rules of a bundle have in common."""

    side: str
    width: int
    decoded: frozenset[str]
    check: str | None
    drops: bool


def _kind(rule: SpanRule) -> _Kind:
    check, until = _field(rule, "check", None), _field(rule, "until", None)
    return _Kind(rule.side, _WIDTH[rule.view], frozenset(rule.decoded), check, bool(until))


def _same_place(by: _Kind, rule: _Kind) -> bool:
    """Say whether one rule looks wherever the other does: side, view, codings, no other checksum, no suppressing."""
    sides = by.side in (rule.side, "both")
    checks = by.check in (None, rule.check)
    return sides and by.width >= rule.width and rule.decoded <= by.decoded and checks and not (rule.drops or by.drops)


def _shows_nothing(rule: SpanRule, by: SpanRule, later: bool) -> bool:
    """Say whether `by` has the last word where both match the same text."""
    if isinstance(by, TopicRule) and by.at_least > 1:
        return False
    if by.stops:
        return later or not rule.stops
    if rule.stops:
        return False
    return later if by.action == rule.action else by.action == "redact"


def _prove(rule: SpanRule, by: SpanRule) -> Overlap | None:
    checks = _field(by, "check", None), _field(rule, "check", None)
    strong, weak = by.branches(), _branches_on(rule, by.view)
    if weak is None:
        return None
    conflict = by.action != rule.action
    ends = by.stops
    answer = covers(strong, weak)
    if answer:
        same = by.view == rule.view and checks[0] == checks[1] and covers(weak, strong) is True
        what = "the same texts" if same else "every text of it"
        return Overlap(rule, by, f"rule `{by.id}` matches {what} and wins with `{by.action}`", conflict)
    if ends and checks[0] is None:
        answer = _inside(rule, strong, weak)
        if answer:
            why = f"every match of it holds one of rule `{by.id}`, which wins with `{by.action}`"
            return Overlap(rule, by, why, conflict)
    return Overlap(rule, by, "", undecided=True) if answer is None else None


def _inside(rule: SpanRule, strong: Sequence[Any], weak: Sequence[Any]) -> bool | None:
    """Say whether whatever makes a rule act holds a match of `strong`; a topic acts on several keywords together."""
    answers = [covers(strong, [branch], inside=True) for branch in weak]
    needed = rule.at_least if isinstance(rule, TopicRule) else 1
    free = sum(answer is False for answer in answers)
    if free >= needed:
        return False
    return True if free + sum(answer is None for answer in answers) < needed else None


def _branches_on(rule: SpanRule, view: str) -> Sequence[Any] | None:
    """Return a rule's branches as they read on a wider view, None where they have no reading there."""
    if rule.view == view or isinstance(rule, TopicRule):
        return rule.branches()
    try:
        return rule.model_copy(update={"view": view}).branches()
    except PatternError:
        return None


def _drawn(rule: SpanRule, branches: Sequence[Branch]) -> list[str]:
    """Return some texts of a rule's pattern, checksum aside; none for a topic, which acts on several together."""
    rng = random.Random(f"overlap {rule.id}")  # noqa: S311 (drawn texts, no secrets)
    if isinstance(rule, TopicRule) and rule.at_least > 1:
        return []
    chosen = [rng.choice(branches) for _ in range(DRAWN)]
    return [embed(draw(branch.body, rng), branch, rng, bare=True) for branch in chosen]


def _field(rule: SpanRule, name: str, default: Any) -> Any:
    return getattr(rule, name, default)
