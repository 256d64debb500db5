"""Child process: inspect-ai runs one task file against the guarded endpoint and its log becomes rows."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai import eval as run
from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import get_model
from inspect_ai.scorer import value_to_float

import evals.children.provider  # noqa: F401 - registers the model API `hallmark`
from evals.children.link import Link, serve
from evals.harness.provider import Client
from evals.samples import Row, detail, encode, sample_id
from registry.errors import EngineFailure, SpecError

CONNECTIONS = 8


def work(request: dict[str, Any], link: Link) -> None:
    """Measure the KPI of a request: {target, identity, answers, folder, kpi, scratch, out}."""
    kpi = request["kpi"]
    task = load_task(Path(request["folder"]), kpi["task"])
    planned = plan(task, kpi)
    total, done = len(planned) * kpi["epochs"], 0

    def tick() -> None:
        nonlocal done
        done += 1
        link.progress(kpi["id"], min(done, total), total)

    link.progress(kpi["id"], 0, total)
    client = Client.resuming(request["target"], request["answers"], request["identity"])
    client.tick = tick
    model = get_model("hallmark/endpoint", memoize=False, client=client)
    logs = run(
        task, model=model, epochs=kpi["epochs"], display="none", score_display=False, log_realtime=False,
        log_level="error", log_dir=str(Path(request["scratch"]) / "inspect"), max_connections=CONNECTIONS,
        max_samples=CONNECTIONS, retry_on_error=0, ctl_server=False, acp_server=False,
    )  # fmt: skip
    rows = read_log(logs, planned, kpi)
    Path(request["out"]).write_bytes(encode(rows))
    link.send("rows", kpi=kpi["id"], file=request["out"], planned=list(planned))


def load_task(folder: Path, name: str) -> Task:
    """Return the inspect task of `path.py@name` inside the suite's verified copy."""
    file, _, function = name.partition("@")
    path = (folder / file).resolve()
    os.chdir(path.parent)  # as inspect-ai does, so that a task may name data beside it
    spec = importlib.util.spec_from_file_location(f"suite_task_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SpecError(f"`{file}` is no Python file", field="task", hint="write `path.py@name`")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    made = getattr(module, function, None)
    task = made() if callable(made) else None
    if not isinstance(task, Task):
        raise SpecError(f"`{file}` has no task `{function}`", field="task", hint="decorate a function with `@task`")
    return task


def plan(task: Task, kpi: dict[str, Any]) -> dict[str, str]:
    """Cut the task's samples to the planned number, name each by its content, and return id to cluster."""
    samples = list(task.dataset)[: kpi["samples"]]
    if len(samples) < kpi["samples"]:
        raise SpecError(
            f"`{kpi['id']}` plans {kpi['samples']} samples, its task has {len(samples)}", field="samples",
            hint="plan fewer samples or give the task more",
        )  # fmt: skip
    planned: dict[str, str] = {}
    for sample in samples:
        asked = sample.input if isinstance(sample.input, str) else [[m.role, m.text] for m in sample.input]
        sample.id = sample_id(asked, sample.target, sample.choices or ())
        cluster = str((sample.metadata or {}).get(kpi["cluster"], "")) if kpi["cluster"] else ""
        if kpi["cluster"] and not cluster:
            raise SpecError(f"a sample's metadata has no `{kpi['cluster']}`", field="cluster", hint="add it")
        planned[sample.id] = cluster or sample.id
    if len(planned) < len(samples):
        raise SpecError(f"`{kpi['id']}` asks the same thing twice", field="task", hint="make every sample different")
    task.dataset = task.dataset.filter(lambda sample: sample.id in planned)
    return planned


def read_log(logs: list[EvalLog], planned: dict[str, str], kpi: dict[str, Any]) -> list[Row]:
    """Return the rows of a successful, complete log.

    Raises:
        EngineFailure: the run did not succeed, or fewer samples were completed than planned.
    """
    log = logs[0] if logs else None
    if log is None or log.status != "success" or log.results is None:
        why = log.error.message.strip().splitlines()[-1][:300] if log and log.error else "it did not finish"
        raise EngineFailure(f"`{kpi['id']}`: {why}", hint="answers so far are kept; run the evaluation again")
    total = len(planned) * kpi["epochs"]
    samples = log.samples or []
    if log.results.completed_samples != total or len(samples) != total:
        raise EngineFailure(
            f"`{kpi['id']}`: {total} samples were planned, {log.results.completed_samples} completed",
            hint="run the evaluation again",
        )
    return [_row(sample, planned, kpi) for sample in samples]


def _row(sample: EvalSample, planned: dict[str, str], kpi: dict[str, Any]) -> Row:
    scores = sample.scores or {}
    name = kpi["metric"] or (next(iter(scores)) if len(scores) == 1 else "")
    score = scores.get(name)
    value, error = math.nan, ""
    if sample.error is not None:
        error = sample.error.message[:200]
    elif score is None:
        error = f"no score `{name}`; the task gives {', '.join(sorted(scores)) or 'none'}"
    else:
        value = float(value_to_float()(score.value))
        error = "" if math.isfinite(value) else "the scorer gave no number"
    asked = sample.input if isinstance(sample.input, str) else " ".join(message.text for message in sample.input)
    said = "\n".join((sample.output.metadata or {}).get("texts", [])) or sample.output.completion
    note = (score.explanation or "") if score else ""
    return Row(
        str(sample.id), kpi["id"], sample.epoch - 1, value, 1.0, planned[str(sample.id)], error,
        detail(input=asked, said=said, note=note),
    )  # fmt: skip


if __name__ == "__main__":
    serve(work)
