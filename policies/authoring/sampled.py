"""Tests that need no text in a file: each rule is shown texts drawn from itself, which it must act on.

A rule of credentials is tested this way, since a text that looks like a live one must not lie in a repository.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice

from policies.authoring.specimens import violating
from policies.enforcement.engine import Enforcer
from policies.enforcement.rules import AnyRule, CodeRule


def run_samples(enforcer: Enforcer, rules: Sequence[AnyRule], count: int) -> Iterator[tuple[str, str]]:
    """Yield (rule id, what went wrong or nothing) for every rule that is not code.

    Args:
        enforcer: enforces the rules; the others are exempted while one is tested.
        rules: all rules of the bundle.
        count: how many texts a rule must act on. They are drawn by the rule's id as seed, and are not told.
    """
    ids = frozenset(rule.id for rule in rules)
    for rule in rules if count else ():
        if isinstance(rule, CodeRule):
            continue
        check = enforcer.check_output if rule.applies_to("output") else enforcer.check_input
        wrong = ""
        for form, text in islice(violating(rule, random.Random(rule.id)), count):  # noqa: S311 - for tests
            piece = check(text, exempt=ids - {rule.id})
            if not piece.hits and piece.blocked is None:
                wrong = f"does not act on a text of its own ({form})"
        yield rule.id, wrong
