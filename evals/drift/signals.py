"""What is watched in the decision log: one series of numbers a signal, in the order of the requests."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Decision = Mapping[str, Any]
"""A row of the table `gateway_decision`."""
Reading = Callable[[Decision], "float | None"]
"""What a signal is for one request; None where that request has none."""
MIN_HITS = 3
"""A rule, script or language is a signal of its own once it came so often; rarer rules are covered by `policy_hit`."""
TRAFFIC, ANSWERS = "traffic", "answers"
"""What a signal speaks of: what callers send, or what they get."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Two windows of one signal. A rate has values 0 and 1; of a size only the order of its values matters."""

    name: str
    reference: tuple[float, ...]
    current: tuple[float, ...]
    meaning: str
    places: tuple[int, ...]
    """Where each current value stands in the current window."""
    side: str = ANSWERS
    weight: float = 1.0
    """Its share of the false alarms, beside 1 for most; fixed by its name."""

    @property
    def varies(self) -> bool:
        """Whether it ever took two values: one that did not can show nothing and costs the others no power."""
        return bool(self.reference and self.current) and len({*self.reference, *self.current}) > 1

    @property
    def rate(self) -> bool:
        """Whether all its values are 0 and 1."""
        return {*self.reference, *self.current} <= {0.0, 1.0}


@dataclass(frozen=True, slots=True)
class _Watched:
    """A signal to read from rows."""

    name: str
    read: Reading
    meaning: str
    side: str = ANSWERS
    weight: float = 1.0


def read_signals(reference: Sequence[Decision], current: Sequence[Decision]) -> list[Signal]:
    """Return the signals of two windows of decisions.

    Latency is left out: it says more about the machine than about model and traffic. Which rules, scripts and languages
    become signals depends on both windows together, never on how they differ. Records of release 0.2 and before hold no
    traits of texts: their requests have no value there.
    """
    windows = [[_parsed(row) for row in rows] for rows in (reference, current)]
    found = [_signal(watched, *windows) for watched in (*_of_outcomes(windows), *_of_sizes(), *_of_texts(windows))]
    return [signal for signal in found if signal.reference or signal.current]


def _of_outcomes(windows: Sequence[Sequence[Decision]]) -> Iterator[_Watched]:
    yield _Watched("refused", lambda row: float(_is_refused(row)), "requests that access or a rule turned away")
    yield _Watched("policy_hit", lambda row: float(bool(row["rules"])), "requests in which any rule had a say")
    yield _Watched("truncated", lambda row: float(row["finish_reason"] == "length"), "answers cut off at their limit")
    yield _Watched("failed", lambda row: float(row["action"] == "error"), "requests that failed")
    for rule in _frequent(rule for rows in windows for row in rows for rule in set(row["rules"])):
        yield _Watched(f"rule:{rule}", _hits(rule), f"requests in which rule `{rule}` had a say")


def _of_sizes() -> Iterator[_Watched]:
    yield _Watched("output_chars", _answer_length, "length of answers")
    yield _Watched("input_chars", lambda row: _number(row, "input_chars"), "length of prompts", TRAFFIC)
    yield _Watched("completion_tokens", lambda row: _number(row, "completion_tokens") or None, "tokens of answers")
    yield _Watched("prompt_tokens", lambda row: _number(row, "prompt_tokens") or None, "tokens of prompts", TRAFFIC)
    yield _Watched("tool_calls", lambda row: _trait(row, "tool_calls"), "tool calls in an answer")
    yield _Watched("tool_errors", _tool_errors, "answers with a tool call whose arguments are no object")
    yield _Watched("mean_logprob", lambda row: _trait(row, "mean_logprob"), "mean log probability of tokens of answers")


def _of_texts(windows: Sequence[Sequence[Decision]]) -> Iterator[_Watched]:
    for part, side, what in (("input", TRAFFIC, "prompts"), ("output", ANSWERS, "answers")):
        traits = [row["signals"].get(part) or {} for rows in windows for row in rows]
        yield _Watched(f"{part}_entropy", _of_part(part, "entropy"), f"entropy of characters of {what}", side)
        for kind in ("script", "language"):
            for value in _frequent(str(found.get(kind, "")) for found in traits if found):
                name = f"{part}_{kind}:{value or 'none'}"
                yield _Watched(name, _is(part, kind, value), f"{what} of this {kind}", side, 0.5)
        dimensions = max((len(found.get("embedding", ())) for found in traits), default=0)
        for number in range(dimensions):
            name = f"{part}_embedding:{number}"
            yield _Watched(name, _dimension(part, number), f"wording of {what}", side, 1 / dimensions)


def _signal(watched: _Watched, reference: Sequence[Decision], current: Sequence[Decision]) -> Signal:
    read = watched.read
    first = tuple(value for row in reference if (value := read(row)) is not None)
    second = [(place, value) for place, row in enumerate(current) if (value := read(row)) is not None]
    values, places = tuple(value for _, value in second), tuple(place for place, _ in second)
    return Signal(watched.name, first, values, watched.meaning, places, watched.side, watched.weight)


def _answer_length(row: Decision) -> float | None:
    return None if _is_refused(row) else _number(row, "output_chars")


def _parsed(row: Decision) -> Decision:
    """Return a row with its JSON columns read."""
    rules, signals = row["rules"], row.get("signals")
    return {
        **row,
        "rules": list(json.loads(rules) if isinstance(rules, str) else rules or []),
        "signals": (json.loads(signals) if isinstance(signals, str) else signals) or {},
    }


def _is_refused(row: Decision) -> bool:
    return row["action"] in ("deny", "block", "abort")


def _number(row: Decision, column: str) -> float:
    return float(row.get(column) or 0)


def _trait(row: Decision, name: str) -> float | None:
    value = row["signals"].get(name)
    return None if value is None or _is_refused(row) else float(value)


def _tool_errors(row: Decision) -> float | None:
    calls, errors = row["signals"].get("tool_calls"), row["signals"].get("tool_errors")
    return float(bool(errors)) if calls else None


def _hits(rule: str) -> Reading:
    return lambda row: float(rule in row["rules"])


def _of_part(part: str, name: str) -> Reading:
    return lambda row: (row["signals"].get(part) or {}).get(name)


def _is(part: str, kind: str, value: str) -> Reading:
    def read(row: Decision) -> float | None:
        traits = row["signals"].get(part)
        return float(traits.get(kind, "") == value) if traits else None

    return read


def _dimension(part: str, number: int) -> Reading:
    def read(row: Decision) -> float | None:
        found = (row["signals"].get(part) or {}).get("embedding", ())
        return float(found[number]) if number < len(found) else None

    return read


def _frequent(values: Iterator[str]) -> list[str]:
    return sorted(value for value, count in Counter(values).items() if count >= MIN_HITS)
