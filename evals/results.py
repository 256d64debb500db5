"""Results as the gate reads them: one row per sample, KPI and epoch, with what instrument and plan they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from registry.errors import SpecError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class KpiResults:
    """The rows of one KPI, as arrays of equal length; nothing is dropped before the gate has seen it.

    `values` are numerators and `weights` their weights (1 except for bytes or words); `errors` is empty text where a
    sample went well; `instrument` is the digest of samples, prompt, scorer and aggregation; `planned` is how many
    samples should be there.
    """

    sample_ids: Array
    values: Array
    weights: Array
    clusters: Array
    errors: Array
    epochs: Array
    instrument: str
    planned: int

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
