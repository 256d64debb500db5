"""Human-labelled cases for a task's own scorer: the given answers are scored, no model is asked for any."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import ModelOutput
from inspect_ai.solver import Generate, Solver, TaskState, solver

from evals.children.inspect_rows import value_of
from evals.children.inspect_tasks import scorer_names

_ANSWER = "hallmark_answer"


@solver  # type: ignore[untyped-decorator]
def say() -> Solver:
    """Answer what the case says."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.output = ModelOutput.from_content("case", str(state.metadata.pop(_ANSWER)))
        state.messages.append(state.output.message)
        return state

    return solve


def calibration_task(task: Task, metric: str, cases: Sequence[Mapping[str, Any]]) -> Task:
    """Return a task that scores the answers of labelled cases as `task` scores those of its own samples.

    Args:
        task: the KPI's task.
        metric: the scorer that the KPI reads; only this one runs.
        cases: single answers; their further fields become the samples' metadata.
    """
    names, scorers = scorer_names(task), list(task.scorer or [])
    wanted = metric if metric in names else metric.partition(".")[0]
    if wanted in names:
        scorers = [scorers[names.index(wanted)]]
    samples = [
        Sample(
            input=case["question"], target=case["texts"][0], id=str(number),
            metadata={**case["metadata"], _ANSWER: case["texts"][1]},
        )
        for number, case in enumerate(cases)
    ]  # fmt: skip
    return Task(dataset=MemoryDataset(samples), solver=say(), scorer=scorers)


def values_of(log: EvalLog, metric: str, count: int) -> list[float | None]:
    """Return the value of each case in order, None where the scorer gave none."""
    found: dict[int, float] = {int(sample.id): value_of(sample, metric)[0] for sample in log.samples or []}
    return [found[number] if math.isfinite(found[number]) else None for number in range(count)]
