"""From rows to evidence: checks everything that would make a verdict meaningless, then pairs and sums per cluster.

Nothing is dropped or repaired. Each problem becomes a sentence; one sentence is enough for INVALID.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.results import KpiResults, Results
from evals.stats.bounds import ClusterSums
from evals.suite import Kpi, Noninferior, Superior

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One KPI of one candidate, a row per sample sorted by id, epochs averaged."""

    ids: Array
    values: Array
    weights: Array
    clusters: Array
    clips: Array
    """How many values of each sample were clipped to the declared range."""

    @property
    def clipped(self) -> int:
        """How many values were clipped."""
        return int(self.clips.sum())

    def take(self, chosen: Array) -> Column:
        """Return the chosen samples alone."""
        return Column(
            self.ids[chosen], self.values[chosen], self.weights[chosen], self.clusters[chosen], self.clips[chosen]
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of all samples before any is measured.

    `population` is the number of samples of the full suite where that suite is the question, else None; `clusters` and
    `largest` are the clusters of the whole plan and the samples in the largest (0: those present); `mode` is how looks
    are taken.
    """

    population: int | None = None
    clusters: int = 0
    largest: int = 0
    mode: str = "fixed"


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a rule judges: sums per cluster, and the aligned samples for the list of worst items."""

    sums: ClusterSums
    candidate: Column
    baseline: Column | None


def gather(
    kpi: Kpi, candidate: Results, baseline: Results | None, population: int | None, mode: str = "fixed"
) -> tuple[Evidence | None, list[str]]:
    """Return the evidence on one KPI, or None and the reasons why there is none.

    Args:
        kpi: what was measured.
        candidate: results of the candidate (or of a control).
        baseline: results to pair with, None for a rule on the candidate alone.
        population: number of samples of the full suite where that is the question, else None.
        mode: how looks are taken.
    """
    column, problems = _column(kpi, candidate, "candidate")
    other, more = (None, []) if baseline is None else _column(kpi, baseline, "baseline")
    if column is None or problems + more:
        return None, problems + more
    rows = candidate.kpis[kpi.id]
    mismatch = [] if baseline is None or other is None else _mismatch(kpi, column, other, rows, baseline.kpis[kpi.id])
    if mismatch:
        return None, mismatch
    plan = Plan(population, rows.clusters_planned, rows.largest, mode)
    return Evidence(_sums(kpi, column, other, plan), column, other), []


def part(kpi: Kpi, evidence: Evidence, chosen: Array, plan: Plan) -> Evidence:
    """Return the evidence of the chosen samples alone.

    Args:
        kpi: what was measured, with the rule that judges the part.
        evidence: all samples.
        chosen: one boolean per sample, in the order of the evidence.
        plan: what is known of all samples of the part.
    """
    column = evidence.candidate.take(chosen)
    other = None if evidence.baseline is None else evidence.baseline.take(chosen)
    return Evidence(_sums(kpi, column, other, plan), column, other)


def _column(kpi: Kpi, results: Results, who: str) -> tuple[Column | None, list[str]]:
    rows = results.kpis.get(kpi.id)
    if rows is None or len(rows.sample_ids) == 0:
        return None, [f"the {who} has no results"]
    problems = _broken_rows(rows, who) or _incomplete(kpi, rows, who)
    if problems:
        return None, problems
    problems = _inconsistent(rows, who)
    if problems:
        return None, problems
    rows = _sorted(rows)
    ids, first, inverse, counts = np.unique(rows.sample_ids, return_index=True, return_inverse=True, return_counts=True)
    values, weights, clipped, problems = _in_range(kpi, rows, who)
    if problems:
        return None, problems
    mean = np.bincount(inverse, weights=values) / counts
    weight = np.bincount(inverse, weights=weights) / counts
    clips = np.bincount(inverse, weights=clipped)
    return Column(ids, mean, weight, rows.clusters[first].astype(str), clips), []


def _inconsistent(rows: KpiResults, who: str) -> list[str]:
    """Return a sentence if epochs of one sample name different clusters or slices."""
    _, first, inverse = np.unique(rows.sample_ids.astype(str), return_index=True, return_inverse=True)
    labels = [("clusters", rows.clusters), *((f"values of `{name}`", column) for name, column in rows.slices.items())]
    for what, column in labels:
        if len(column) != len(inverse):
            return [f"the {who} has {len(column)} {what} for {len(inverse)} rows"]
        if bool((column != column[first][inverse]).any()):
            return [f"the {who} has a sample whose epochs name different {what}"]
    return []


def _sorted(rows: KpiResults) -> KpiResults:
    """Return the rows ordered by sample and epoch, so that the order of rows changes not even the last digit."""
    ids: Array = rows.sample_ids.astype(str)
    order = np.lexsort((rows.epochs, ids))
    return KpiResults(
        sample_ids=ids[order],
        values=rows.values[order],
        weights=rows.weights[order],
        clusters=rows.clusters[order],
        errors=rows.errors[order],
        epochs=rows.epochs[order],
        instrument=rows.instrument,
        planned=rows.planned,
    )


def _broken_rows(rows: KpiResults, who: str) -> list[str]:
    problems = []
    bad = rows.errors != ""
    if bad.any():
        first = int(np.argmax(bad))
        problems.append(
            f"the {who} has {int(bad.sum())} error sample(s), first `{rows.sample_ids[first]}`: {rows.errors[first]}"
        )
    odd = ~(np.isfinite(rows.values) & np.isfinite(rows.weights) & (rows.weights > 0)) & ~bad
    if odd.any():
        first = int(np.argmax(odd))
        problems.append(
            f"the {who} has {int(odd.sum())} sample(s) without a finite value and a positive weight, "
            f"first `{rows.sample_ids[first]}`"
        )
    return problems


def _incomplete(kpi: Kpi, rows: KpiResults, who: str) -> list[str]:
    ids: Array = rows.sample_ids.astype(str)
    names, counts = np.unique(ids, return_counts=True)
    pairs = len(set(zip(ids.tolist(), rows.epochs.tolist(), strict=True)))
    if pairs < len(ids):
        return [f"the {who} has {len(ids) - pairs} duplicate sample(s): same id, same epoch"]
    if bool((counts != kpi.epochs).any()):
        worst = int(np.argmax(counts != kpi.epochs))
        return [f"the {who} ran `{names[worst]}` {counts[worst]} time(s), {kpi.epochs} epoch(s) were planned"]
    planned = max(kpi.samples, rows.planned)
    if rows.due > 0:
        planned = rows.due
        if rows.planned not in (0, kpi.samples):
            return [f"the {who} was planned with {rows.planned} samples, the suite plans {kpi.samples}"]
        if len(names) != planned:
            return [f"the {who} has {len(names)} samples, this look is due {planned}"]
    if len(names) < planned:
        return [f"the {who} has {len(names)} of {planned} planned samples"]
    if len(names) > kpi.samples:
        return [f"the {who} has {len(names)} samples, {kpi.samples} were planned"]
    return []


def _in_range(kpi: Kpi, rows: KpiResults, who: str) -> tuple[Array, Array, Array, list[str]]:
    """Return values inside the range: clipped to a declared one, refused outside the task's own."""
    if kpi.bounds is None:
        return rows.values, rows.weights, np.zeros(len(rows.values)), []
    low, high = kpi.bounds
    inside = np.clip(rows.values, low * rows.weights, high * rows.weights)
    outside = inside != rows.values
    if outside.any() and kpi.range is None:
        first = int(np.argmax(outside))
        value = rows.values[first] / rows.weights[first]
        return (
            inside,
            rows.weights,
            outside,
            [f"the {who} has a value outside [{low:g}, {high:g}]: {value:g} for `{rows.sample_ids[first]}`"],
        )
    return inside, rows.weights, outside, []


def _mismatch(kpi: Kpi, one: Column, two: Column, rows: KpiResults, other: KpiResults) -> list[str]:
    if rows.instrument != other.instrument or not rows.instrument:
        return [
            f"candidate and baseline were measured with different instruments "
            f"({rows.instrument[:19] or 'none'}, {other.instrument[:19] or 'none'}): evaluate the baseline again"
        ]
    if len(one.ids) != len(two.ids) or bool((one.ids != two.ids).any()):
        alone = sorted(set(one.ids.tolist()) ^ set(two.ids.tolist()))
        return [f"{len(alone)} sample(s) lack their pair, first `{alone[0]}`"]
    if bool((one.clusters != two.clusters).any()):
        return ["candidate and baseline put the same sample into different clusters"]
    if not np.allclose(one.weights, two.weights, rtol=1e-9, atol=0.0):
        return ["candidate and baseline give the same sample different weights"]
    if _scale(kpi) == "ratio" and float(two.values.sum()) <= 0.0:
        return ["a ratio margin needs a positive baseline"]
    return []


def _scale(kpi: Kpi) -> str:
    return kpi.rule.scale if isinstance(kpi.rule, Noninferior | Superior) else "absolute"


def _sums(kpi: Kpi, column: Column, baseline: Column | None, plan: Plan) -> ClusterSums:
    labels = np.where(column.clusters == "", np.char.add("\x00.", column.ids.astype(str)), column.clusters)
    _, first, code, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    code = np.argsort(np.argsort(first))[code]  # numbered by first sample, so that a label's spelling changes nothing
    alone = bool((sizes == 1).all()) and bool((column.weights == 1.0).all()) and kpi.bounds == (0.0, 1.0)
    columns = [column] if baseline is None else [column, baseline]
    return ClusterSums(
        candidate=np.bincount(code, weights=column.values),
        baseline=None if baseline is None else np.bincount(code, weights=baseline.values),
        weights=np.bincount(code, weights=column.weights),
        samples=len(column.ids),
        sign=kpi.sign,
        scale="ratio" if _scale(kpi) == "ratio" and baseline is not None else "absolute",
        bounds=kpi.bounds,
        binary=alone and all(bool(np.isin(each.values, (0.0, 1.0)).all()) for each in columns),
        population=plan.population,
        clusters_planned=plan.clusters,
        largest=plan.largest * float(column.weights.max()),
        mode=plan.mode,
    )
