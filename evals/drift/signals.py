"""What is watched in the decision log: one series of numbers a signal, in the order of the requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Decision = Mapping[str, Any]
"""A row of the table `gateway_decision`."""
MIN_RULE_HITS = 3
"""A rule is a signal of its own once it had a say so often; rarer ones are covered by `policy_hit`."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Two windows of one signal. A rate has values 0 and 1; of a size only the order of its values matters."""

    name: str
    reference: tuple[float, ...]
    current: tuple[float, ...]
    meaning: str
    places: tuple[int, ...]
    """Where each current value stands in the current window."""

    @property
    def varies(self) -> bool:
        """Whether it ever took two values: one that did not can show nothing and costs the others no power."""
        return len({*self.reference, *self.current}) > 1


def read_signals(reference: Sequence[Decision], current: Sequence[Decision]) -> list[Signal]:
    """Return the signals of two windows of decisions.

    Latency is left out: it says more about the machine than about model and traffic. Which rules become signals depends
    on both windows together, never on how they differ.
    """
    rates: dict[str, tuple[Callable[[Decision], bool], str]] = {
        "refused": (_is_refused, "requests that access or a rule turned away"),
        "policy_hit": (lambda row: bool(_rules(row)), "requests in which any rule had a say"),
        "truncated": (lambda row: row["finish_reason"] == "length", "answers cut off at the token limit"),
        "failed": (lambda row: row["action"] == "error", "requests that failed"),
    }
    for rule in _frequent_rules([*reference, *current]):
        rates[f"rule:{rule}"] = (_hits(rule), f"requests in which rule `{rule}` had a say")
    every = tuple(range(len(current)))
    found = []
    for name, (test, meaning) in rates.items():
        windows = [tuple(float(test(row)) for row in rows) for rows in (reference, current)]
        found.append(Signal(name, windows[0], windows[1], meaning, every))
    return [
        *found,
        _size("output_chars", reference, current, "length of answers"),
        _size("input_chars", reference, current, "length of prompts"),
    ]


def _size(column: str, reference: Sequence[Decision], current: Sequence[Decision], meaning: str) -> Signal:
    """Return a size; requests that were turned away have no answer whose length could count."""
    answered = column == "output_chars"
    first, second = (
        [(place, float(row[column] or 0)) for place, row in enumerate(rows) if not (answered and _is_refused(row))]
        for rows in (reference, current)
    )
    places = tuple(place for place, _ in second)
    return Signal(column, tuple(value for _, value in first), tuple(value for _, value in second), meaning, places)


def _is_refused(row: Decision) -> bool:
    return row["action"] in ("deny", "block")


def _rules(row: Decision) -> list[str]:
    rules = row["rules"]
    return list(json.loads(rules) if isinstance(rules, str) else rules or [])


def _hits(rule: str) -> Callable[[Decision], bool]:
    return lambda row: rule in _rules(row)


def _frequent_rules(rows: Sequence[Decision]) -> list[str]:
    counts: dict[str, int] = {}
    for row in rows:
        for rule in set(_rules(row)):
            counts[rule] = counts.get(rule, 0) + 1
    return sorted(rule for rule, count in counts.items() if count >= MIN_RULE_HITS)
