"""Evidently's HTML page over two windows of the decision log, made in a child process: to look at, not to decide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evals.drift.signals import Decision
from evals.harness.child import run_child
from registry.errors import EngineFailure
from registry.protocols import silent


def write_report(reference: Sequence[Decision], current: Sequence[Decision], file: Path, *, scratch: Path) -> None:
    """Write the report to `file`. Raises EngineFailure when evidently fails."""
    request = {"reference": _table(reference), "current": _table(current), "out": str(file.resolve())}
    file.parent.mkdir(parents=True, exist_ok=True)
    for _ in run_child("evals.children.draw_drift", request, scratch=scratch, progress=silent):
        return
    raise EngineFailure("evidently wrote no report", hint="run the check again without `--html`")


def _table(rows: Sequence[Decision]) -> dict[str, list[float | str]]:
    """Return the columns that the report shows; texts are not in the log, so none is shown."""
    return {
        "action": [str(row["action"]) for row in rows],
        "finish_reason": [str(row["finish_reason"] or "none") for row in rows],
        "status": [str(row["status"]) for row in rows],
        "input_chars": [float(row["input_chars"] or 0) for row in rows],
        "output_chars": [float(row["output_chars"] or 0) for row in rows],
    }
