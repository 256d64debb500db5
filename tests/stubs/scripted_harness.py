"""A harness of a third party, in miniature: a model's folder says which texts it gets right (`right.json`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evals.harness.protocol import Bench, Planned, Task
from evals.loaders import load_documents
from evals.samples import Row, Sample, make_sample
from evals.targets import WeightsTarget

ASKED: list[tuple[str, int]] = []
"""(KPI, how many samples) of each measurement, so that a test can see what was asked."""

BROKEN: set[str] = set()
"""Texts whose answer gets lost: their rows are errors."""


class Scripted:
    """Plans the rows of `data` and scores 1 where the model's folder lists the text as right, 0 elsewhere."""

    def plan(self, ws: Any, kpi: Any, suite: Path) -> Planned:
        documents, dataset, sealed = load_documents(ws, kpi, suite)
        samples = tuple(
            make_sample(each.text, cluster=str(each.fields.get(kpi.cluster, "")) if kpi.cluster else "")
            for each in documents[: kpi.samples]
        )
        lines = "".join(json.dumps(sample.plain()) + "\n" for sample in samples)
        return Planned(samples, {f"samples/{kpi.id}.jsonl": lines.encode()}, dataset, sealed)

    def scorer(self, kpi: Any) -> dict[str, Any]:
        return {"harness": "scripted 1"}

    def open(self, bench: Bench) -> _Session:
        return _Session(bench)


class _Session:
    def __init__(self, bench: Bench) -> None:
        target = bench.target
        assert isinstance(target, WeightsTarget)
        right = [] if target.random_seed is not None else json.loads((target.folder / "right.json").read_text())
        self.right = set(right)

    def measure(self, tasks: Sequence[Task]) -> Iterator[tuple[str, list[Row]]]:
        for task in tasks:
            known = {sample.id: sample for sample in task.instrument.samples}
            kpi = task.instrument.kpi.id
            ASKED.append((kpi, len(task.ids)))
            yield kpi, [self.row(kpi, known[name]) for name in task.ids]

    def row(self, kpi: str, sample: Sample) -> Row:
        lost = sample.input in BROKEN
        value = float("nan") if lost else float(sample.input in self.right)
        return Row(sample.id, kpi, 0, value, 1.0, sample.cluster, "the answer got lost" if lost else "")

    def close(self) -> None:
        pass
