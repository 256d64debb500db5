"""inspect-ai: task files as they stand, run in a child process against an endpoint or weights."""

from __future__ import annotations

import json
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import evals
from evals.harness.child import run_child
from evals.harness.conversation import Conversation
from evals.harness.judging import (
    Calibration,
    Calibrations,
    SeatedJudge,
    Standing,
    calibrate,
    judge_files,
    scorer_digest,
    seat,
)
from evals.harness.protocol import Bench, Planned, Task
from evals.kpi import Kpi
from evals.results import Judgement
from evals.samples import Row, Sample, check_complete, decode
from evals.targets import EndpointTarget, WeightsTarget
from registry.errors import NotFound, SpecError
from registry.protocols import silent
from registry.records import digest_of, sha256
from registry.workspace import Workspace

log = logging.getLogger(__name__)

_CODE = (
    "children/provider.py", "children/generator.py", "children/run_inspect.py", "children/inspect_rows.py",
    "children/inspect_tasks.py", "harness/provider.py",
)  # fmt: skip
"""The files of ours that turn a model's answers into numbers; a change of them is another instrument."""
_READ = {".py", ".json", ".jsonl", ".yaml", ".yml", ".txt", ".md", ".csv", ".parquet", ".sh", ".toml", ".jinja"}
_PLANNING = {"id", "task", "samples", "cluster", "slices", "metric", "sandbox"}
_MEASURING = _PLANNING | {"epochs"}


class Inspect:
    """The harness `inspect`: a KPI's `task` is `path.py@name`, relative to the suite file."""

    def plan(self, ws: Workspace, kpi: Kpi, suite: Path) -> Planned:
        """Return the samples that the task brings, chosen over clusters by content, and its files.

        The task is loaded once in a child process for the same files, on a copy of them.

        Raises:
            SpecError: the task cannot be loaded, lacks a field, wants a sandbox that the KPI does not allow, or has
                fewer different samples than planned.
            NotFound: the task's file or data is not there.
        """
        files = task_files(kpi, suite)
        asked = kpi.model_dump(mode="json", include=_PLANNING)
        key = digest_of(
            {
                "kpi": {**asked, "id": ""},
                "files": {name: sha256(data) for name, data in files.items()},
                "scorer": self.scorer(kpi),
                "planner": sha256((_root() / "children/plan_inspect.py").read_bytes()),
            }
        )
        kept = ws.work("evals", "plans") / f"{key.removeprefix('sha256:')}.json"
        samples = _read_plan(kept)
        if samples is None:
            samples = _plan(ws, asked, files, kept)
        return Planned(tuple(samples), {**files, **judge_files(ws, kpi, suite)})

    def scorer(self, kpi: Kpi) -> dict[str, Any]:
        """Return inspect-ai's version and the digests of our code around it."""
        return {"harness": f"inspect=={version('inspect-ai')}", "code": _code()}

    def open(self, bench: Bench) -> InspectSession:
        """Return a session; its child starts with the first task."""
        return InspectSession(self, bench)


