"""Existing lm-eval task YAML, loaded as it stands from a suite's folder: tasks, groups and tags, on local data only."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from evals.children.lm_eval_data import LocalData
from evals.children.lm_eval_documents import document_id
from evals.children.lm_eval_run import FEWSHOT_SEED, Loaded, Place
from evals.children.lm_eval_scores import reader
from registry.errors import HallmarkError, SpecError


def load_files(suite: Path, job: dict[str, Any]) -> Loaded:
    """Return the tasks of a KPI: {kpi, task (`path.yaml` or `path.yaml@name`), metric, data}.

    Args:
        suite: the folder that paths are relative to.
        job: the KPI. `data` is a local file or folder that stands for the dataset which the task names.

    Raises:
        SpecError: a file lm-eval cannot read, a dataset that is not here, a metric or filter that is not the task's,
            two equal documents, or a task that no text model can do.
    """
    tasks = load_tasks(suite, job["task"], job["data"])
    name, filter_ = choose_metric(tasks, job["metric"])
    docs: dict[str, list[dict[str, Any]]] = {}
    places: dict[str, Place] = {}
    for task_name, task in tasks.items():
        check_task(task_name, task)
        docs[task_name] = documents(task_name, task)
        for number, doc in enumerate(docs[task_name]):
            key = document_id(doc, task_name if len(tasks) > 1 else "")
            if key in places:
                raise SpecError(
                    f"documents {places[key].number} and {number} of `{task_name}` are equal", field="task",
                    hint="every sample counts once: remove one of the two (documents are counted from 0)",
                )  # fmt: skip
            places[key] = Place(task_name, number)
    read = [reader(name, task.aggregation().get(name)) for task in tasks.values()][0]  # noqa: RUF015 - each is checked
    return Loaded(tasks, docs, places, name, filter_, read)


def load_tasks(suite: Path, spec: str, data: str) -> dict[str, Task]:
    """Return the tasks that `path.yaml` or `path.yaml@name` stands for, by name; a group or tag gives several."""
    file, _, name = spec.partition("@")
    path = (suite / file).resolve()
    if not path.is_file():
        raise SpecError(
            f"no task file `{file}`", field="task", hint="`task` is `path.yaml`, relative to the suite file"
        )
    os.chdir(path.parent)  # data files of a task are relative to its YAML
    random.seed(0)  # as lm-eval does before it loads tasks, which may draw
    np.random.seed(FEWSHOT_SEED)
    LocalData(suite / data if data else None).take_over(ConfigurableTask)
    try:
        tasks: dict[str, Task] = _found(path, name)
    except HallmarkError:
        raise
    except Exception as error:  # noqa: BLE001 - a task's own YAML and code may fail in any way
        cause = error
        while isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        if isinstance(cause, HallmarkError):
            raise cause from None
        raise SpecError(
            f"lm-eval cannot load `{spec}`: {type(cause).__name__}: {str(cause)[:300]}", field="task",
            hint="mend the task file, or what it includes; it must load with the installed lm-eval",
        ) from None  # fmt: skip
    if not tasks:
        raise SpecError(f"`{spec}` holds no task", field="task", hint="name a task, group or tag of that folder")
    return tasks


def _found(path: Path, name: str) -> dict[str, Task]:
    config = load_yaml(path, resolve_func=False)
    manager = TaskManager(include_path=str(path.parent), include_defaults=False)
    if not name:
        named = config.get("task") if isinstance(config.get("task"), str) else config.get("group")
        if not isinstance(named, str):
            raise SpecError(f"`{path.name}` names no task", field="task", hint="it needs `task:` or `group:`")
        entry = manager.task_index.get(named)
        name = named if entry is not None and entry.yaml_path == path else str(path)
    elif name not in manager.all_tasks:
        known = ", ".join(f"`{each}`" for each in manager.all_tasks[:20])
        raise SpecError(f"`{path.name}` and its folder have no task `{name}`", field="task", hint=f"known: {known}")
    return dict(manager.load(name)["tasks"])


def check_task(name: str, task: Task) -> None:
    """Refuse a task that a text model cannot do here, and set what lm-eval sets before it runs one."""
    if getattr(task, "MULTIMODAL", False):
        raise SpecError(f"`{name}` asks about images or sound", field="task", hint="only text is evaluated")
    if getattr(task, "UNSAFE_CODE", False):
        raise SpecError(
            f"`{name}` runs code that the model writes", field="task", hint="use an inspect task with a `sandbox`"
        )
    if task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(FEWSHOT_SEED)


def documents(name: str, task: Task) -> list[dict[str, Any]]:
    """Return the documents that a task evaluates."""
    try:
        return list(task.eval_docs)
    except HallmarkError:
        raise
    except Exception as error:  # noqa: BLE001 - `process_docs` is the task's own code
        raise SpecError(
            f"`{name}` gives no documents: {type(error).__name__}: {str(error)[:300]}", field="task",
            hint="its data must have the fields and splits that the task names",
        ) from None  # fmt: skip


def choose_metric(tasks: dict[str, Task], wanted: str) -> tuple[str, str]:
    """Return the metric and filter that `metric` or `metric,filter` names; the only one where none is named.

    Raises:
        SpecError: none or several fit, or a metric that is no mean over samples.
    """
    name, _, filter_ = (part.strip() for part in wanted.partition(","))
    for task_name, task in tasks.items():
        metrics, filters = list(task.aggregation()), [each.name for each in task._filters]
        name = _one(name, metrics, f"metric of `{task_name}`", "")
        filter_ = _one(filter_, filters, f"filter of `{task_name}`", f"{name},")
        reader(name, task.aggregation().get(name))
    return name, filter_


def _one(wanted: str, known: list[str], what: str, before: str) -> str:
    if not wanted and len(known) == 1:
        return known[0]
    if wanted in known:
        return wanted
    choices = ", ".join(f"`{before}{each}`" for each in known)
    message = f"`{wanted}` is no {what}" if wanted else f"there is more than one {what}"
    raise SpecError(message, field="metric", hint=f"write `metric:` with one of {choices or 'none'}")
