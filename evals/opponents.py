"""What a suite asks: every KPI against every opponent it has, on all samples and on every slice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from evals import slicing
from evals.kpi import Kpi
from evals.looks import Key, Past
from evals.results import KpiResults, Results
from evals.slicing import Slice
from evals.suite import SuiteSpec


@dataclass(frozen=True, slots=True)
class Comparison:
    """One question: a KPI, whom it is judged against (`opponent`, None for nobody), and on which part of the samples.

    `kpi` carries the rule that judges this part. `part` is None for all samples.
    """

    kpi: Kpi
    against: str
    opponent: Results | None
    part: Slice | None = None

    @property
    def gating(self) -> bool:
        """Whether it can stop a promotion."""
        return self.kpi.gating

    @property
    def key(self) -> Key:
        """What earlier looks at the same question are found by."""
        return Key(self.kpi.id, self.against if self.gating else "", self.part.name if self.part else "")

    @property
    def opposed(self) -> KpiResults | None:
        """The opponent's rows of this KPI."""
        return self.opponent.kpis.get(self.kpi.id) if self.opponent else None


@dataclass(frozen=True, slots=True)
class Opponents:
    """Whom the candidate is compared with: the rolling baseline, and the last audited one."""

    baseline: Results | None
    anchor: Results | None
    anchor_named: bool
    """Whether the suite asks for an anchor, given or not."""


def listed(spec: SuiteSpec, candidate: Results, opponents: Opponents, past: Past) -> list[Comparison]:
    """Return every comparison of a suite, in its order: each KPI, then its slices by field and value."""
    found = []
    for kpi in spec.kpis:
        found += list(_against(kpi, opponents, None))
        sliced = slicing.judging(kpi)
        for part in _parts(kpi, candidate.kpis.get(kpi.id), past):
            found += list(_against(sliced, opponents, part))
    return found


def _against(kpi: Kpi, opponents: Opponents, part: Slice | None) -> Iterator[Comparison]:
    if not kpi.gating:
        yield Comparison(kpi, "baseline" if opponents.baseline else "", opponents.baseline, part)
        return
    if not kpi.needs_baseline:
        yield Comparison(kpi, "", None, part)
        return
    yield Comparison(kpi, "baseline", opponents.baseline, part)
    if opponents.anchor is not None or (opponents.anchor_named and opponents.baseline is not None):
        yield Comparison(kpi, "anchor", opponents.anchor, part)


def _parts(kpi: Kpi, rows: KpiResults | None, past: Past) -> Iterator[Slice]:
    """Yield the slices of a KPI; a field whose values are not all known yet, or not given, has one without a value."""
    judged = [key.slice.partition("=") for key in past.keys(kpi.id)]
    for field in kpi.slices:
        parts = slicing.known(rows, field, [value for name, _, value in judged if name == field])
        unknown = rows is not None and not rows.slice_sizes.get(field) and slicing.held(rows) < kpi.samples
        if not parts or (unknown and kpi.slice_rule is not None):
            yield Slice(field, "")
        else:
            yield from parts
