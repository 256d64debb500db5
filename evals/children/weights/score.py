"""Child process: lm-eval runs the built-in tasks on one model and writes each KPI's rows as they are finished."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from evals.children.link import Link, serve
from evals.children.weights.causal_lm import CausalLM
from evals.samples import Row, detail, encode
from registry.errors import EngineFailure

CHOICES = 4


def work(request: dict[str, Any], link: Link) -> None:
    """Measure each job of a request: {model, jobs: [{kpi, task, epochs, samples}], out}."""
    model = request["model"]
    counter = _Counter(link)
    link.progress("loading model", 0, 1)
    lm = CausalLM(Path(model["folder"]), random_seed=model["random_seed"], tick=counter.tick)
    link.progress("loading model", 1, 1)
    for job in request["jobs"]:
        counter.start(job["kpi"], len(job["samples"]) * (2 * CHOICES if job["task"] == "next_line" else 1))
        rows = measure(lm, job)
        file = Path(request["out"]) / f"{job['kpi']}.parquet"
        file.write_bytes(encode(rows))
        link.send("rows", kpi=job["kpi"], file=str(file))


def measure(lm: LM, job: dict[str, Any]) -> list[Row]:
    """Run one KPI through lm-eval and return its rows, read from lm-eval's own per-sample log.

    Log-likelihoods and greedy answers do not vary, so each further epoch repeats the first.
    """
    task = ConfigurableTask(config=_config(job))
    task.set_config(key="num_fewshot", value=0)
    result = evaluate(lm, {"tasks": {job["kpi"]: task}}, bootstrap_iters=0, log_samples=True)
    if result is None:
        raise EngineFailure("lm-eval returned no result", hint="run the evaluation again")
    log = result["samples"][job["kpi"]]
    return [_row(entry, job, epoch) for entry in log for epoch in range(job["epochs"])]


def _config(job: dict[str, Any]) -> dict[str, Any]:
    """Return lm-eval's task configuration over the planned samples, without its index or any download."""
    rows = datasets.Dataset.from_list(job["samples"])
    return {
        "task": job["kpi"],
        "custom_dataset": lambda **_: {"test": rows},
        "test_split": "test",
        "target_delimiter": "",
        **_TASKS[job["task"]],
    }


_TASKS: dict[str, dict[str, Any]] = {
    "bits_per_byte": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": lambda doc: "",
        "doc_to_target": lambda doc: doc["input"],
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    },
    "next_line": {
        "output_type": "multiple_choice",
        "doc_to_text": lambda doc: doc["input"],
        "doc_to_target": lambda doc: int(doc["target"]),
        "doc_to_choice": lambda doc: list(doc["choices"]),
        "metric_list": [{"metric": "acc_mutual_info", "aggregation": "mean", "higher_is_better": True}],
    },
    "exact_match": {
        "output_type": "generate_until",
        "doc_to_text": lambda doc: doc["input"],
        "doc_to_target": lambda doc: doc["target"],
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 64},
        "process_results": lambda doc, results: {"exact_match": float(results[0].strip() == doc["target"].strip())},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


def _bits(entry: dict[str, Any]) -> tuple[float, float, dict[str, Any]]:
    nats, size = entry["bits_per_byte"]
    return -nats / math.log(2), float(size), {"bits_per_byte": round(-nats / math.log(2) / size, 4)}


def _choice(entry: dict[str, Any]) -> tuple[float, float, dict[str, Any]]:
    said = [response[0] for response in entry["filtered_resps"]]
    scores = [with_ - without for with_, without in zip(said[:CHOICES], said[CHOICES:], strict=True)]
    value = math.nan if any(map(math.isnan, scores)) else float(entry["acc_mutual_info"])
    chosen = entry["doc"]["choices"][scores.index(max(scores))]
    return value, 1.0, {"right": entry["doc"]["choices"][int(entry["doc"]["target"])].strip(), "said": chosen.strip()}


def _exact(entry: dict[str, Any]) -> tuple[float, float, dict[str, Any]]:
    return float(entry["exact_match"]), 1.0, {"right": entry["doc"]["target"], "said": entry["filtered_resps"][0]}


_VALUES: dict[str, Callable[[dict[str, Any]], tuple[float, float, dict[str, Any]]]] = {
    "bits_per_byte": _bits,
    "next_line": _choice,
    "exact_match": _exact,
}


def _row(entry: dict[str, Any], job: dict[str, Any], epoch: int) -> Row:
    sample = entry["doc"]
    value, weight, shown = _VALUES[job["task"]](entry)
    error = "" if math.isfinite(value) else "the model gives this text no finite probability"
    text = sample["input"]
    return Row(
        sample["id"], job["kpi"], epoch, value if not error else math.nan, weight, sample["cluster"], error,
        detail(input=text if job["task"] != "next_line" else text[-120:], **shown),
    )  # fmt: skip


class _Counter:
    """Turns finished requests into progress messages of the KPI at work."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._kpi, self._done, self._total = "", 0.0, 0

    def start(self, kpi: str, total: int) -> None:
        self._kpi, self._done, self._total = kpi, 0.0, total
        self._link.progress(kpi, 0, total)

    def tick(self, count: float) -> None:
        self._done += count
        self._link.progress(self._kpi, min(round(self._done), self._total), self._total)


if __name__ == "__main__":
    serve(work)
