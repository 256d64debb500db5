"""Child process: load an inspect-ai task and say which samples it would ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evals.children.inspect_tasks import check_metric, check_sandbox, load_task, named, shown, tag
from evals.children.link import Link, serve
from evals.harness.tasks import choose
from evals.samples import Sample
from registry.errors import SpecError


def work(request: dict[str, Any], link: Link) -> None:
    """Plan the KPI of a request: {folder, kpi, out}; its samples go to `out` as JSON."""
    samples = plan(Path(request["folder"]), request["kpi"])
    Path(request["out"]).write_text(json.dumps([sample.plain() for sample in samples]), encoding="utf-8")
    link.send("planned", file=request["out"])


def plan(folder: Path, kpi: dict[str, Any]) -> list[Sample]:
    """Return the samples of a KPI, chosen over clusters by content.

    Raises SpecError: the task cannot be loaded or run as the KPI says, or has fewer different samples than planned.
    """
    task = load_task(folder, kpi["task"])
    check_metric(task, kpi["metric"])
    found = list(named(task.dataset))
    check_sandbox(task, found, kpi["sandbox"])
    samples = choose((_planned(sample, kpi) for sample in found), kpi["samples"])
    if len(samples) < kpi["samples"]:
        twice = len(task.dataset) - len(found)
        note = f" and asks {twice} of them twice" if twice else ""
        raise SpecError(
            f"`{kpi['id']}` plans {kpi['samples']} samples, its task has {len(found) + twice}{note}", field="samples",
            hint="plan fewer samples or give the task more; every sample must be different",
        )  # fmt: skip
    return samples


def _planned(sample: Any, kpi: dict[str, Any]) -> Sample:
    target = sample.target if isinstance(sample.target, str) else "\n".join(sample.target)
    cluster = tag(sample, kpi["cluster"], "cluster") if kpi["cluster"] else sample.id
    slices = tuple((field, tag(sample, field, "slices")) for field in kpi["slices"])
    return Sample(sample.id, cluster, shown(sample), target, tuple(sample.choices or ()), slices)


if __name__ == "__main__":
    serve(work)
