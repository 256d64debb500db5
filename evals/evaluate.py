"""Evaluate a candidate on a suite: register the suite, measure the samples that are due, record them as EvalRuns."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.budget import Meter
from evals.cache import RowCache
from evals.harness.protocol import Task
from evals.instrument import Instrument, build_instruments
from evals.measure import Model, Sessions, stored
from evals.reading import IMPORT, Shelf, runs_of
from evals.samples import Row, check_complete, encode
from evals.suite import SuiteSpec
from registry import specs
from registry.protocols import GuardedEndpoint, Progress, silent
from registry.records import Asset, Candidate, EvalRun, Suite, plain
from registry.workspace import Workspace

PARQUET = "application/vnd.apache.parquet"


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
    ws: Workspace, candidate_id: str, suite_path: Path, *, actor: str,
    endpoints: Mapping[str, GuardedEndpoint] | None = None, progress: Progress = silent,
) -> list[Asset]:  # fmt: skip
    """Return EvalRuns that together hold all rows of a candidate on a suite; what is known is not measured again.

    Rows that another harness measures are not run here: they are imported.

    Args:
        ws: the workspace.
        candidate_id: a reference to a candidate.
        suite_path: the suite's YAML file.
        actor: the principal who evaluates.
        endpoints: what answers: `guarded`, `vllm`, `url` and `judge:<name>`, as the KPIs need them.
        progress: told per KPI.

    Raises: as `Evaluation.measure` does.
    """
    with Evaluation(
        ws, candidate_id, suite_path, actor=actor, endpoints=endpoints or {}, progress=progress
    ) as evaluation:
        return evaluation.measure()


class Evaluation:
    """One candidate on one suite, measured part by part; models and harnesses stay loaded between the parts.

    Use it as a context manager. `suite`, `instruments` and `candidate` say what is measured on what.

    Args:
        ws: the workspace.
        candidate_id: a reference to a candidate.
        suite_path: the suite's YAML file.
        actor: the principal who evaluates.
        endpoints: what answers: `guarded`, `vllm`, `url` and `judge:<name>`, as the KPIs need them.
        control: the control that is measured in the candidate's place, else empty.
        progress: told per KPI.

    Raises:
        SpecError, NotFound: the suite, its data or the candidate.
    """

    def __init__(
        self, ws: Workspace, candidate_id: str, suite_path: Path, *, actor: str,
        endpoints: Mapping[str, GuardedEndpoint] | None = None, control: str = "", progress: Progress = silent,
    ) -> None:  # fmt: skip
        self._ws, self._actor, self._progress = ws, actor, progress
        self.suite, self.instruments = open_suite(ws, suite_path, actor)
        self.candidate = ws.get(candidate_id, Candidate)
        self.meter = Meter(specs.load(suite_path, SuiteSpec).budgets)
        self._model = Model(self.candidate, endpoints or {}, control)
        self._cache = RowCache(ws.work("evals", "rows"))
        self._shelf = Shelf(ws)
        self._sessions = Sessions(ws, self.suite, self.instruments, self._model, meter=self.meter, progress=progress)

    def __enter__(self) -> Evaluation:
        """Return it; nothing is started before the first sample that is not yet measured."""
        self._sessions.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        """End all sessions."""
        self._sessions.__exit__(*raised)

    def measure(self, due: Mapping[str, int] | None = None) -> list[Asset]:
        """Return the EvalRuns that hold the due samples, after measuring those that nobody has measured.

        What is finished when this ends with an error is kept and not measured again; it becomes part of a run when the
        rest is there. KPIs with imported results are not measured: their runs are returned as far as they are there.

        Args:
            due: how many samples of each KPI, a prefix of the seeded order. None: all samples of all KPIs.

        Raises:
            SpecError: a KPI that no harness can run as it is written.
            EngineFailure: an endpoint that is not running, or a harness that failed.
            BudgetSpent: the suite's budget is used up.
            Tampered: the candidate's weights differ from their manifest.
        """
        wanted = {
            each.kpi.id: (each, each.kpi.samples if due is None else due[each.kpi.id])
            for each in self.instruments
            if due is None or each.kpi.id in due
        }
        runs = self._runs()
        missing = []
        for each, count in wanted.values():
            if each.kpi.harness != IMPORT:
                have = self._shelf.samples(self._usable(runs, each), each)
                ids = tuple(sample.id for sample in each.samples[:count] if sample.id not in have)
                missing += [Task(each, ids)] if ids else []
        if missing:
            runs.append(self._record(missing, self._rows(missing)))
        found = {
            run.id: run
            for each, count in wanted.values()
            for run in self._shelf.due(self._usable(runs, each), each, count).runs
        }
        return list(found.values())

    def _runs(self) -> list[Asset]:
        return runs_of(self._ws, self.suite, self.instruments, self.candidate.id, self._model.control)

    def _usable(self, runs: Sequence[Asset], instrument: Instrument) -> list[Asset]:
        return [run for run in runs if instrument.digest in run.body["instruments"].values()]

    def _rows(self, tasks: Sequence[Task]) -> dict[str, list[Row]]:
        """Return the rows of tasks by KPI: known ones as they are, the others measured.

        KPIs that share an instrument share its rows.
        """
        keys = {task.instrument.kpi.id: self._key(task.instrument) for task in tasks}  # not once for each sample
        keyed = [(keys[task.instrument.kpi.id], task) for task in tasks]
        known = {key: self._cache.get(key, task.instrument.kpi.epochs) for key, task in keyed}
        while unknown := _unknown(keyed, known):
            with self.meter.running():
                for instrument, found in self._sessions.measure(unknown):
                    kept = stored(instrument, found)
                    self._cache.put(keys[instrument.kpi.id], kept)
                    self._note(instrument)
                    for row in kept:
                        known[keys[instrument.kpi.id]].setdefault(row.sample_id, []).append(row)
        return {
            task.instrument.kpi.id: stored(task.instrument, [row for name in task.ids for row in known[key][name]])
            for key, task in keyed
        }

    def _key(self, instrument: Instrument) -> str:
        identity = self._model.identity(self._ws, self._model.target(instrument.kpi), instrument.kpi.id)
        return RowCache.key(identity, instrument.ruler)

    def _record(self, tasks: Sequence[Task], rows: Mapping[str, Sequence[Row]]) -> Asset:
        """Return the registered EvalRun of complete tasks."""
        kpis = [task.instrument.kpi for task in tasks]
        for task in tasks:  # rows of the cache as well: nothing half-way is ever recorded
            check_complete(rows[task.instrument.kpi.id], task.instrument.kpi.id, task.ids, task.instrument.kpi.epochs)
        failed = {name: len({row.sample_id for row in found if row.error}) for name, found in rows.items()}
        notes = {task.instrument.kpi.id: self._cache.noted(self._key(task.instrument)) for task in tasks}
        record = EvalRun(
            candidate=self.candidate.id,
            suite=self.suite.id,
            instruments={task.instrument.kpi.id: task.instrument.digest for task in tasks},
            results=self._ws.artifacts.add_bytes(encode(row for kpi in kpis for row in rows[kpi.id]), PARQUET),
            planned={kpi.id: kpi.samples for kpi in kpis},
            completed={task.instrument.kpi.id: len(task.ids) - failed[task.instrument.kpi.id] for task in tasks},
            errors=failed,
            target={kpi.id: kpi.endpoint for kpi in kpis},
            harness={kpi.id: kpi.harness for kpi in kpis},
            permit=next((note["permit"] for note in notes.values() if "permit" in note), ""),
            control=self._model.control,
            judges={name: note["judge"] for name, note in notes.items() if "judge" in note} or None,
        )
        parents = [("candidate", self.candidate.id), ("suite", self.suite.id)]
        return self._ws.register(record, actor=self._actor, name=self.suite.name, parents=parents)

    def _note(self, instrument: Instrument) -> None:
        """Keep with measured rows what a run of theirs has to say: the permit they came under, and their judge."""
        note: dict[str, Any] = {}
        if instrument.kpi.endpoint == "guarded" and not self._model.control:
            note["permit"] = self._model.endpoint("guarded").permit
        if instrument.kpi.id in self._sessions.judgements:
            note["judge"] = plain(self._sessions.judgements[instrument.kpi.id])
        if note:
            self._cache.note(self._key(instrument), note)


def _unknown(tasks: Sequence[tuple[str, Task]], known: Mapping[str, Mapping[str, Any]]) -> list[Task]:
    """Return what is not known of tasks, one task for each key."""
    found: dict[str, Task] = {}
    for key, task in tasks:
        ids = tuple(name for name in task.ids if name not in known[key])
        if ids:
            found.setdefault(key, Task(task.instrument, ids))
    return list(found.values())
