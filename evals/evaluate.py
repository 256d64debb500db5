"""Evaluate a candidate on a suite: register the suite, measure every KPI, record the EvalRun."""

from __future__ import annotations

import tempfile
from pathlib import Path

from evals.instrument import Instrument, build_instruments
from evals.measure import Model, measure
from evals.suite import SuiteSpec
from registry import specs
from registry.protocols import GuardedEndpoint, Progress, silent
from registry.records import Asset, Candidate, EvalRun, Suite
from registry.workspace import Workspace


def register_suite(ws: Workspace, suite_path: Path, actor: str) -> Asset:
    """Register the suite in a YAML file as it is now: its YAML, tasks, planned samples and instrument digests.

    Raises:
        SpecError: the file, its data or a field is wrong.
        NotFound: the file, a data file, a dataset or a split is missing.
    """
    return open_suite(ws, suite_path, actor)[0]


def open_suite(ws: Workspace, suite_path: Path, actor: str) -> tuple[Asset, list[Instrument]]:
    """Return the registered suite and its instruments. Raises as `register_suite` does."""
    spec = specs.load(suite_path, SuiteSpec)
    instruments = build_instruments(ws, spec, suite_path)
    with tempfile.TemporaryDirectory(dir=ws.work("evals"), prefix="suite-") as name:
        folder = Path(name)
        (folder / "suite.yaml").write_bytes(suite_path.read_bytes())
        for path, data in {path: data for each in instruments for path, data in each.files.items()}.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        manifest = ws.artifacts.add_tree(folder)
    digests = {instrument.kpi.id: instrument.digest for instrument in instruments}
    record = Suite(spec.suite, spec.version, manifest.id, digests, spec.canary)
    datasets = sorted({instrument.dataset for instrument in instruments if instrument.dataset})
    parents = [("dataset", dataset) for dataset in datasets]
    return ws.register(record, actor=actor, name=spec.suite, parents=parents), instruments


def evaluate(
    ws: Workspace, candidate_id: str, suite_path: Path, *, actor: str, endpoint: GuardedEndpoint | None = None,
    progress: Progress = silent,
) -> Asset:  # fmt: skip
    """Return the EvalRun of a candidate on a suite; what was measured before is not measured again.

    A run of the same candidate, suite and instruments is returned as it stands. After a crash, KPIs that were finished
    and answers of the endpoint that had arrived are kept.

    Args:
        ws: the workspace.
        candidate_id: a reference to a candidate.
        suite_path: the suite's YAML file.
        actor: the principal who evaluates.
        endpoint: the guarded endpoint that serves this candidate; needed by KPIs with `endpoint: guarded`.
        progress: told per KPI.

    Raises:
        SpecError, NotFound: the suite, its data or the candidate.
        EngineFailure: no endpoint for a guarded KPI, or a harness that failed; nothing is recorded.
        Tampered: the candidate's weights differ from their manifest.
    """
    suite, instruments = open_suite(ws, suite_path, actor)
    candidate = ws.get(candidate_id, Candidate)
    known = find_run(ws, candidate.id, suite)
    if known is not None:
        return known
    model = Model(candidate, {"candidate": candidate.id}, endpoint)
    return measure(ws, suite, instruments, model, actor=actor, progress=progress)


def find_run(ws: Workspace, candidate_id: str, suite: Asset) -> Asset | None:
    """Return the newest measured EvalRun of a candidate on a registered suite, or None."""
    wanted = {"candidate": candidate_id, "suite": suite.id, "control": "", "imported": False}
    runs = ws.assets(EvalRun.KIND)
    return next((run for run in reversed(runs) if wanted.items() <= run.body.items()), None)
