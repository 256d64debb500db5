"""inspect-ai over the guarded endpoint: a task file of the suite, run in a child process."""

from __future__ import annotations

import tempfile
from pathlib import Path

from evals.harness.child import run_child
from evals.instrument import Instrument
from evals.samples import Row, check_complete, decode
from evals.targets import EndpointTarget
from registry.errors import EngineFailure
from registry.protocols import Progress


def run_inspect(
    instrument: Instrument, target: EndpointTarget, suite: Path, *, answers: Path, scratch: Path, progress: Progress
) -> list[Row]:
    """Return the complete rows of one inspect KPI.

    Args:
        instrument: the KPI.
        target: the endpoint, which serves under a permit or as released.
        suite: a verified copy of the suite's manifest: exactly the task that was hashed is what runs.
        answers: a file that keeps answers until the KPI is finished.
        scratch: a folder for the child's logs and caches.
        progress: told after each answer.

    Raises:
        SpecError: the task is not there or brings other samples than planned.
        EngineFailure: the endpoint refused, the run failed or was incomplete, or the child crashed.
    """
    kpi = instrument.kpi
    with tempfile.TemporaryDirectory(dir=scratch, prefix="inspect-") as name:
        request = {
            "target": target.plain(), "identity": target.identity, "answers": str(answers), "folder": str(suite),
            "kpi": kpi.model_dump(mode="json", include={"id", "task", "samples", "epochs", "cluster", "metric"}),
            "scratch": name, "out": str(Path(name) / "rows.parquet"),
        }  # fmt: skip
        for message in run_child("evals.children.run_inspect", request, scratch=scratch, progress=progress):
            rows = decode(Path(message["file"]).read_bytes())
            if len(message["planned"]) != kpi.samples:
                break
            check_complete(rows, kpi.id, message["planned"], kpi.epochs)
            return rows
    raise EngineFailure(f"inspect-ai gave no result for `{kpi.id}`", hint="run the evaluation again")
