"""Two sets of results side by side, sample by sample: means, difference, interval, slices, cost, what moved most.

It describes and never gates: no control is asked for and nothing is corrected for several looks or KPIs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from evals import slicing
from evals.comparison import Comparison, Item, KpiComparison, Side
from evals.decision import KpiVerdict
from evals.evidence import Evidence, Plan, gather, part
from evals.results import Results, coded
from evals.rules import assess, more_samples
from evals.samples import preview
from evals.suite import Advisory, Kpi, SuiteSpec

Array = np.ndarray[Any, np.dtype[Any]]

ITEMS = 10
"""How many of the samples that moved most are kept, each way."""
_ADVISORY = Advisory(type="advisory")


def compare(spec: SuiteSpec, first: Results, second: Results, rows: tuple[Any, Any] | None = None) -> Comparison:
    """Return the paired table of two sets of results; evidence that the gate would call INVALID is named, not used.

    Args:
        spec: the suite.
        first: results of the candidate of interest.
        second: results of what it is compared with.
        rows: the Arrow tables with the two sides' rows (`evals.samples.read_runs`), for answers, latency and tokens.
    """
    found = tuple(_row(spec, kpi, first, second, rows) for kpi in spec.kpis)
    return Comparison(spec.suite, first.candidate, second.candidate, spec.gate.level, found)


def _row(spec: SuiteSpec, kpi: Kpi, first: Results, second: Results, rows: tuple[Any, Any] | None) -> KpiComparison:
    both = zip(rows or (None, None), (first, second), strict=True)
    tables = [None if table is None else _chosen(table, kpi.id, results) for table, results in both]
    one, two = _side(first, tables[0], kpi.id), _side(second, tables[1], kpi.id)
    population = kpi.samples if spec.gate.mode == "whole_suite" else None
    evidence, problems = gather(kpi, first, second, population)
    if evidence is None or evidence.baseline is None:
        return KpiComparison(kpi.id, None, one, two, problems=tuple(problems))
    level = spec.gate.level
    described = kpi if kpi.needs_baseline else kpi.model_copy(update={"rule": _ADVISORY})
    found = assess(described, evidence, level, "baseline")  # a floor or limit asks nothing of a difference
    # In the metric's own unit: bits per byte, not the bits of a sample.
    change = kpi.sign * (evidence.candidate.values - evidence.baseline.values) / evidence.candidate.weights
    needed = None
    if kpi.needs_baseline and min(found.p_pass, found.p_fail) > level:
        needed = more_samples(kpi, evidence, found.figures.bound, level, spec.gate.power)
    return KpiComparison(
        kpi.id,
        found.figures,
        one,
        two,
        regressions=int((change < 0).sum()),
        improvements=int((change > 0).sum()),
        more_samples=needed,
        slices=_slices(described, evidence, first, level),
        worst=_items(evidence, change, tables),
        best=_items(evidence, change, tables, -1),
    )


def _slices(kpi: Kpi, evidence: Evidence, results: Results, level: float) -> tuple[KpiVerdict, ...]:
    """Return the figures of every slice that has at least one sample, in the order of fields and values."""
    rows = results.kpis[kpi.id]
    described = kpi.model_copy(update={"rule": _ADVISORY, "range": kpi.range or kpi.bounds})
    found = []
    for field in kpi.slices:
        if slicing.missing(rows, field):
            continue
        for each in slicing.known(rows, field):
            inside = slicing.members(rows, each)
            if inside.any():
                figures = assess(described, part(described, evidence, inside, Plan()), level, "baseline").figures
                found.append(replace(figures, slice=each.name))
    return tuple(found)


def _chosen(table: Any, kpi: str, results: Results) -> Any:
    """Return the rows of the samples that are compared, each sample and epoch once: several runs may hold the same."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = results.kpis.get(kpi)
    ids = pa.array([] if known is None else np.unique(known.sample_ids.astype(str)), pa.string())
    rows = table.filter(pc.and_(pc.equal(table["kpi"], kpi), pc.is_in(table["sample_id"], ids)))
    _, samples = coded(rows["sample_id"])
    epochs = rows["epoch"].to_numpy().astype(np.int64)
    _, first = np.unique(samples.astype(np.int64) << 32 | epochs, return_index=True)
    return rows.take(np.sort(first))


def _side(results: Results, table: Any, kpi: str) -> Side:
    rows = results.kpis.get(kpi)
    samples = len(set(rows.sample_ids.tolist())) if rows else 0
    errors = len(set(rows.sample_ids[rows.errors != ""].tolist())) if rows else 0
    if table is None:
        return Side(samples, errors)
    latency, asked, said = (_median(table[name]) for name in ("latency_ms", "prompt_tokens", "completion_tokens"))
    return Side(samples, errors, latency, asked, said)


def _median(column: Any) -> float | None:
    values = column.to_numpy()
    known = values[values > 0]
    return float(np.median(known)) if len(known) else None


def _items(evidence: Evidence, change: Array, tables: list[Any], turn: int = 1) -> tuple[Item, ...]:
    """Return the samples that lost most, or with `turn` -1 gained most, each with question and answers."""
    if evidence.baseline is None:
        return ()
    order = np.lexsort((evidence.candidate.ids, turn * change))
    chosen = [index for index in order[:ITEMS].tolist() if turn * change[index] < 0]
    ids = [str(evidence.candidate.ids[index]) for index in chosen]
    texts = [{} if table is None else _texts(table, ids) for table in tables]
    found = []
    for index, name in zip(chosen, ids, strict=True):
        one, two = (each.get(name, {}) for each in texts)
        shown = {**two, **one}
        found.append(
            Item(
                name,
                first=float(evidence.candidate.values[index] / evidence.candidate.weights[index]),
                second=float(evidence.baseline.values[index] / evidence.baseline.weights[index]),
                difference=float(change[index]),
                asked=shown.get("asked", ""),
                wanted=shown.get("wanted", ""),
                first_answer=one.get("said", ""),
                second_answer=two.get("said", ""),
            )
        )
    return tuple(found)


def _texts(table: Any, ids: list[str]) -> dict[str, Mapping[str, str]]:
    """Return what was asked, wanted and said, by sample id, of the first epoch."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = table.filter(pc.is_in(table["sample_id"], pa.array(ids, pa.string()))).sort_by("epoch")
    found: dict[str, Mapping[str, str]] = {}
    for row in rows.select(["sample_id", "detail", "output"]).to_pylist():
        shown = json.loads(row["detail"] or "{}")
        texts = {"asked": shown.get("input"), "wanted": shown.get("target"), "said": row["output"] or shown.get("said")}
        found.setdefault(row["sample_id"], {name: preview(str(text)) for name, text in texts.items() if text})
    return found
