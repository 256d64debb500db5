"""What an evaluation costs: an estimate before it runs, and a meter that stops it before it costs more than allowed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.artifacts import replace_file
from registry.errors import BudgetSpent, NotFound
from registry.records import plain

if TYPE_CHECKING:
    from evals.instrument import Instrument
    from evals.kpi import Kpi
    from evals.samples import Sample
    from evals.suite import Budgets
    from registry.records import Asset
    from registry.workspace import Workspace

NEW_TOKENS = 256
"""Tokens that an answer is taken to have where its task sets no limit that is known here: lm-eval's own default."""
_EXACT_MATCH_TOKENS = 64
_TEMPLATE_TOKENS = 64
"""Tokens of a chat template and system prompt around one question, where they are short."""


@dataclass(frozen=True, slots=True)
class KpiCost:
    """What one KPI costs: requests, tokens and judge calls of the samples that are due, and seconds where known.

    `bound` says that tokens are an upper bound (a token has at least one byte); else they are a guess, because the
    task's answers have no limit that is known before it runs. `seconds` come from an earlier run of the same
    instrument, on whatever model that was.
    """

    kpi: str
    samples: int
    requests: int
    tokens: int
    judge_calls: int
    bound: bool
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of an evaluation before it runs, as if nothing of it was measured yet, beside the suite's budgets."""

    kpis: tuple[KpiCost, ...]
    budgets: Budgets

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens of all KPIs."""
        return sum(kpi.tokens for kpi in self.kpis)

    @property
    def judge_calls(self) -> int:
        """Questions to judges of all KPIs, their calibration left out."""
        return sum(kpi.judge_calls for kpi in self.kpis)

    @property
    def seconds(self) -> float | None:
        """Seconds of all KPIs; None where one of them was never measured."""
        known = [kpi.seconds for kpi in self.kpis if kpi.seconds is not None]
        return sum(known) if len(known) == len(self.kpis) else None

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {
            "kpis": plain(self.kpis), "tokens": self.tokens, "judge_calls": self.judge_calls, "seconds": self.seconds,
            "budgets": self.budgets.model_dump(mode="json"),
        }  # fmt: skip

    def render_lines(self) -> list[str]:
        """Return it as plain text lines."""
        lines = ["estimated cost, if nothing is measured yet"]
        for kpi in self.kpis:
            word = "at most" if kpi.bound else "about"
            calls = f", {kpi.judge_calls} judge calls" if kpi.judge_calls else ""
            seconds = f", about {kpi.seconds:.0f} s" if kpi.seconds is not None else ", time unknown"
            asked = f"{kpi.samples} samples, {kpi.requests} requests"
            lines.append(f"  {kpi.kpi:<20} {asked}, {word} {kpi.tokens} tokens{calls}{seconds}")
        allowed = self.budgets.model_dump(exclude_none=True)
        if allowed:
            lines.append("budgets: " + ", ".join(f"{name} {value:g}" for name, value in allowed.items()))
        for name in ("tokens", "judge_calls"):
            if name in allowed and getattr(self, name) > allowed[name]:
                lines.append(f"it may stop before it is done: {getattr(self, name)} {name} are estimated")
        return lines


def estimate(
    ws: Workspace, suite: Asset, instruments: Sequence[Instrument], due: Mapping[str, int] | None = None
) -> Estimate:
    """Return what measuring the due samples costs, before anything runs.

    Args:
        ws: the workspace.
        suite: the registered suite, whose budgets are shown beside.
        instruments: the suite's instruments.
        due: samples by KPI; None means all samples of all KPIs.
    """
    from evals.suite import SuiteSpec
    from registry import specs

    entry = ws.artifacts.manifest(suite.body["manifest"]).entry("suite.yaml")
    if entry is None:
        raise NotFound(f"suite `{suite.name}` holds no `suite.yaml`", hint="register it again from its file")
    spec = specs.parse(ws.artifacts.read_bytes(entry.blake3).decode(), SuiteSpec)
    costs = []
    for each in instruments:
        count = each.kpi.samples if due is None else due.get(each.kpi.id, 0)
        if count:
            costs.append(_cost(each, count, read_rate(ws, each.digest)))
    return Estimate(tuple(costs), spec.budgets)


def _cost(instrument: Instrument, count: int, rate: float | None) -> KpiCost:
    kpi = instrument.kpi
    if kpi.harness == "import":
        return KpiCost(kpi.id, count, 0, 0, 0, True, 0.0)
    samples = instrument.samples[:count]
    asked, tokens, bound = 0, 0, True
    for sample in samples:
        requests, each, known = _sample_cost(kpi, sample)
        asked, tokens, bound = asked + requests, tokens + each, bound and known
    calls = count * kpi.epochs * (2 if kpi.harness == "judge" else 1) if kpi.judge else 0
    tokens = tokens * kpi.epochs + calls * 2 * (NEW_TOKENS + _TEMPLATE_TOKENS)
    seconds = None if rate is None else rate * count
    return KpiCost(kpi.id, count, asked * kpi.epochs, tokens, calls, bound and not calls, seconds)


def _sample_cost(kpi: Kpi, sample: Sample) -> tuple[int, int, bool]:
    """Return requests, tokens, and whether the tokens are a bound. A token of a byte-level tokenizer has a byte."""
    size = len(sample.input.encode("utf-8", "replace"))
    choices = sum(len(choice.encode("utf-8", "replace")) for choice in sample.choices)
    match kpi.task if kpi.harness == "lm-eval" else "":
        case "bits_per_byte":
            return 1, size + 1, True
        case "next_line":
            number = len(sample.choices)
            return 2 * number, number * (size + 1) + 2 * choices, True
        case "exact_match":
            return 1, size + 1 + _EXACT_MATCH_TOKENS + (0 if kpi.endpoint == "weights" else _TEMPLATE_TOKENS), True
        case "":
            return 1, size + choices + _TEMPLATE_TOKENS + NEW_TOKENS, False
        case _:  # a task file: one request a choice, or one completion; examples in its prompt are not counted
            number = max(1, len(sample.choices))
            return number, number * size + choices + (0 if sample.choices else NEW_TOKENS), False


class Meter:
    """Counts what a run uses and ends it with BudgetSpent where that is more than it may; safe to use in threads.

    Answers that are under way when a budget ends still come: as many as a harness has connections.
    """

    def __init__(self, budgets: Budgets, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._budgets, self._clock = budgets, clock
        self._began: float | None = None
        self._seconds = 0.0
        self._lock = threading.Lock()
        self._first: float | None = None
        self._before = 0
        self.tokens = 0
        self.judge_calls = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time inside: what others do between two looks is not this run's."""
        self._began = self._clock()
        try:
            yield
        finally:
            self._seconds += self._clock() - self._began
            self._began = None

    def spend(self, tokens: int = 0, judge_calls: int = 0) -> None:
        """Count tokens and judge calls that were used.

        Raises:
            BudgetSpent: they are more than the run may use, or no time is left.
        """
        with self._lock:
            self.tokens += tokens
            self.judge_calls += judge_calls
            if self._first is None and tokens:  # the rate counts from here: what came before was loading
                self._first, self._before = self._clock(), self.tokens
        for field, used, allowed in self._counted():
            if allowed is not None and used > allowed:
                raise _spent(field, used, allowed)
        self.check_time()

    def check(self, *, judged: bool = False) -> None:
        """Raise BudgetSpent where nothing is left for another request, or for another judge call where one is due."""
        for field, used, allowed in self._counted():
            if allowed is not None and used >= allowed and (judged or field == "tokens"):
                raise _spent(field, used, allowed)
        self.check_time()

    def _counted(self) -> tuple[tuple[str, int, int | None], ...]:
        return (
            ("tokens", self.tokens, self._budgets.tokens),
            ("judge_calls", self.judge_calls, self._budgets.judge_calls),
        )

    def check_time(self) -> None:
        """Raise BudgetSpent where no time is left."""
        allowed = self._budgets.minutes
        if allowed is not None and self.minutes >= allowed:
            raise _spent("minutes", round(self.minutes, 1), allowed)

    @property
    def rate(self) -> float:
        """Tokens a second since the first were spent; 0 where none were."""
        seconds = self._clock() - self._first if self._first is not None else 0.0
        return (self.tokens - self._before) / seconds if seconds > 0 else 0.0

    @property
    def minutes(self) -> float:
        """Minutes it has been running."""
        now = self._clock() - self._began if self._began is not None else 0.0
        return (self._seconds + now) / 60.0


def read_rate(ws: Workspace, instrument: str) -> float | None:
    """Return the seconds a sample took when an instrument was last used here, or None."""
    path = ws.work("evals", "rates") / f"{instrument.removeprefix('sha256:')}.json"
    try:
        return float(json.loads(path.read_bytes())["seconds_per_sample"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_rate(ws: Workspace, instrument: str, seconds_per_sample: float) -> None:
    """Remember how fast an instrument was; only an estimate is made of it."""
    path = ws.work("evals", "rates") / f"{instrument.removeprefix('sha256:')}.json"
    replace_file(path, json.dumps({"seconds_per_sample": seconds_per_sample}).encode(), durable=False)


def _spent(field: str, used: float, allowed: float) -> BudgetSpent:
    return BudgetSpent(
        f"the budget is spent: {_number(used)} of {_number(allowed)} {field.replace('_', ' ')}",
        hint=f"what was measured is kept; raise `budgets.{field}` in the suite and run the same command again",
    )


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
