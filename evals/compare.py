"""Two sets of results side by side, sample by sample: means, difference, interval, worst regressions.

It describes and never gates: no control is asked for and nothing is corrected for several looks or KPIs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evals.decision import KpiVerdict, WorstItem, measured
from evals.evidence import gather
from evals.results import Results
from evals.rules import assess, more_samples
from evals.suite import Advisory, Kpi, SuiteSpec
from registry.records import plain


@dataclass(frozen=True, slots=True)
class KpiComparison:
    """One row of the table: `figures` as the gate would show them (gain: larger is better), or why there are none.

    `more_samples` is how many more samples like these would probably settle the KPI's own question, None where it is
    settled or cannot be foreseen. `regressions` and `improvements` count samples.
    """

    kpi: str
    figures: KpiVerdict | None
    regressions: int = 0
    improvements: int = 0
    more_samples: int | None = None
    problems: tuple[str, ...] = ()

    @property
    def worst(self) -> tuple[WorstItem, ...]:
        """The ten worst regressions."""
        return self.figures.worst if self.figures else ()


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

    def render_lines(self) -> list[str]:
        """Return the table as plain text lines."""
        lines = [f"{self.first} compared with {self.second}, suite {self.suite}, one-sided level {self.level:g}"]
        for row in self.rows:
            lines += ["", f"  {row.kpi}"]
            lines += [f"    {problem}" for problem in row.problems]
            if row.figures is None:
                continue
            lines.append(f"    {measured(row.figures)}")
            lines.append(f"    {row.regressions} samples worse, {row.improvements} better")
            lines += [
                f"      {item.sample_id}  {item.candidate:.4g} instead of {item.baseline:.4g}  ({item.difference:+.4g})"
                for item in row.worst
            ]
            if row.more_samples is not None:
                lines.append(f"    you need about {row.more_samples} more samples to settle it")
        return lines


def compare(spec: SuiteSpec, first: Results, second: Results) -> Comparison:
    """Return the paired table of two sets of results; evidence that the gate would call INVALID is named, not used."""
    rows = tuple(_row(spec, kpi, first, second) for kpi in spec.kpis)
    return Comparison(spec.suite, first.candidate, second.candidate, spec.gate.level, rows)


def _row(spec: SuiteSpec, kpi: Kpi, first: Results, second: Results) -> KpiComparison:
    population = kpi.samples if spec.gate.mode == "whole_suite" else None
    evidence, problems = gather(kpi, first, second, population)
    if evidence is None or evidence.baseline is None:
        return KpiComparison(kpi.id, None, problems=tuple(problems))
    level = spec.gate.level
    described = kpi if kpi.needs_baseline else kpi.model_copy(update={"rule": Advisory(type="advisory")})
    found = assess(described, evidence, level, "baseline")  # a floor or limit asks nothing of a difference
    change = kpi.sign * (evidence.candidate.values - evidence.baseline.values)
    needed = None
    if kpi.needs_baseline and min(found.p_pass, found.p_fail) > level:
        needed = more_samples(kpi, evidence, found.figures.bound, level, spec.gate.power)
    return KpiComparison(
        kpi=kpi.id,
        figures=found.figures,
        regressions=int((change < 0).sum()),
        improvements=int((change > 0).sum()),
        more_samples=needed,
    )
