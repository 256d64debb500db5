"""The harness `import`: values that another harness measured, brought in by `hallmark eval import`.

It measures nothing. Its instrument is what the suite says of the other harness; that two imports hold the same samples
in the same clusters is checked when the second comes in (`evals/imports.py`) and again by the gate, pair by pair.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.harness.protocol import Planned
from registry.errors import NotYet

if TYPE_CHECKING:
    from evals.harness.protocol import Bench, Session
    from evals.kpi import Kpi
    from registry.workspace import Workspace


class Imported:
    """Plans nothing and opens nothing: the samples are the other harness's."""

    def plan(self, ws: Workspace, kpi: Kpi, suite: Path) -> Planned:
        """Return an empty plan: which samples there are is known once the first candidate's rows are imported."""
        return Planned(())

    def scorer(self, kpi: Kpi) -> dict[str, Any]:
        """Return what a number of this KPI is: the other harness by its name and version, its metric, the grouping."""
        return {
            "harness": "import", "by": kpi.task, "metric": kpi.metric, "unit": kpi.unit, "epochs": kpi.epochs,
            "cluster": kpi.cluster, "samples": kpi.samples,
        }  # fmt: skip

    def open(self, bench: Bench) -> Session:
        """Refuse: there is nothing that could be run.

        Raises:
            NotYet: always; the rows have to be imported.
        """
        raise NotYet(
            "imported KPIs are not measured here and some have no rows yet",
            hint="run `hallmark eval import` with the other harness's rows",
        )
