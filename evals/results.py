"""Results as the gate reads them: one row per sample, KPI and epoch, with what instrument and plan they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from registry.errors import SpecError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Judgement:
    """How the judge of a KPI stands: who it is, and what is known of its judgement.

    `kappa` is Cohen's with the human labels of `labels` cases, `kappa_lower` its lower 95 % bound and `min_kappa` what
    the suite asks for; `swap_agreement` the share of cases judged alike when the answers change places (None where it
    compares nothing); `verbosity` the rank correlation of score and length of answer.
    """

    digest: str
    kappa: float | None = None
    kappa_lower: float | None = None
    min_kappa: float = 0.0
    labels: int = 0
    swap_agreement: float | None = None
    verbosity: float | None = None

    @property
    def calibrated(self) -> bool:
        """Whether its agreement with people is shown to reach what the suite asks for."""
        return self.kappa_lower is not None and self.kappa_lower >= self.min_kappa


@dataclass(frozen=True, slots=True, eq=False)
class KpiResults:
    """The rows of one KPI, as arrays of equal length; nothing is dropped before the gate has seen it.

    `values` are numerators and `weights` their weights (1 except for bytes or words); `errors` is empty text where a
    sample went well; `instrument` is the digest of samples, prompt, scorer and aggregation; `planned` is how many
    samples the whole plan holds and `due` how many of them this look should hold (0: all of them). `clusters_planned`
    and `largest` are how many clusters the whole plan has and the weight of the largest in samples (0: those present).
    `source` says whether we measured it; `target` what was measured; `slices` holds one column of values per slice
    field; `contaminated` counts samples that the candidate was trained on; `judge` is how the judge stands.
    """

    sample_ids: Array
    values: Array
    weights: Array
    clusters: Array
    errors: Array
    epochs: Array
    instrument: str
    planned: int
    due: int = 0
    clusters_planned: int = 0
    largest: int = 0
    source: Literal["measured", "imported", "unverified"] = "measured"
    target: str = ""
    slices: Mapping[str, Array] = field(default_factory=dict)
    contaminated: int = 0
    judge: Judgement | None = None

    def __post_init__(self) -> None:
        """Refuse columns of unequal length."""
        columns = (self.sample_ids, self.values, self.weights, self.clusters, self.errors, self.epochs)
        if len({len(column) for column in columns}) > 1:
            raise SpecError("result columns differ in length", hint="every row needs all six columns")


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """All rows of one candidate on one suite, by KPI id."""

    candidate: str
    kpis: Mapping[str, KpiResults]

    @classmethod
    def from_rows(
        cls,
        candidate: str,
        rows: Iterable[Mapping[str, Any]],
        instruments: Mapping[str, str],
        planned: Mapping[str, int],
    ) -> Results:
        """Return the results in stored sample rows (table `sample_result`, or the Parquet blob's rows).

        Args:
            candidate: the candidate's id.
            rows: mappings with sample_id, kpi, epoch, value, weight, cluster, error; a missing value (None) is NaN.
            instruments: instrument digest by KPI id.
            planned: planned number of samples by KPI id. A KPI with a plan and no rows is kept, empty.
        """
        groups: dict[str, list[Mapping[str, Any]]] = {name: [] for name in planned}
        for row in rows:
            groups.setdefault(str(row["kpi"]), []).append(row)
        kpis = {
            name: KpiResults(
                sample_ids=np.array([str(row["sample_id"]) for row in group], dtype=object),
                values=np.array([_number(row["value"]) for row in group], dtype=np.float64),
                weights=np.array([_number(row.get("weight", 1.0)) for row in group], dtype=np.float64),
                clusters=np.array([str(row.get("cluster") or "") for row in group], dtype=object),
                errors=np.array([str(row.get("error") or "") for row in group], dtype=object),
                epochs=np.array([int(row.get("epoch") or 0) for row in group], dtype=np.int64),
                instrument=instruments.get(name, ""),
                planned=planned.get(name, 0),
            )
            for name, group in groups.items()
        }
        return cls(candidate, kpis)


@dataclass(frozen=True, slots=True, eq=False)
class ControlResult:
    """Results of a control (`null_model`, `planted_violator`): something that must fail the KPIs that name it."""

    control: str
    results: Results


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
