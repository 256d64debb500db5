"""lm-eval over a candidate's weights: one child process measures all KPIs that need them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from evals.harness.child import run_child
from evals.instrument import Instrument
from evals.samples import Row, check_complete, decode
from evals.targets import WeightsTarget
from registry.errors import EngineFailure
from registry.protocols import Progress


def run_lm_eval(
    instruments: Sequence[Instrument], target: WeightsTarget, *, scratch: Path, progress: Progress
) -> Iterator[tuple[Instrument, list[Row]]]:
    """Yield each instrument with its complete rows as soon as lm-eval has measured it.

    Raises:
        EngineFailure: the child crashed, or gave other samples than planned. What was yielded before stays good.
    """
    waiting = {instrument.kpi.id: instrument for instrument in instruments}
    jobs = [
        {"kpi": name, "task": each.kpi.task, "epochs": each.kpi.epochs, "samples": [s.plain() for s in each.samples]}
        for name, each in waiting.items()
    ]
    with tempfile.TemporaryDirectory(dir=scratch, prefix="rows-") as out:
        model = {"folder": str(target.folder), "random_seed": target.random_seed}
        request = {"model": model, "jobs": jobs, "out": out}
        for message in run_child("evals.children.weights.score", request, scratch=scratch, progress=progress):
            rows = decode(Path(message["file"]).read_bytes())
            instrument = waiting.pop(message["kpi"])
            check_complete(rows, message["kpi"], [s.id for s in instrument.samples], instrument.kpi.epochs)
            yield instrument, rows
    if waiting:
        raise EngineFailure(
            f"lm-eval gave no result for {', '.join(f'`{name}`' for name in waiting)}", hint="run the evaluation again"
        )
