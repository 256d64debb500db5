"""The harnesses at work on one model: a session for each harness and target, opened when it is first needed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.budget import Meter, write_rate
from evals.constant import PLANTED
from evals.harness.protocol import Bench, Judging, Session, Task
from evals.instrument import Instrument, harness_of
from evals.results import Judgement
from evals.samples import Row, check_complete
from evals.scratch import claim_scratch
from evals.targets import (
    NULL_SEED,
    EndpointTarget,
    WeightsTarget,
    null_identity,
    open_endpoint,
    open_weights,
    served_identity,
    weights_identity,
    write_tokenizer,
)
from registry.artifacts import remove_tree
from registry.errors import EngineFailure
from registry.protocols import GuardedEndpoint, Progress
from registry.records import Asset, Candidate, digest_of
from registry.workspace import Workspace

if TYPE_CHECKING:
    from evals.kpi import Kpi

LARGE = 2 << 30
"""Bytes of weights from which on a model does not stay in memory between two looks."""
_SERVE = {
    "guarded": "serve the candidate under an evaluation permit; `hallmark eval run` does so",
    "vllm": "start the candidate's weights in vLLM; `hallmark eval run` does so",
    "url": "say which one: `hallmark eval run --url http://...`",
}


@dataclass(frozen=True, slots=True)
class Model:
    """What is measured: a candidate, or a control in its place, and the endpoints that serve it and the judges.

    `endpoints` has the keys `guarded`, `vllm`, `url` and `judge:<name>`. `control` is empty for a real candidate.
    """

    candidate: Candidate
    endpoints: Mapping[str, GuardedEndpoint] = field(default_factory=dict)
    control: str = ""

    def target(self, kpi: Kpi) -> str:
        """Return what a KPI is measured on: its endpoint, or the one that plays a planted violator.

        Weights say no planted text, so where they answer in words the violator's endpoint takes their place. The null
        model of a bare engine is random weights in process: what they say has log-probabilities.
        """
        if self.control == "null_model" and kpi.harness == "lm-eval" and kpi.endpoint in ("vllm", "url"):
            return "weights"
        words = kpi.endpoint == "weights" and kpi.task not in ("bits_per_byte", "next_line")
        return "guarded" if self.control == "planted_violator" and words else kpi.endpoint

    def identity(self, ws: Workspace, target: str, kpi: str = "") -> dict[str, Any]:
        """Return what decides the answers of a target; `kpi` is named where its endpoint is not there."""
        if target == "weights":
            null = null_identity(ws, self.candidate, NULL_SEED) if self.control else None
            return null or weights_identity(self.candidate)
        if self.control:
            return {"control": self.control, "answer": PLANTED if self.control == "planted_violator" else ""}
        match target:
            case "guarded":
                return {"candidate": self.candidate.id}
            case "vllm":
                return served_identity(self.candidate, "vllm")
            case _:
                endpoint = self.endpoint(target, kpi)
                return {"url": endpoint.base_url.rstrip("/"), "model": str(getattr(endpoint, "model", ""))}

    def endpoint(self, name: str, kpi: str = "") -> GuardedEndpoint:
        """Return an endpoint. Raises EngineFailure where it is not running."""
        found = self.endpoints.get(name)
        if found is None:
            who = f"`{kpi}` needs " if kpi else "this needs "
            cure = _SERVE.get(name, f"start the judge `{name.removeprefix('judge:')}`; `hallmark eval run` does so")
            what = "the guarded endpoint" if name == "guarded" else f"the endpoint `{name}`"
            raise EngineFailure(f"{who}{what}, and none is running", hint=cure)
        return found

    def check(self, instruments: Sequence[Instrument]) -> None:
        """Refuse what cannot be measured before anything costly starts."""
        for kpi in (instrument.kpi for instrument in instruments):
            target = self.target(kpi)
            if target != "weights":
                self.endpoint(target, kpi.id)
            if kpi.judge:
                self.endpoint(f"judge:{kpi.judge}", kpi.id)


class Sessions:
    """The sessions of one model on one suite. Use it as a context manager; `measure` may be called again and again.

    Answers are kept when it ends with an error, and removed once all rows are stored; those of a control that repeats
    sealed samples are always removed.
    """

    def __init__(
        self, ws: Workspace, suite: Asset, instruments: Sequence[Instrument], model: Model, *, meter: Meter,
        progress: Progress,
    ) -> None:  # fmt: skip
        self._ws, self._suite, self._model, self._meter = ws, suite, model, meter
        self._judged: dict[str, dict[str, str]] = {}
        for each in instruments:
            if each.kpi.judge:
                self._judged.setdefault(each.kpi.harness, {})[each.kpi.judge] = each.judge
        self._progress = _Timed(progress, meter)
        self._stack = ExitStack()
        self._open: dict[tuple[str, str], Session] = {}
        self._scratch: Path | None = None
        self._weights: WeightsTarget | None = None
        self._answers: list[Path] = []
        self._whole = True
        self._repeats = model.control != "" and any(each.sealed for each in instruments)
        self.judgements: dict[str, Judgement] = {}

    def __enter__(self) -> Sessions:
        """Return it; nothing is started yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the sessions; answers stay where an error ended them."""
        if (kind is None and self._whole) or self._repeats:
            self._stack.callback(self._forget)
        self._end()
        self._stack.close()

    def measure(self, tasks: Sequence[Task]) -> Iterator[tuple[Instrument, list[Row]]]:
        """Yield each instrument with the complete rows of its task as soon as they are there.

        Raises:
            EngineFailure: an endpoint that is not there, a harness that crashed, or rows that were not asked for.
            BudgetSpent: a budget of the suite is used up.
        """
        self._model.check([task.instrument for task in tasks])
        groups: dict[tuple[str, str], list[Task]] = {}
        for task in tasks:
            groups.setdefault((task.instrument.kpi.harness, self._model.target(task.instrument.kpi)), []).append(task)
        self._whole = False
        try:
            self._start(name for _, name in groups if name != "weights")
            for key in sorted(groups, key=lambda key: key[1] != "weights"):
                self._meter.check(judged=any(task.instrument.kpi.judge for task in groups[key]))
                yield from self._run(key, groups[key])
        except BaseException:
            self._end()  # a session may be in the middle of something
            raise
        self._whole = True
        if self._weights is not None and self._weights.size > LARGE:
            self._end()

    def _start(self, names: Iterable[str]) -> None:
        """Let endpoints start in the background, where they can, while weights are scored."""
        for name in names:
            begin = getattr(self._model.endpoint(name), "begin", None)
            if begin is not None:
                begin()

    def _run(self, key: tuple[str, str], tasks: Sequence[Task]) -> Iterator[tuple[Instrument, list[Row]]]:
        waiting = {task.instrument.kpi.id: task for task in tasks}
        if key not in self._open:
            self._open[key] = self._session(*key)
        session, began = self._open[key], time.monotonic()
        for name, rows in session.measure(tasks):
            task = waiting.pop(name, None)
            if task is None:
                raise EngineFailure(f"`{key[0]}` gave rows of `{name}`, which is not due", hint="mend the harness")
            check_complete(rows, name, task.ids, task.instrument.kpi.epochs)
            if isinstance(session, Judging) and (judgement := session.judgement(name)) is not None:
                self.judgements[name] = judgement
            yield task.instrument, rows
            now = time.monotonic()
            write_rate(self._ws, task.instrument.digest, (now - began) / len(task.ids))
            began = now
        if waiting:
            names = ", ".join(f"`{name}`" for name in waiting)
            raise EngineFailure(f"`{key[0]}` gave no result for {names}", hint="run the evaluation again")

    def _session(self, harness: str, name: str) -> Session:
        if self._scratch is None:
            self._scratch = self._stack.enter_context(claim_scratch(self._ws, "run"))
            self._ws.artifacts.checkout(self._suite.body["manifest"], self._scratch / "suite")
        target = self._target(name)
        answers = self._ws.work("evals", "answers", digest_of([harness, target.identity]).removeprefix("sha256:"))
        self._answers.append(answers)
        scratch = self._scratch / f"{harness}-{name}"
        scratch.mkdir(exist_ok=True)
        bench = Bench(
            target, self._scratch / "suite", answers, scratch, self._progress, self._judges(harness), self._meter.spend
        )
        return harness_of(harness).open(bench)

    def _target(self, name: str) -> WeightsTarget | EndpointTarget:
        identity = self._model.identity(self._ws, name)
        if name != "weights":
            opened = open_endpoint(self._model.endpoint(name), identity, anywhere=name == "url")
            if name != "vllm" or self._model.control or self._scratch is None:
                return opened
            folder = write_tokenizer(self._ws, self._model.candidate, self._scratch / "tokenizer")
            return replace(opened, tokenizer=folder)
        if self._weights is None:
            seed = NULL_SEED if self._model.control else None
            self._weights = self._stack.enter_context(open_weights(self._ws, self._model.candidate, random_seed=seed))
        return self._weights

    def _judges(self, harness: str) -> dict[str, EndpointTarget]:
        """Return the judges that the suite's KPIs of a harness name."""
        return {
            name: open_endpoint(self._model.endpoint(f"judge:{name}"), {"judge": digest}, anywhere=True)
            for name, digest in self._judged.get(harness, {}).items()
        }

    def _end(self) -> None:
        open_, self._open = self._open, {}
        for session in open_.values():
            session.close()

    def _forget(self) -> None:
        """Remove answers whose rows are stored."""
        for folder in dict.fromkeys(self._answers):
            remove_tree(folder)


class _Timed:
    """Progress that ends a run whose time is over, and says how many tokens a second it uses."""

    def __init__(self, progress: Progress, meter: Meter) -> None:
        self._progress, self._meter = progress, meter

    def __call__(self, stage: str, done: float, total: float | None = None, note: str = "") -> None:
        self._meter.check_time()
        rate = self._meter.rate
        self._progress(stage, done, total, note or (f"{rate:.0f} tokens/s" if rate else ""))


def stored(instrument: Instrument, rows: Sequence[Row]) -> list[Row]:
    """Return rows as they are stored: the KPI's present name, its clusters and slices, no text of sealed samples."""
    samples = {sample.id: sample for sample in instrument.samples}
    hidden: dict[str, Any] = {"detail": "{}", "output": ""} if instrument.sealed else {}
    slices = {name: json.dumps(dict(each.slices)) if each.slices else "" for name, each in samples.items()}
    return [
        replace(
            row,
            scorer=row.scorer or instrument.digest,
            kpi=instrument.kpi.id,
            cluster=samples[row.sample_id].cluster,
            slices=slices[row.sample_id],
            **hidden,
        )
        for row in rows
    ]
