"""lm-eval as a harness: built-in tasks and existing task YAML, on weights in process or over HTTP.

One child process holds the model and lm-eval for as long as the session lasts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import evals
from evals.harness.conversation import Conversation
from evals.harness.lm_eval_plan import exported, plan_file
from evals.harness.protocol import Bench, Planned, Task
from evals.harness.tasks import PLANS, choose
from evals.samples import Row, check_complete, decode
from evals.targets import WeightsTarget
from registry.errors import EngineFailure, SpecError
from registry.records import digest_of, sha256
from registry.workspace import Workspace

if TYPE_CHECKING:
    from evals.kpi import Kpi

_CODE = (
    "harness/tasks.py", "children/lm_eval_builtin.py", "children/lm_eval_data.py",
    "children/lm_eval_documents.py", "children/lm_eval_files.py", "children/lm_eval_model.py",
    "children/lm_eval_run.py", "children/lm_eval_scores.py",
)  # fmt: skip
"""The files of ours that turn a model's answers into numbers; a change of them is another instrument."""
_BACKENDS = {
    True: ("children/weights/causal_lm.py", "children/weights/generate.py", "children/weights/tokens.py"),
    False: ("children/endpoint_lm.py",),
}
"""The files of ours that ask: weights in process, or an endpoint."""


class LmEval:
    """lm-eval: a `Harness`."""

    def plan(self, ws: Workspace, kpi: Kpi, suite: Path) -> Planned:
        """Return a KPI's planned samples and files; see `evals.harness.protocol.Harness.plan`.

        A task file is planned in a child process, which enumerates its documents; the plan is kept and made again
        only when one of the files it was made from has changed.
        """
        if kpi.task not in PLANS:
            return plan_file(ws, kpi, suite, self.scorer(kpi))
        from evals.loaders import kept_files, load_documents

        documents, dataset, sealed = load_documents(ws, kpi, suite)
        samples = choose(PLANS[kpi.task](documents, kpi.cluster, kpi.slices), kpi.samples)
        if len(samples) < kpi.samples:
            raise SpecError(
                f"`{kpi.id}` plans {kpi.samples} samples, its data `{kpi.data}` gives {len(samples)}", file=str(suite),
                field="samples", hint="plan fewer samples or give it more data",
            )  # fmt: skip
        return Planned(tuple(samples), kept_files(ws, kpi, samples, suite), dataset, sealed)

    def scorer(self, kpi: Kpi) -> dict[str, Any]:
        """Return lm-eval's version and the digests of our code that asks and scores."""
        return _scorer(in_process=kpi.endpoint == "weights")

    def open(self, bench: Bench) -> LmSession:
        """Return a session; its child starts with the first task."""
        return LmSession(bench)


class LmSession:
    """lm-eval at work on one target: a `Session`."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._conversation: Conversation | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def measure(self, tasks: Sequence[Task]) -> Iterator[tuple[str, list[Row]]]:
        """Yield (KPI id, complete rows); see `evals.harness.protocol.Session.measure`.

        Answers are kept as they arrive: what was asked before a crash, or before the budget was used up, is not asked
        again.
        """
        waiting = {task.instrument.kpi.id: task for task in tasks if task.ids}
        if not waiting:
            return
        request = {"jobs": [_job(task) for task in waiting.values()]}
        for message in self._open(next(iter(waiting.values()))).ask(request):
            if message["type"] == "spent":
                self._spend(message["tokens"])
                continue
            file = Path(message["file"])
            rows = decode(file.read_bytes())
            file.unlink()
            task = waiting.pop(message["kpi"])
            check_complete(rows, message["kpi"], task.ids, task.instrument.kpi.epochs)
            yield message["kpi"], rows
        if waiting:
            raise EngineFailure(
                f"lm-eval gave no result for {', '.join(f'`{name}`' for name in waiting)}",
                hint="run the evaluation again",
            )  # fmt: skip

    def close(self) -> None:
        """End the child."""
        if self._conversation is not None:
            self._conversation.close()
            self._conversation = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _spend(self, tokens: int) -> None:
        try:
            self._bench.spend(tokens, 0)
        except BaseException:
            self.close()  # it would go on asking
            raise

    def _open(self, task: Task) -> Conversation:
        if self._conversation is None:
            self._folder = tempfile.TemporaryDirectory(dir=self._bench.scratch, prefix="rows-")
            self._bench.answers.mkdir(parents=True, exist_ok=True)
            scorer = _scorer(in_process=isinstance(self._bench.target, WeightsTarget))
            opening = {
                "target": _target(self._bench, task),
                "identity": {"target": self._bench.target.identity, "asked_by": scorer},
                "answers": str(self._bench.answers / "lm-eval.jsonl"),
                "out": self._folder.name,
                "suite": str(self._bench.suite),
            }
            self._conversation = Conversation(
                "evals.children.lm_eval_session", opening, scratch=self._bench.scratch, progress=self._bench.progress
            )
        return self._conversation


def _target(bench: Bench, task: Task) -> dict[str, Any]:
    """Return a target as its child opens it; it may hold a key."""
    if isinstance(bench.target, WeightsTarget):
        return {"weights": {"folder": str(bench.target.folder), "random_seed": bench.target.random_seed}}
    folder = bench.target.tokenizer
    more = {"guarded": task.instrument.kpi.endpoint == "guarded", "tokenizer": str(folder) if folder else None}
    return {"endpoint": {**bench.target.plain(), **more}}


def _job(task: Task) -> dict[str, Any]:
    """Return one KPI as the child measures it."""
    instrument, kpi = task.instrument, task.instrument.kpi
    samples = {sample.id: sample for sample in instrument.samples}
    # A task file brings its own text; only a built-in task is made of the samples.
    left_out = () if kpi.task in PLANS else ("input", "target", "choices")
    return {
        "kpi": kpi.id, "task": kpi.task, "metric": kpi.metric, "data": exported(kpi), "epochs": kpi.epochs,
        "samples": [
            {key: value for key, value in samples[name].plain().items() if key not in left_out} for name in task.ids
        ],
        "scorer": digest_of(LmEval().scorer(kpi)),
        "sealed": instrument.sealed,
    }  # fmt: skip


@cache
def _scorer(*, in_process: bool) -> dict[str, Any]:
    root = Path(evals.__file__).parent
    code = {name: sha256((root / name).read_bytes()) for name in (*_CODE, *_BACKENDS[in_process])}
    return {"harness": f"lm-eval=={version('lm-eval')}", "code": code}
