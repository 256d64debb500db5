"""An inspect-ai task file as it stands: loaded, its samples named by content, its sandbox checked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai._eval.loader import load_tasks
from inspect_ai.dataset import Dataset, MemoryDataset, Sample
from inspect_ai.scorer._scorer import unique_scorer_name

from evals.samples import sample_id
from registry.errors import SpecError

_PLAIN = {"text", "reasoning"}


def load_task(folder: Path, name: str) -> Task:
    """Return the inspect task of `path.py@name` inside a folder.

    Raises SpecError: no such task, or the file raised an error when it was loaded.
    """
    file, _, function = name.partition("@")
    path = (folder / file).resolve()
    os.chdir(path.parent)  # as inspect-ai does, so that a task may name data beside it
    try:
        found = load_tasks([f"{path}@{function}"])
    except SpecError:
        raise
    except Exception as error:  # noqa: BLE001 - a task file is a program that may raise anything
        said = str(error).strip().splitlines()
        if f"'{function}' not found" in str(error):
            raise SpecError(
                f"`{file}` has no task `{function}`", field="task", hint="decorate a function with `@task`"
            ) from None
        raise SpecError(
            f"`{name}` cannot be loaded: {type(error).__name__}: {said[0][:200] if said else ''}", field="task",
            hint="it must load without a network; what it imports and reads must lie in its own folder",
        ) from None  # fmt: skip
    task = found[0]
    if not isinstance(task.dataset, Dataset):
        raise SpecError(f"`{name}` makes its samples as it runs", field="task", hint="give the task a fixed dataset")
    if not task.scorer:
        raise SpecError(f"`{name}` has no scorer", field="task", hint="a KPI needs a score a sample")
    return task


def scorer_names(task: Task) -> list[str]:
    """Return the names under which the task's scores come, as inspect-ai gives them."""
    names: list[str] = []
    for scorer in task.scorer or []:
        names.append(unique_scorer_name(scorer, names))
    return names


def check_metric(task: Task, metric: str) -> None:
    """Raise SpecError where `metric` names no scorer of the task, or several scorers leave open which is meant."""
    names = scorer_names(task)
    if not metric and len(names) > 1:
        raise SpecError(
            f"the task gives {len(names)} scores", field="metric",
            hint=f"name one: {', '.join(names)}; `scorer.key` for a score with several values",
        )  # fmt: skip
    if metric and len(names) > 1 and metric not in names and metric.partition(".")[0] not in names:
        raise SpecError(f"the task has no scorer `{metric}`", field="metric", hint=f"scorers: {', '.join(names)}")


def check_sandbox(task: Task, samples: Sequence[Sample], allowed: str) -> None:
    """Raise SpecError where the task or a sample wants a sandbox of another kind than the KPI allows."""
    wanted = {one.sandbox.type for one in (task, *samples) if one.sandbox is not None}
    for kind in sorted(wanted - {allowed}):
        cure = f"write `sandbox: {kind}` in the KPI if its tools may run there"
        if kind not in ("local", "docker"):
            cure = "only `local` and `docker` can be allowed"
        raise SpecError(f"the task wants the sandbox `{kind}`, the KPI allows `{allowed}`", field="sandbox", hint=cure)


def named(dataset: Dataset) -> Iterator[Sample]:
    """Yield each different sample once, under the id that its content gives it.

    Raises SpecError for a sample with more than text in it.
    """
    seen: set[str] = set()
    for sample in dataset:
        sample.id = sample_id(_asked(sample), sample.target, sample.choices or ())
        if sample.id not in seen:
            seen.add(sample.id)
            yield sample


def _asked(sample: Sample) -> str | list[list[str]]:
    if isinstance(sample.input, str):
        return sample.input
    for message in sample.input:
        if not isinstance(message.content, str):
            other = next((part.type for part in message.content if part.type not in _PLAIN), None)
            if other is not None:
                raise SpecError(f"a sample holds content of type `{other}`", field="task", hint="only text can be sent")
    return [[message.role, message.text] for message in sample.input]


def shown(sample: Sample) -> str:
    """Return a sample's question as text."""
    if isinstance(sample.input, str):
        return sample.input
    return "\n".join(message.text for message in sample.input)


def tag(sample: Sample, field: str, role: str) -> str:
    """Return a metadata field of a sample as text. Raises SpecError where it is not there."""
    metadata: Mapping[str, Any] = sample.metadata or {}
    value = metadata.get(field)
    if value is None or value == "":
        known = ", ".join(f"`{key}`" for key in sorted(metadata))
        raise SpecError(f"a sample's metadata has no `{field}`", field=role, hint=f"fields: {known or 'none'}")
    return str(value)


def only(task: Task, ids: Sequence[str]) -> None:
    """Leave the task the samples of these ids. Raises SpecError where one is not there."""
    wanted = set(ids)
    kept = [sample for sample in named(task.dataset) if sample.id in wanted]
    if len(kept) < len(wanted):
        raise SpecError(
            f"{len(wanted) - len(kept)} of the planned samples are gone", field="task",
            hint="a task must bring the same samples each time it is loaded",
        )  # fmt: skip
    task.dataset = MemoryDataset(kept, name=task.dataset.name, location=task.dataset.location)
