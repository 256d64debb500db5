"""Answers scored by a judge: compared with a reference, or held against a rubric, in both orders."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import evals
from evals.harness.conversation import Conversation
from evals.harness.inspect import plain_target
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
from evals.harness.tasks import Document, choose
from evals.judge import Mode
from evals.kpi import Kpi
from evals.loaders import kept_files, load_documents
from evals.results import Judgement
from evals.samples import Row, Sample, check_complete, decode, sample_id
from registry.errors import SpecError
from registry.records import sha256
from registry.workspace import Workspace

RUBRIC = ("rubric",)
"""The `choices` of a sample whose target is a rubric."""
_CODE = ("judge.py", "children/judge.py", "children/generator.py", "harness/provider.py")


class Judged:
    """The harness `judge`: rows of `data` hold `input` and either `target`, a good answer, or `rubric`.

    The KPI's `task` says in words what counts. A value is the mean over both orders of the texts: against a reference
    1 for a win, 0.5 for a tie, 0 for a loss; by a rubric 1 for yes, 0.5 for partly, 0 for no.
    """

    def plan(self, ws: Workspace, kpi: Kpi, suite: Path) -> Planned:
        """Return the samples in the KPI's data and its judge's files.

        Raises: as `evals.loaders.load_documents` and `evals.judge.judge_of` do; SpecError also for a row with neither
        `target` nor `rubric`, for rows of both kinds, and for fewer rows than planned.
        """
        documents, dataset, sealed = load_documents(ws, kpi, suite)
        found = [_sample(document, kpi) for document in documents]
        if len({sample.choices for sample in found}) > 1:
            raise SpecError(f"`{kpi.id}` mixes `target` and `rubric`", field="data", hint="make two KPIs of it")
        samples = choose(found, kpi.samples)
        if len(samples) < kpi.samples:
            raise SpecError(
                f"`{kpi.id}` plans {kpi.samples} samples, its data `{kpi.data}` gives {len(samples)}", file=str(suite),
                field="samples", hint="plan fewer samples or give it more data",
            )  # fmt: skip
        files = {**kept_files(ws, kpi, samples, suite), **judge_files(ws, kpi, suite)}
        return Planned(tuple(samples), files, dataset, sealed)

    def scorer(self, kpi: Kpi) -> dict[str, Any]:
        """Return the digests of our code; the judge itself is in the plan's files."""
        return {"harness": f"judge; httpx=={version('httpx')}", "code": _code()}

    def open(self, bench: Bench) -> JudgedSession:
        """Return a session; its child starts with the first task."""
        return JudgedSession(self, bench)


class JudgedSession:
    """One child process that asks the candidate and the judges for all tasks and looks on one bench."""

    def __init__(self, harness: Judged, bench: Bench) -> None:
        self._harness, self._bench = harness, bench
        self._scratch = Path(tempfile.mkdtemp(dir=bench.scratch, prefix="judge-"))
        opening = {"target": plain_target(bench.target), "identity": bench.target.identity}
        self._child = Conversation("evals.children.judge", opening, scratch=self._scratch, progress=bench.progress)
        self._standings: dict[str, Standing] = {}

    def measure(self, tasks: Sequence[Task]) -> Iterator[tuple[str, list[Row]]]:
        """Yield (KPI id, rows) as each task is finished; see `evals.harness.protocol.Session`.

        A judge that times out or gives no verdict makes a row with an error; one that fails time after time ends the
        run, whose answers are kept. The first time that a KPI is measured its
        judge also answers the labelled cases, unless it did so before.
        """
        for number, task in enumerate(tasks):
            kpi = task.instrument.kpi
            judge = seat(kpi, self._bench.suite, self._bench.judges)
            if judge is None:
                raise SpecError(f"`{kpi.id}` names no judge", field="judge", hint="name one of the suite's `judges`")
            if kpi.id not in self._standings:
                self._standings[kpi.id] = Standing(judge, self._calibration(task, judge))
            rows = self._measure(task, judge, number)
            self._standings[kpi.id].add(rows)
            yield kpi.id, rows

    def _measure(self, task: Task, judge: SeatedJudge, number: int) -> list[Row]:
        instrument, kpi = task.instrument, task.instrument.kpi
        planned = {sample.id: sample for sample in instrument.samples}
        request = {
            "work": "measure", "kpi": _asked(kpi), "samples": [planned[name].plain() for name in task.ids],
            "mode": _mode(instrument.samples[0]), "judge": judge.plain(), "answers": self._answers(instrument.digest),
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
        kpi, mode = task.instrument.kpi, _mode(task.instrument.samples[0])
        if mode == "rubric" and judge.cases[0]["kind"] == "pair":
            raise SpecError(
                f"`{kpi.id}` is judged by rubric, `{judge.spec.name}` is calibrated on pairs", field="calibration",
                hint="label single answers: `input`, `answer`, `target` (the rubric), `label`",
            )  # fmt: skip
        known = Calibrations(self._bench.answers.parent / "judges")
        key = known.key(judge, {"mode": mode, "task": kpi.task, "scorer": self._harness.scorer(kpi)})
        found = known.get(key)
        if found is None:
            request = {"work": "calibrate", "kpi": _asked(kpi), "mode": mode, "judge": judge.plain(),
                       "cases": list(judge.cases), "answers": self._answers(key)}  # fmt: skip
            for message in self._ask(request):
                found = calibrate(judge, message["values"], message["swaps"], mode)
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
        """Return how the judge of a KPI stands, once its rows were yielded."""
        return self._standings[kpi].judgement() if kpi in self._standings else None

    def close(self) -> None:
        """End the child."""
        self._child.close()


def _sample(document: Document, kpi: Kpi) -> Sample:
    kinds = [name for name in ("target", "rubric") if isinstance(document.fields.get(name), str)]
    if len(kinds) != 1:
        cure = "`target` is a good answer to compare with, `rubric` says what a good answer holds"
        raise SpecError("a row needs `target` or `rubric`, one of them", field="data", hint=cure)
    target, choices = document.fields[kinds[0]], RUBRIC if kinds[0] == "rubric" else ()
    name = sample_id(document.text, target, choices)
    cluster = document.cluster(kpi.cluster) or name
    return Sample(name, cluster, document.text, target, choices, document.slices(kpi.slices))


def _mode(sample: Sample) -> Mode:
    return "rubric" if sample.choices == RUBRIC else "pair"


def _asked(kpi: Kpi) -> dict[str, Any]:
    return kpi.model_dump(mode="json", include={"id", "task", "epochs"})


@cache
def _code() -> dict[str, str]:
    root = Path(evals.__file__).parent
    return {name: sha256((root / name).read_bytes()) for name in _CODE}
