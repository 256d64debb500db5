"""Child process: measures KPIs with lm-eval, request after request; model and libraries are loaded once."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.api import metrics

from evals.cache import AnswerCache
from evals.children.link import Link, serve_session
from evals.children.lm_eval_builtin import METRICS, builtin_task
from evals.children.lm_eval_model import AskedModel, Backend
from evals.children.lm_eval_run import Loaded, Place, measure
from evals.children.lm_eval_scores import reader
from evals.samples import encode


class Measuring:
    """A session on one target: {target, identity, answers, out, suite}."""

    def __init__(self, opening: dict[str, Any], link: Link) -> None:
        self._link, self._out, self._suite = link, Path(opening["out"]), Path(opening["suite"])
        self._kpi, self._done, self._total = "", 0.0, 0
        self._loaded: dict[str, Loaded] = {}
        link.progress("loading model", 0, 1)
        backend = open_backend(opening["target"])
        answers = AnswerCache(Path(opening["answers"]), opening["identity"])
        self._model = AskedModel(backend, answers, tick=self._tick, spend=self._spend)
        link.progress("loading model", 1, 1)

    def answer(self, request: dict[str, Any]) -> None:
        """Measure each job of a request: {jobs}; send its rows as a file, and tokens as they are used."""
        for job in request["jobs"]:
            self._kpi = job["kpi"]
            rows = measure(self._model, self._load(job), job, self._expect)
            file = self._out / f"{secrets.token_hex(8)}.parquet"
            file.write_bytes(encode(rows))
            self._link.send("rows", kpi=job["kpi"], file=str(file))

    def _load(self, job: dict[str, Any]) -> Loaded:
        if job["task"] in METRICS:
            return load_builtin(job)
        if job["kpi"] not in self._loaded:
            from evals.children.lm_eval_files import load_files

            self._loaded[job["kpi"]] = load_files(self._suite, job)
        return self._loaded[job["kpi"]]

    def _expect(self, requests: int) -> None:
        self._done, self._total = 0.0, requests
        self._link.progress(self._kpi, 0, requests)

    def _tick(self, count: float) -> None:
        self._done += count
        self._link.progress(self._kpi, min(round(self._done), self._total), self._total)

    def _spend(self, tokens: int) -> None:
        self._link.send("spent", tokens=tokens)


def load_builtin(job: dict[str, Any]) -> Loaded:
    """Return a built-in task over the samples of a job."""
    task = builtin_task(job["task"], job["kpi"], job["samples"])
    metric = METRICS[job["task"]]
    places = {sample["id"]: Place(job["kpi"], number) for number, sample in enumerate(job["samples"])}
    aggregation = metrics.bits_per_byte if job["task"] == "bits_per_byte" else metrics.mean
    docs = list(task.eval_docs)
    return Loaded({job["kpi"]: task}, {job["kpi"]: docs}, places, metric, "none", reader(metric, aggregation))


def open_backend(target: dict[str, Any]) -> Backend:
    """Return what answers: {weights: {folder, random_seed}} or {endpoint: ...}."""
    if "weights" in target:
        from evals.children.weights import show_hidden
        from evals.children.weights.causal_lm import CausalLM

        model = CausalLM(Path(target["weights"]["folder"]), random_seed=target["weights"]["random_seed"])
        show_hidden()
        return model
    from evals.children.endpoint_lm import EndpointLM

    return EndpointLM(target["endpoint"])


def begin(opening: dict[str, Any], link: Link) -> Callable[[dict[str, Any]], None]:
    """Open a session."""
    return Measuring(opening, link).answer


if __name__ == "__main__":
    serve_session(begin)
