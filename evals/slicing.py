"""Slices: the parts of a KPI's samples that are reported one by one, and judged one by one under `slice_rule`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.kpi import Advisory, Kpi
from evals.results import KpiResults

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Slice:
    """One value of one slice field; `planned` samples of the whole plan have it (0: not known).

    Without a value it stands for all of the field's slices, where those are not known.
    """

    field: str
    value: str
    planned: int = 0

    @property
    def name(self) -> str:
        """How a decision calls it."""
        return f"{self.field}={self.value}" if self.value else self.field


def judging(kpi: Kpi) -> Kpi:
    """Return the KPI as its slices are judged: under `slice_rule`, or reported only."""
    rule = kpi.slice_rule or Advisory(type="advisory")
    return kpi.model_copy(update={"rule": rule, "range": kpi.range or kpi.bounds})


def known(rows: KpiResults | None, field: str, named: Iterable[str] = ()) -> list[Slice]:
    """Return the slices of a field, by value: those of the plan, those present, and those `named` before."""
    planned = {} if rows is None else rows.slice_sizes.get(field, {})
    present = set() if rows is None else set(rows.slices.get(field, np.array([], dtype=object)).tolist())
    values = sorted((present | set(planned) | set(named)) - {""})
    return [Slice(field, value, planned.get(value, 0)) for value in values]


def held(rows: KpiResults) -> int:
    """Return how many samples there are rows of."""
    return len(set(rows.sample_ids.tolist()))


def missing(rows: KpiResults, field: str) -> str:
    """Return what is wrong with a slice field: a sentence, or empty text where every sample has a value."""
    column = rows.slices.get(field)
    if column is None:
        return f"no sample has the slice field `{field}`"
    without = sorted(set(rows.sample_ids[column == ""].astype(str).tolist()))
    return f"{len(without)} sample(s) have no `{field}`, first `{without[0]}`" if without else ""


def members(rows: KpiResults, part: Slice) -> Array:
    """Return which samples, sorted by id, belong to a slice: one boolean per sample."""
    _, first = np.unique(rows.sample_ids.astype(str), return_index=True)
    chosen: Array = (rows.slices[part.field][first] == part.value).astype(bool)
    return chosen