class InspectSession:
    """One child process that runs inspect-ai for all tasks and looks on one bench."""

    def __init__(self, harness: Inspect, bench: Bench) -> None:
        self._harness, self._bench = harness, bench
        self._scratch = Path(tempfile.mkdtemp(dir=bench.scratch, prefix="inspect-"))
        opening = {
            "target": plain_target(bench.target), "identity": bench.target.identity, "suite": str(bench.suite),
            "scratch": str(self._scratch),
        }  # fmt: skip
        self._child = Conversation(
            "evals.children.run_inspect", opening, scratch=self._scratch, progress=bench.progress
        )
        self._standings: dict[str, Standing] = {}

    def measure(self, tasks: Sequence[Task]) -> Iterator[tuple[str, list[Row]]]:
        """Yield (KPI id, rows) as each task is finished; see `evals.harness.protocol.Session`.

        A judge that times out or says nonsense makes a row with an error; one that fails time after time ends the run,
        whose answers are kept. The first time that a KPI with a judge is
        measured, its scorer also scores the judge's labelled cases, unless it did so before.
        """
        for number, task in enumerate(tasks):
            kpi = task.instrument.kpi
            judge = seat(kpi, self._bench.suite, self._bench.judges)
            if judge is not None and kpi.id not in self._standings:
                self._standings[kpi.id] = Standing(judge, self._calibration(task, judge))
            rows = self._measure(task, judge, number)
            if judge is not None:
                self._standings[kpi.id].add(rows)
            yield kpi.id, rows

    def _measure(self, task: Task, judge: SeatedJudge | None, number: int) -> list[Row]:
        instrument, kpi = task.instrument, task.instrument.kpi
        planned = {sample.id: sample for sample in instrument.samples}
        request = {
            "work": "measure", "kpi": kpi.model_dump(mode="json", include=_MEASURING),
            "samples": {name: _marks(planned[name]) for name in task.ids},
            "answers": self._answers(instrument.digest), "judge": judge.plain() if judge else None,
            "scorer": scorer_digest(self._harness.scorer(kpi), judge), "sealed": instrument.sealed,
            "out": str(self._scratch / f"rows-{number}.parquet"),
        }  # fmt: skip
        rows: list[Row] = []
        for message in self._ask(request):
            rows = decode(Path(message["file"]).read_bytes())
        check_complete(rows, kpi.id, task.ids, kpi.epochs)
        return rows

    def _calibration(self, task: Task, judge: SeatedJudge) -> Calibration | None:
        if not judge.cases:
            return None
        instrument, kpi = task.instrument, task.instrument.kpi
        if judge.cases[0]["kind"] == "pair":
            raise SpecError(
                f"`{kpi.id}` grades single answers, `{judge.spec.name}` is calibrated on pairs", field="calibration",
                hint="label single answers: `input`, `answer`, `target`, `label`",
            )  # fmt: skip
        known = Calibrations(self._bench.answers.parent / "judges")
        files = {name: sha256(data) for name, data in instrument.files.items() if not name.startswith("calibration/")}
        more = {"task": kpi.task, "metric": kpi.metric, "files": files, "scorer": self._harness.scorer(kpi)}
        key = known.key(judge, more)
        found = known.get(key)
        if found is None:
            request = {
                "work": "calibrate", "kpi": kpi.model_dump(mode="json", include=_MEASURING), "judge": judge.plain(),
                "cases": list(judge.cases), "answers": self._answers(key),
            }  # fmt: skip
            for message in self._ask(request):
                found = calibrate(judge, message["values"], (), "rubric")
                known.put(key, found)
        return found

    def _ask(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for message in self._child.ask(request):
            if message["type"] != "spent":
                yield message
                continue
            try:
                self._bench.spend(message["tokens"], message["judge_calls"])
            except BaseException:
                self._child.close()  # it would go on asking
                raise

    def _answers(self, digest: str) -> str:
        self._bench.answers.mkdir(parents=True, exist_ok=True)
        return str(self._bench.answers / f"{digest.removeprefix('sha256:')}.jsonl")

    def judgement(self, kpi: str) -> Judgement | None:
        """Return how the judge of a KPI stands, once its rows were yielded; None where no judge scores it."""
        return self._standings[kpi].judgement() if kpi in self._standings else None

    def close(self) -> None:
        """End the child."""
        self._child.close()


def plain_target(target: WeightsTarget | EndpointTarget) -> dict[str, Any]:
    """Return a target as a child takes it; an endpoint's holds its key."""
    if isinstance(target, EndpointTarget):
        return target.plain()
    return {"folder": str(target.folder), "random_seed": target.random_seed, "system_prompt": target.system_prompt}


def task_files(kpi: Kpi, suite: Path) -> dict[str, bytes]:
    """Return the task's file, what lies in its folder, and its data: all that a run of it may read.

    Of a task that lies beside the suite file, only its own file is taken.

    Raises:
        NotFound: no such file.
        SpecError: the task lies outside of the suite's folder.
    """
    root = suite.parent
    path = root / kpi.task.partition("@")[0]
    if not path.is_file():
        raise NotFound(f"no task file `{path}`", hint="`task` is `path.py@name`, relative to the suite file")
    found = {path, *((root / kpi.data,) if kpi.data else ())}
    if path.parent.resolve() != root.resolve():
        found |= set(_readable(path.parent))
    try:
        return {_inside(each, root): each.read_bytes() for each in sorted(found)}
    except FileNotFoundError as error:
        raise NotFound(f"no data file `{error.filename}`", hint="paths are relative to the suite file") from None
    except ValueError:
        raise SpecError(f"`{kpi.task}` lies outside the suite's folder", file=str(suite), field="task",
                        hint="keep tasks and data beside the suite file") from None  # fmt: skip


def _inside(path: Path, root: Path) -> str:
    """Return a path relative to the suite's folder. Raises ValueError for one that leads out of it."""
    return Path(os.path.normpath(path)).relative_to(os.path.normpath(root)).as_posix()


def _readable(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for name in names:
            if Path(name).suffix in _READ or name == "Dockerfile":
                yield Path(place) / name


def _marks(sample: Sample) -> dict[str, str]:
    return {"cluster": sample.cluster, "slices": json.dumps(dict(sample.slices)) if sample.slices else ""}


def _plan(ws: Workspace, kpi: dict[str, Any], files: dict[str, bytes], kept: Path) -> list[Sample]:
    with tempfile.TemporaryDirectory(dir=ws.work("evals"), prefix="plan-") as name:
        folder = Path(name) / "suite"
        for path, data in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        out = Path(name) / "plan.json"
        request = {"folder": str(folder), "kpi": kpi, "out": str(out)}
        for message in run_child("evals.children.plan_inspect", request, scratch=Path(name), progress=silent):
            log.debug("`%s` is planned: %s", kpi["id"], message["file"])
        data_ = out.read_bytes()
    part = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}")
    part.write_bytes(data_)
    part.replace(kept)
    return _samples(data_)


def _read_plan(kept: Path) -> list[Sample] | None:
    try:
        return _samples(kept.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # torn
        kept.unlink(missing_ok=True)
        return None


def _samples(data: bytes) -> list[Sample]:
    return [
        Sample(
            each["id"], each["cluster"], each["input"], each["target"], tuple(each["choices"]),
            tuple((field, value) for field, value in each["slices"]),
        )
        for each in json.loads(data)
    ]  # fmt: skip


@cache
def _code() -> dict[str, str]:
    return {name: sha256((_root() / name).read_bytes()) for name in _CODE}


def _root() -> Path:
    return Path(evals.__file__).parent
