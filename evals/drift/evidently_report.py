"""Evidently's HTML page over two windows of the decision log, made in a child process: to look at, not to decide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from evals.drift.canaries import Replay
from evals.drift.signals import Decision
from evals.harness.child import run_child
from registry.errors import EngineFailure
from registry.protocols import silent


def write_report(
    reference: Sequence[Decision], current: Sequence[Decision], file: Path, *,
    replays: tuple[Replay | None, Replay] | None = None, scratch: Path,
) -> None:  # fmt: skip
    """Write the report to `file`: the decision log's columns, and descriptors of the answers to canaries, if any.

    Raises EngineFailure when evidently fails.
    """
    request = {"reference": _table(reference), "current": _table(current), "out": str(file.resolve())}
    if replays is not None and replays[0] is not None:
        request |= {"canaries": {"reference": _texts(replays[0]), "current": _texts(replays[1])}}
    file.parent.mkdir(parents=True, exist_ok=True)
    for _ in run_child("evals.children.draw_drift", request, scratch=scratch, progress=silent):
        return
    raise EngineFailure("evidently wrote no report", hint="run the check again without `--html`")


def _table(rows: Iterable[Decision]) -> dict[str, list[float | str]]:
    """Return the columns that the report shows; texts are not in the log, so none is shown."""
    rows = list(rows)
    return {
        "action": [str(row["action"]) for row in rows],
        "finish_reason": [str(row["finish_reason"] or "none") for row in rows],
        "status": [str(row["status"]) for row in rows],
        "input_chars": [float(row["input_chars"] or 0) for row in rows],
        "output_chars": [float(row["output_chars"] or 0) for row in rows],
        "prompt_tokens": [float(row["prompt_tokens"] or 0) for row in rows],
        "completion_tokens": [float(row["completion_tokens"] or 0) for row in rows],
    }


def _texts(replay: Replay) -> list[str]:
    return [asked.text for name in sorted(replay.answers) for asked in replay.answers[name]]
