"""Looks: what earlier decisions of the same test settled and spent, and at which level the present one is judged.

PASS and FAIL latch: a comparison that reached one is carried over with the figures of that look. The others are judged
at the level that `evals.stats.sequential` leaves them, given the looks they have had. A look without new samples is the
last one again and spends nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from evals.decision import Decision, KpiVerdict
from evals.stats import sequential
from evals.stats.bounds import ClusterSums


class Key(NamedTuple):
    """What one verdict is about: a KPI, whom it is compared with, and which slice of the samples."""

    kpi: str
    against: str
    slice: str


@dataclass(frozen=True, slots=True)
class Past:
    """The earlier decisions of a test, in their order."""

    decisions: tuple[Decision, ...]

    def about(self, key: Key) -> list[KpiVerdict]:
        """Return the earlier gating verdicts on a comparison, in their order."""
        return [
            item
            for decision in self.decisions
            for item in decision.kpis
            if item.gating and Key(item.kpi, item.against, item.slice) == key
        ]

    def keys(self, kpi: str) -> list[Key]:
        """Return the comparisons of a KPI that were judged before, in their order."""
        found = [item for decision in self.decisions for item in decision.kpis if item.gating and item.kpi == kpi]
        return list(dict.fromkeys(Key(item.kpi, item.against, item.slice) for item in found))

    def latched(self, key: Key) -> KpiVerdict | None:
        """Return the verdict that a comparison has reached for good, None while it is open."""
        settled = (item for item in self.about(key) if item.verdict in ("PASS", "FAIL"))
        first = next(settled, None)
        return None if first is None else replace(first, latched=True)

    def control_failed(self, key: Key) -> bool:
        """Return whether the control was shown to fail this comparison at an earlier look."""
        return any(item.control_verdict == "FAIL" for item in self.about(key))

    def held(self, key: Key) -> int:
        """Return how many samples the last look at a comparison held; 0 if there was none."""
        return max((item.n for item in self.about(key) if item.fraction > 0.0), default=0)

    def fractions(self, key: Key, now: float) -> tuple[float, ...]:
        """Return the information fractions of all looks at a comparison, this one last; they increase."""
        earlier = {item.fraction for item in self.about(key) if 0.0 < item.fraction < now}
        return (*sorted(earlier), now)

    def look(self, verdicts: Sequence[KpiVerdict]) -> int:
        """Return the number of the present look: a new one if any comparison holds more than it did before."""
        if not self.decisions:
            return 1
        fresh = [item for item in verdicts if item.gating and not item.latched]
        held = [(item.n, self.held(Key(item.kpi, item.against, item.slice))) for item in fresh]
        return self.decisions[-1].look + any(now > before > 0 for now, before in held)


def share(sums: ClusterSums, planned: int) -> float:
    """Return which share of the plan was measured: 1 when no sample is left, else of its clusters where it says them.

    Args:
        sums: what was measured.
        planned: samples of the whole plan.
    """
    if sums.samples >= planned:
        return 1.0
    if sums.clusters < sums.clusters_planned:
        return sums.clusters / sums.clusters_planned
    return sums.samples / planned


@lru_cache(maxsize=4096)
def nominal(mode: str, alpha: float, fractions: tuple[float, ...]) -> float:
    """Return the one-sided level at the last of the looks at increasing fractions (see `evals.stats.sequential`)."""
    return sequential.level(mode, alpha, fractions if mode in ("group_sequential", "whole_suite") else fractions[-1:])


@dataclass(frozen=True, slots=True)
class Failing:
    """One comparison that may still fail: its p-value of "the rule is kept" and the looks it has had."""

    p: float
    fractions: tuple[float, ...]


def step_down(mode: str, alpha: float, tests: Sequence[Failing], family: int, failed: int) -> list[tuple[bool, float]]:
    """Return for each comparison whether it fails, and the level that its p-value was last compared with.

    Holm's step-down procedure with group-sequential levels (Maurer & Bretz 2013): whoever fails hands its share of
    alpha to the others, so the family-wise error of all looks and comparisons is at most alpha.

    Args:
        mode: the mode of looks.
        alpha: one-sided level of the family.
        tests: the comparisons that are judged now.
        family: how many gating comparisons the suite has, those that are not judged now included.
        failed: how many of them failed at an earlier look.
    """
    outcome = [(False, 0.0)] * len(tests)
    waiting, left = set(range(len(tests))), family - failed
    while waiting:
        levels = {index: nominal(mode, alpha / left, tests[index].fractions) for index in waiting}
        outcome = [(fails, levels.get(index, level)) for index, (fails, level) in enumerate(outcome)]
        fallen = {index for index in waiting if tests[index].p <= levels[index]}
        if not fallen:
            break
        outcome = [(fails or index in fallen, level) for index, (fails, level) in enumerate(outcome)]
        waiting, left = waiting - fallen, left - len(fallen)
    return outcome
