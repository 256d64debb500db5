"""Test scenarios of a bundle: for each rule, texts that it must act on and texts that it must leave alone, by seed.

They are made from the rules and judged by their definitions, not by the checker, so that they can test it; as JSON
lines they feed synthetic data and evaluation suites. The same bundle, seed and number give the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from policies.authoring.prompts import prompt_for
from policies.authoring.reference import Reference, fits
from policies.authoring.specimens import compliant, violating
from policies.bundle import SIDES, Bundle
from policies.enforcement.rules import (
    AnyRule,
    FormatRule,
    MaxLengthRule,
    SpanRule,
    TopicRule,
    WholeRule,
)

TRIES = 60
"""Proposals looked at for each text that is wanted."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One text of one rule. `action` is what that rule asks for: `pass` for a compliant text.

    A compliant text holds nothing that another rule of its side finds, rules on the whole text (`WholeRule`) apart. On
    a violating one another rule may act too. `form` is how it was made, `prompt` what to ask a model for to get it
    (on the input side, the text itself). `seed` makes this very row again.
    """

    rule: str
    side: str
    kind: str
    form: str
    text: str
    action: str
    prompt: str
    seed: str


class Scenarios:
    """The scenarios of a set of rules."""

    def __init__(self, rules: Sequence[AnyRule]) -> None:
        self.rules = tuple(rules)
        self._references = {rule.id: Reference(rule) for rule in self.rules if isinstance(rule, SpanRule)}

    @classmethod
    def of(cls, bundle: Bundle) -> Scenarios:
        """Return those of a bundle."""
        return cls(bundle.spec.rules)

    def rows(self, per_rule: int, seed: int = 0, only: Collection[str] | None = None) -> Iterator[Scenario]:
        """Yield up to `per_rule` violating and as many compliant texts a rule, shared out over its sides.

        Fewer where a rule has no more: a limit has few edges, a checksum may be out of reach; see `made_for`. `only`
        names the rules that are wanted; the rows of a rule are the same with and without it.
        """
        for rule in self.rules:
            if made_for(rule) or (only is not None and rule.id not in only):
                continue
            sides = [side for side in SIDES if rule.applies_to(side)]
            for number, side in enumerate(sides):
                share = per_rule // len(sides) + (number < per_rule % len(sides))
                for kind in ("violating", "compliant"):
                    yield from islice(self._of(rule, side, kind, f"{seed}:{rule.id}:{side}:{kind}"), share)

    def violates(self, rule: AnyRule, text: str) -> bool:
        """Say whether a rule must act on a text, by the rule's definition."""
        if isinstance(rule, MaxLengthRule):
            return len(text) > rule.characters
        if isinstance(rule, FormatRule):
            return not fits(rule.branches(), text)
        if isinstance(rule, WholeRule):
            return not rule.accepts(text)
        if isinstance(rule, TopicRule):
            return sum(self._references[rule.id].found(text)) >= rule.at_least
        return isinstance(rule, SpanRule) and self._references[rule.id].finds(text)

    def free(self, side: str, text: str) -> bool:
        """Say whether no rule of a side acts on a text; rules on the whole text aside."""
        return not any(
            self.violates(rule, text)
            for rule in self.rules
            if rule.applies_to(side) and isinstance(rule, SpanRule | MaxLengthRule)
        )

    def _of(self, rule: AnyRule, side: str, kind: str, seed: str) -> Iterator[Scenario]:
        rng = random.Random(seed)  # noqa: S311 (drawn texts, no secrets)
        seen: set[str] = set()
        last = 0
        source = violating if kind == "violating" else compliant
        for number, (form, text) in enumerate(source(rule, rng)):
            if number - last > TRIES:
                return
            if text in seen or not self._keeps(rule, side, kind, text):
                continue
            last = number
            seen.add(text)
            prompt = text if side == "input" else prompt_for(rule, kind, text, rng)
            yield Scenario(rule.id, side, kind, form, text, _action(rule, side, kind), prompt, f"{seed}:{number}")

    def _keeps(self, rule: AnyRule, side: str, kind: str, text: str) -> bool:
        if kind == "compliant":
            return not self.violates(rule, text) and self.free(side, text)
        return self.violates(rule, text)


def made_for(rule: AnyRule) -> str:
    """Return why no scenarios are made for a rule, or ``: what code decides has no language to draw from."""
    known = isinstance(rule, SpanRule | MaxLengthRule | WholeRule)
    return "" if known else f"a `{rule.kind}` rule is code: write its texts into `tests.yaml`"


def _action(rule: AnyRule, side: str, kind: str) -> str:
    if kind == "compliant":
        return "pass"
    action = str(getattr(rule, "action", "block"))
    return "block" if action == "abort" and side == "input" else action
