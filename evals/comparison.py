"""What comparing two candidates gives, as values and as text: one line a KPI and slice, then the samples that moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evals.decision import KpiVerdict, number
from registry.records import plain

SHOWN = 96
"""How many characters of a question or answer a line shows."""
_SHORT = 19


@dataclass(frozen=True, slots=True)
class Side:
    """What the rows of one candidate say beside their values.

    `errors` counts samples without a value. The others are medians over the answers for which they are known, None
    where they are known for none: `latency_ms` in milliseconds, the tokens per answer.
    """

    samples: int = 0
    errors: int = 0
    latency_ms: float | None = None
    prompt_tokens: float | None = None
    completion_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One sample on which the two differ; `difference` is oriented: negative is worse.

    `asked`, `wanted` and the two answers are the beginnings of the texts, empty where they were not kept.
    """

    sample_id: str
    first: float
    second: float
    difference: float
    asked: str = ""
    wanted: str = ""
    first_answer: str = ""
    second_answer: str = ""


@dataclass(frozen=True, slots=True)
class KpiComparison:
    """One line of the table: `figures` as the gate would show them (gain: larger is better), or why there are none.

    `regressions` and `improvements` count samples, of which `worst` and `best` are those that moved most.
    `more_samples` is how many more samples like these would probably settle the KPI's own question, None where it is
    settled or cannot be foreseen. `slices` are the figures of the slices, each named in its `slice`.
    """

    kpi: str
    figures: KpiVerdict | None
    first: Side = Side()
    second: Side = Side()
    regressions: int = 0
    improvements: int = 0
    more_samples: int | None = None
    problems: tuple[str, ...] = ()
    slices: tuple[KpiVerdict, ...] = ()
    worst: tuple[Item, ...] = ()
    best: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """The paired table of two sets of results under one suite; `first` is compared with `second`."""

    suite: str
    first: str
    second: str
    level: float
    rows: tuple[KpiComparison, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return the table as plain JSON data."""
        value: dict[str, Any] = plain(self)
        return value

    def render_lines(self, items: int = 3) -> list[str]:
        """Return the table as plain text lines, and the `items` worst and best samples of each KPI."""
        lines = [
            f"A {self.first[:_SHORT]}  B {self.second[:_SHORT]}  suite {self.suite}",
            f"gain > 0: A is better; one-sided level {self.level:g}",
            "",
            *_aligned([_HEAD, *(line for row in self.rows for line in _table_lines(row))]),
        ]
        for row in self.rows:
            lines += _notes(row, items)
        return lines


_HEAD = ("kpi", "A", "B", "gain", "interval", "n", "clusters", "worse", "better", "errors")


def _table_lines(row: KpiComparison) -> list[tuple[str, ...]]:
    errors = f"{row.first.errors}/{row.second.errors}"
    if row.figures is None:
        return [(row.kpi, "", "", "none", "", "", "", "", "", errors)]
    moved = (str(row.regressions), str(row.improvements), errors)
    parts = [(f"  {each.slice}", *_figures(each), "", "", "") for each in row.slices]
    return [(row.kpi, *_figures(row.figures), *moved), *parts]


def _figures(item: KpiVerdict) -> tuple[str, ...]:
    low = "-inf" if item.lower is None else number(item, item.lower)
    high = "inf" if item.upper is None else number(item, item.upper)
    gain = "unknown" if item.estimate is None else number(item, item.estimate)
    return (_value(item.candidate), _value(item.baseline), gain, f"[{low}, {high}]", str(item.n), str(item.clusters))


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines with their columns under one another: names to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    found = []
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        found.append("  ".join([line[0].ljust(widths[0]), *cells]).rstrip())
    return found


def _notes(row: KpiComparison, items: int) -> list[str]:
    lines = [f"  {problem}" for problem in row.problems]
    for name, unit in (("latency_ms", " ms"), ("prompt_tokens", ""), ("completion_tokens", "")):
        one, two = getattr(row.first, name), getattr(row.second, name)
        if one is not None or two is not None:
            shown = " and ".join("unknown" if each is None else f"{each:.4g}{unit}" for each in (one, two))
            lines.append(f"  {name.removesuffix('_ms').replace('_', ' ')}, median: {shown}")
    if row.more_samples is not None:
        lines.append(f"  you need about {row.more_samples} more samples to settle it")
    for title, found in (("worse", row.worst[:items]), ("better", row.best[:items])):
        if found:
            lines.append(f"  {title}:")
            lines += [line for item in found for line in _item_lines(item)]
    return ["", row.kpi, *lines] if lines else []


def _item_lines(item: Item) -> list[str]:
    lines = [f"    {item.sample_id[:12]}  {item.first:.4g} instead of {item.second:.4g}  ({item.difference:+.4g})"]
    texts = (("asked", item.asked), ("wanted", item.wanted), ("A said", item.first_answer),
             ("B said", item.second_answer))  # fmt: skip
    return lines + [f"      {name:<7} {_fit(text)}" for name, text in texts if text]


def _fit(text: str) -> str:
    shown = " ".join(text.split())
    return shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "\u2026"
