"""Results as the gate reads them: one row per sample, KPI and epoch, with what instrument and plan they belong to."""

from __future__ import annotations

import json
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
    field, `slice_sizes` how many samples of the whole plan have each value of a field (empty: not known);
    `contaminated` counts samples that the candidate was trained on; `judge` is how the judge stands.
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
    slice_sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
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
        import pyarrow as pa

        found = list(rows)
        text = {
            name: pa.array([str(row.get(name) or "") for row in found], pa.string())
            for name in ("sample_id", "kpi", "cluster", "error", "slices")
        }
        table = pa.table(
            {
                **text,
                "epoch": pa.array([int(row.get("epoch") or 0) for row in found], pa.int32()),
                "value": pa.array([row["value"] for row in found], pa.float64()),
                "weight": pa.array([row.get("weight", 1.0) for row in found], pa.float64()),
            }
        )
        return cls.from_table(candidate, table, instruments, planned)

    @classmethod
    def from_table(
        cls, candidate: str, table: Any, instruments: Mapping[str, str], planned: Mapping[str, int]
    ) -> Results:
        """Return the results in an Arrow table of rows (`evals.samples.read_table`), their order kept.

        Args:
            candidate: the candidate's id.
            table: columns sample_id, kpi, epoch, value, weight, cluster, error and slices; a null number is NaN.
            instruments: instrument digest by KPI id.
            planned: planned number of samples by KPI id. A KPI with a plan and no rows is kept, empty.
        """
        names, codes = coded(table["kpi"])
        order = np.argsort(codes, kind="stable")  # small integers: a radix sort
        edges: Array = np.searchsorted(codes[order], np.arange(len(names) + 1))  # type: ignore[assignment]
        where = {name: order[edges[code] : edges[code + 1]] for code, name in enumerate(names)}
        columns = {name: _numpy(table[name]) for name in ("sample_id", "value", "weight", "cluster", "error", "epoch")}
        slices = _slices(table["slices"])
        nothing: Array = np.empty(0, dtype=np.intp)
        kpis = {}
        for name in dict.fromkeys([*planned, *names]):
            rows = where.get(name, nothing)
            kpis[name] = KpiResults(
                sample_ids=columns["sample_id"][rows],
                values=columns["value"][rows],
                weights=columns["weight"][rows],
                clusters=columns["cluster"][rows],
                errors=columns["error"][rows],
                epochs=columns["epoch"][rows].astype(np.int64),
                instrument=instruments.get(name, ""),
                planned=planned.get(name, 0),
                slices={key: found for key, values in slices.items() if (found := values[rows]).astype(bool).any()},
            )
        return cls(candidate, kpis)


@dataclass(frozen=True, slots=True, eq=False)
class ControlResult:
    """Results of a control (`null_model`, `planted_violator`): something that must fail the KPIs that name it."""

    control: str
    results: Results


def _numpy(column: Any) -> Array:
    """Return an Arrow column as an array: numbers as they are (null is NaN), text as objects (null is empty)."""
    import pyarrow as pa

    if pa.types.is_string(column.type):
        names, codes = coded(column)
        values: Array = np.array(names, dtype=object)[codes]
        return values
    numbers: Array = column.to_numpy()
    return numbers


def coded(column: Any) -> tuple[list[str], Array]:
    """Return the distinct texts of a column, and for every row which of them it holds."""
    import pyarrow as pa

    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], column.type)
    coded = whole.fill_null("").dictionary_encode()
    names: list[str] = coded.dictionary.to_pylist()
    return names, coded.indices.to_numpy()


def _slices(column: Any) -> dict[str, Array]:
    """Return, by slice field, the value of every row; empty text where a row has none."""
    names, codes = coded(column)
    known = [json.loads(name) if name else {} for name in names]
    fields = dict.fromkeys(key for each in known for key in each)
    return {key: np.array([str(each.get(key, "")) for each in known], dtype=object)[codes] for key in fields}
