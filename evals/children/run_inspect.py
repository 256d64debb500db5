"""Child process: inspect-ai runs task files against a model; each log becomes rows. Alive over all looks of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai import eval as run
from inspect_ai.hooks import Hooks, SampleEnd, hooks
from inspect_ai.log import EvalLog
from inspect_ai.model import GenerateConfig, Model, get_model

import evals.children.provider  # noqa: F401 - registers the model API `hallmark`
from evals.children.inspect_cases import calibration_task, values_of
from evals.children.inspect_rows import rows_of
from evals.children.inspect_tasks import check_metric, check_sandbox, load_task, only
from evals.children.link import Link, serve_session
from evals.children.measured import Measured
from evals.harness.provider import Client
from evals.judge import MOST_TOKENS, PATIENCE, TEMPERATURE
from evals.samples import encode
from registry.errors import EngineFailure, SpecError

CONNECTIONS = 8
MOST_MESSAGES = 500
"""Of a sample whose task sets no limit of its own: a model that calls tools for ever comes to an end."""


@hooks(name="hallmark_progress", description="Counts the samples that are finished.")
class Finished(Hooks):  # type: ignore[misc]
    """Calls `tick` after each sample."""

    tick: Callable[[], None] | None = None

    async def on_sample_end(self, data: SampleEnd) -> None:
        """Count one sample."""
        if Finished.tick is not None:
            Finished.tick()


class Session:
    """One measured model over many KPIs.

    `opening` is {target, identity, suite, scratch}; `target` either names an endpoint or holds `folder`, the weights.
    """

    def __init__(self, opening: dict[str, Any], link: Link) -> None:
        self._opening, self._link = opening, link
        self._measured = Measured(opening, link)

    def answer(self, request: dict[str, Any]) -> None:
        """Do a request's work: `measure` or `calibrate`."""
        {"measure": self._measure, "calibrate": self._calibrate}[request["work"]](request)

    def _calibrate(self, request: dict[str, Any]) -> None:
        """Give the labelled cases of {kpi, judge, cases, answers} to the task's own scorer and send what it says.

        Raises EngineFailure where the judge fails: that says nothing about its judgement.
        """
        kpi, cases = request["kpi"], request["cases"]
        task = calibration_task(load_task(Path(self._opening["suite"]), kpi["task"]), kpi["metric"], cases)
        model, grader = get_model("hallmark/model", memoize=False, client=None), self._grader(request)
        with self._counting(f"{kpi['id']}: labelled cases", len(cases)):
            logs = self._run(task, model, grader, {**kpi, "epochs": 1, "sandbox": "none"})
        log = complete(logs, len(cases), kpi["id"])
        failed = next((sample.error for sample in log.samples or [] if sample.error is not None), None)
        if failed is not None:
            raise EngineFailure(
                f"`{kpi['id']}`: a labelled case failed: {failed.message.strip().splitlines()[0][:200]}",
                hint="is the judge's endpoint running? does the scorer need fields that the cases lack?",
            )
        self._link.send("calibrated", values=values_of(log, kpi["metric"], len(cases)))

    def _measure(self, request: dict[str, Any]) -> None:
        """Measure the KPI of {kpi, samples, answers, judge, scorer, sealed, out} and send its rows."""
        kpi = request["kpi"]
        task = load_task(Path(self._opening["suite"]), kpi["task"])
        check_metric(task, kpi["metric"])
        only(task, list(request["samples"]))
        check_sandbox(task, list(task.dataset), kpi["sandbox"])
        total = len(request["samples"]) * kpi["epochs"]
        client = self._measured.client(request["answers"])
        client.failed = self._give_up
        model = get_model("hallmark/model", memoize=False, client=client)
        grader = self._grader(request)
        with self._counting(kpi["id"], total):
            logs = self._run(task, model, grader, kpi)
        for asked in (client, grader.api.client):
            if asked is not None and asked.failure is not None:  # it is gone: the run can go on where it stopped
                raise asked.failure
        if grader.api.refused:
            raise SpecError(
                f"the task of `{kpi['id']}` asks a grader, and the KPI names no `judge`", field="judge",
                hint="add a judge to the suite's `judges` and name it in the KPI",
            )  # fmt: skip
        rows = rows_of(complete(logs, total, kpi["id"]), request, model.api.costs)
        Path(request["out"]).write_bytes(encode(rows))
        self._link.send("rows", kpi=kpi["id"], file=request["out"])

    @contextmanager
    def _counting(self, stage: str, total: int) -> Iterator[None]:
        """Report each finished sample while it lasts."""
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            self._link.progress(stage, min(done, total), total)

        self._link.progress(stage, 0, total)
        Finished.tick = tick
        try:
            yield
        finally:
            Finished.tick = None

    def _run(self, task: Task, model: Model, grader: Model, kpi: dict[str, Any]) -> list[EvalLog]:
        """Run the task on our model, whatever model it names itself; a sample's error is kept in its log."""
        if task.message_limit is task.token_limit is task.time_limit is task.working_limit is None:
            task.message_limit = MOST_MESSAGES
        task.model = None
        task.model_roles = {**(task.model_roles or {}), "grader": grader}
        sandbox = kpi["sandbox"] if kpi["sandbox"] != "none" and task.sandbox is None else None
        logs: list[EvalLog] = run(
            task, model=model, model_roles={"grader": grader}, epochs=kpi["epochs"], sandbox=sandbox,
            fail_on_error=False, retry_on_error=0, display="none", score_display=False, log_realtime=False,
            log_level="error", log_dir=str(Path(self._opening["scratch"]) / "inspect"), log_images=False,
            max_connections=CONNECTIONS, max_samples=CONNECTIONS, ctl_server=False, acp_server=False,
        )  # fmt: skip
        return logs

    def _give_up(self, error: EngineFailure) -> None:
        """Tell the parent at once, which then ends this process: inspect-ai would go on to the last sample."""
        self._link.send("failure", error=type(error).__name__, message=error.message, hint=error.hint)

    def _grader(self, request: dict[str, Any]) -> Model:
        """Return the judge of a KPI, or a model that refuses where it has none: a candidate never grades itself."""
        judge = request["judge"]
        if judge is None:
            return get_model("hallmark/grader", memoize=False, client=None)
        client = Client.resuming(
            judge["target"], request["answers"] + ".judge", {"judge": judge["digest"]}, timeout=judge["timeout_s"],
            patience=PATIENCE,
        )  # fmt: skip
        client.spent = lambda tokens: self._link.send("spent", tokens=tokens, judge_calls=1)
        client.failed = self._give_up
        config = GenerateConfig(temperature=TEMPERATURE, max_tokens=MOST_TOKENS)
        return get_model("hallmark/grader", memoize=False, client=client, config=config)


def complete(logs: list[EvalLog], total: int, kpi: str) -> EvalLog:
    """Return the one log of a run that ended well and holds every sample.

    Raises EngineFailure: the run did not succeed, or samples are missing from its log.
    """
    log = logs[0] if logs else None
    if log is None or log.status != "success":
        why = log.error.message.strip().splitlines()[-1][:300] if log and log.error else "it did not finish"
        raise EngineFailure(f"`{kpi}`: {why}", hint="answers so far are kept; run the evaluation again")
    samples = log.samples or []
    failed = sum(sample.error is not None for sample in samples)
    completed = log.results.completed_samples if log.results is not None else 0  # none where every sample failed
    if len(samples) != total or completed + failed != total:
        raise EngineFailure(
            f"`{kpi}`: {total} samples were planned, {completed} completed and {failed} failed",
            hint="run the evaluation again",
        )
    return log


if __name__ == "__main__":
    serve_session(lambda opening, link: Session(opening, link).answer)
