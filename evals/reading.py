"""Read measured rows back: exactly those of a look, in the suite's seeded order, whichever runs hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evals.results import Array, Judgement, KpiResults, Results
from evals.samples import read_table, schema
from registry.errors import NotYet
from registry.records import Asset, EvalRun

if TYPE_CHECKING:
    from evals.instrument import Instrument
    from registry.workspace import Workspace

IMPORT = "import"


@dataclass(frozen=True, slots=True)
class Due:
    """The rows of one KPI that are due: an Arrow table in seeded order, the runs they come from, and what is missing.

    `missing` counts samples that no run holds whole.
    """

    table: Any
    runs: tuple[Asset, ...]
    missing: int


class Shelf:
    """The stored rows of EvalRuns; each blob is read once."""

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        self._tables: dict[str, Any] = {}

    def rows(self, run: Asset, instrument: Instrument) -> Any:
        """Return the rows that a run holds of an instrument, under the KPI's present name."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if run.id not in self._tables:
            self._tables[run.id] = read_table(self._ws.artifacts.read_bytes(run.body["results"]))
        kpi = instrument.kpi.id
        names = [name for name, digest in run.body["instruments"].items() if digest == instrument.digest]
        name = kpi if kpi in names else next(iter(names), "")
        found = self._tables[run.id]
        found = found.filter(pc.equal(found["kpi"], name))
        return found if name == kpi else found.set_column(1, "kpi", pa.repeat(kpi, found.num_rows))

    def samples(self, runs: Sequence[Asset], instrument: Instrument) -> set[str]:
        """Return the samples of an instrument that runs hold sound: without an error in any epoch."""
        import pyarrow.compute as pc

        found: set[str] = set()
        for run in runs:
            table = self.rows(run, instrument)
            failed = table.filter(pc.not_equal(table["error"], ""))["sample_id"].unique().to_pylist()
            found |= set(table["sample_id"].unique().to_pylist()) - set(failed)
        return found

    def due(self, runs: Sequence[Asset], instrument: Instrument, count: int) -> Due:
        """Return the rows of the first `count` samples of an instrument; of a row that two runs hold, the older one.

        A row with an error counts only where no run holds a sound one.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        tables = [self.rows(run, instrument) for run in runs]
        table = pa.concat_tables([schema().empty_table(), *tables]).combine_chunks()
        sizes = np.array([part.num_rows for part in tables], dtype=np.int64)
        origin: Array = np.repeat(np.arange(len(runs)), sizes)
        epochs = instrument.kpi.epochs
        place = _places(table["sample_id"], instrument, count)
        keys = place * epochs + table["epoch"].to_numpy()
        failed = pc.not_equal(table["error"], "").to_numpy(zero_copy_only=False)
        here = np.flatnonzero(place >= 0)
        here = here[np.argsort(failed[here], kind="stable")]
        kept_keys, first = np.unique(keys[here], return_index=True)
        kept = here[first]
        whole = int((np.bincount(kept_keys // epochs, minlength=1) == epochs).sum()) if len(kept) else 0
        cited = tuple(runs[number] for number in np.unique(origin[kept]))
        return Due(table.take(pa.array(kept)), cited, count - whole)


def read(
    ws: Workspace, suite: Asset, instruments: Sequence[Instrument], candidate_id: str,
    due: Mapping[str, int] | None = None, control: str = "",
) -> tuple[Results, list[Asset]]:  # fmt: skip
    """Return a candidate's rows of exactly the due samples, as the gate reads them, and the EvalRuns they come from.

    Args:
        ws: the workspace.
        suite: the registered suite.
        instruments: the suite's instruments.
        candidate_id: the candidate's id.
        due: how many samples of each KPI, a prefix of the seeded order; KPIs that it leaves out are left out here.
            None: all samples of all KPIs.
        control: the control that was measured in the candidate's place, else empty.

    Raises:
        NotYet: some of these samples are not measured; names the KPI and how many.
        Tampered: stored rows do not hash to their name.
    """
    runs = runs_of(ws, suite, instruments, candidate_id, control)
    return collect(Shelf(ws), {each.kpi.id: runs for each in instruments}, instruments, control or candidate_id, due)


def collect(
    shelf: Shelf, runs: Mapping[str, Sequence[Asset]], instruments: Sequence[Instrument], name: str,
    due: Mapping[str, int] | None,
) -> tuple[Results, list[Asset]]:  # fmt: skip
    """Return the results of `name` from the runs of each KPI, and the runs that were used. Raises as `read` does."""
    import pyarrow as pa

    found: dict[str, Due] = {}
    wanted = {each.kpi.id: each for each in instruments if due is None or each.kpi.id in due}
    for kpi, each in wanted.items():
        count = each.kpi.samples if due is None else due[kpi]
        usable = [run for run in runs.get(kpi, ()) if each.digest in run.body["instruments"].values()]
        found[kpi] = shelf.due(usable, each, count)
        if found[kpi].missing:
            raise _missing(each, found[kpi].missing, count)
    table = pa.concat_tables([schema().empty_table(), *(part.table for part in found.values())])
    digests = {kpi: each.digest for kpi, each in wanted.items()}
    results = Results.from_table(name, table, digests, {kpi: each.kpi.samples for kpi, each in wanted.items()})
    kpis = {
        kpi: _marked(results.kpis[kpi], each, found[kpi].runs, each.kpi.samples if due is None else due[kpi])
        for kpi, each in wanted.items()
    }
    cited = {run.id: run for part in found.values() for run in part.runs}
    return Results(name, kpis), list(cited.values())


def runs_of(
    ws: Workspace, suite: Asset, instruments: Sequence[Instrument], candidate_id: str, control: str = ""
) -> list[Asset]:
    """Return the EvalRuns of a candidate on a suite, oldest first, with imports of the same instruments elsewhere."""
    digests = {each.digest for each in instruments}
    return [
        run
        for run in eval_runs(ws, candidate_id, control)
        if run.body["suite"] == suite.id
        or (run.body["imported"] and digests & set(run.body["instruments"].values()))
    ]  # fmt: skip


def eval_runs(ws: Workspace, candidate_id: str, control: str, instrument: str = "") -> list[Asset]:
    """Return EvalRuns, oldest first: of a candidate or of a control in its place.

    Empty text stands for any candidate, and for any instrument digest.
    """
    rows = ws.store.query(
        "SELECT id FROM asset WHERE kind = ? AND body->>'$.control' = ? AND (? = '' OR body->>'$.candidate' = ?)"
        " AND contains(body->>'$.instruments', ?) ORDER BY seq",
        [EvalRun.KIND, control, candidate_id, candidate_id, instrument],
    )
    return [ws.resolve(row["id"], EvalRun.KIND) for row in rows]


def _places(sample_ids: Any, instrument: Instrument, count: int) -> Array:
    """Return each row's place in the seeded order, -1 where its sample is not due.

    Imported samples have no plan: they are taken in the order of their ids.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if instrument.samples:
        planned = pa.array([sample.id for sample in instrument.samples[:count]], pa.string())
    else:
        planned = pc.unique(sample_ids).sort()[:count]
    places = pc.fill_null(pc.index_in(sample_ids, value_set=planned), -1)
    found: Array = places.to_numpy().astype(np.int64)
    return found


def _marked(kpi: KpiResults, instrument: Instrument, runs: Sequence[Asset], due: int) -> KpiResults:
    """Return the results with what is known of their plan, source, target and judge."""
    targets = [run.body["target"].get(instrument.kpi.id, instrument.kpi.endpoint) for run in runs]
    target = targets[-1] if targets else instrument.kpi.endpoint
    source: Literal["measured", "imported", "unverified"] = "measured"
    if any(run.body["imported"] for run in runs):
        source = "imported"
    elif "url" in targets:
        source = "unverified"
    judges = [judge for run in runs if (judge := (run.body.get("judges") or {}).get(instrument.kpi.id))]
    return replace(
        kpi, due=due, clusters_planned=instrument.clusters, largest=instrument.largest, source=source, target=target,
        judge=Judgement(**judges[-1]) if judges else None, slice_sizes=_slice_sizes(instrument),
    )  # fmt: skip


def _slice_sizes(instrument: Instrument) -> dict[str, dict[str, int]]:
    """Return how many samples of the whole plan have each value of each slice field."""
    counts: dict[str, dict[str, int]] = {}
    for sample in instrument.samples:
        for field, value in sample.slices:
            values = counts.setdefault(field, {})
            values[value] = values.get(value, 0) + 1
    return counts


def _missing(instrument: Instrument, missing: int, count: int) -> NotYet:
    kpi = instrument.kpi
    if kpi.harness == IMPORT:
        what, cure = "imported", "give the other harness's rows to `hallmark eval import`"
    else:
        what, cure = "measured", "`hallmark gate run` measures what is missing; `hallmark eval run` measures all"
    return NotYet(f"`{kpi.id}`: {missing} of {count} samples are not {what} yet", hint=cure)
