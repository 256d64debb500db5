"""Run chosen documents of an lm-eval task and make rows: lm-eval builds the requests, filters and scores."""

from __future__ import annotations

import copy
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.samplers import FirstNSampler
from lm_eval.api.task import Task

from evals.children.lm_eval_model import AskedModel, Reply
from evals.children.lm_eval_scores import Score
from evals.samples import Row, detail
from registry.errors import SpecError

FEWSHOT_SEED = 1234
"""lm-eval's own default."""
OUTPUT = 2000
"""Characters of an answer that a row keeps."""
NO_NUMBER = "the model gives this text no finite probability"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample is: the name of its task and the number of its document."""

    task: str
    number: int


@dataclass(slots=True)
class Loaded:
    """A KPI's tasks, ready to run: their documents, where each sample is, and which number of theirs is the KPI's."""

    tasks: dict[str, Task]
    docs: Mapping[str, Sequence[dict[str, Any]]]
    places: dict[str, Place]
    metric: str
    filter: str
    read: Callable[[Any], Score]
    built: dict[str, dict[int, list[Instance]]] = field(default_factory=dict)
    """Requests of all documents by task, where few-shot examples are drawn: a document's examples depend on the
    documents before it, so they must not depend on which of them are measured now."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What came of one document."""

    requests: list[Instance]
    scored: dict[str, Any]
    error: str
    costs: list[Reply]
    doc: dict[str, Any]
    task: Task


def measure(model: AskedModel, loaded: Loaded, job: dict[str, Any], expect: Callable[[int], None]) -> list[Row]:
    """Return the rows of a job: {kpi, samples, epochs, scorer, sealed}, each sample with id, cluster and slices.

    Answers that cannot vary are asked once; each further epoch repeats them at no cost.

    Args:
        model: what answers.
        loaded: the KPI's tasks.
        job: what to measure.
        expect: told how many requests each pass makes.
    """
    rows: list[Row] = []
    requests: dict[str, dict[int, list[Instance]]] = {}
    chosen: dict[str, list[int]] = defaultdict(list)
    for sample in job["samples"]:
        place = loaded.places.get(sample["id"])
        if place is None:
            raise SpecError(f"`{job['kpi']}` has no sample `{sample['id']}`", hint="plan the suite again")
        chosen[place.task].append(place.number)
    for name, numbers in chosen.items():
        requests[name] = build(loaded, name, sorted(numbers), model)
    total = sum(len(group) * (group[0].repeats or 1) for task in requests.values() for group in task.values())
    for epoch in range(job["epochs"]):
        if epoch and not any(_sampled(group) for task in requests.values() for group in task.values()):
            rows += [replace(row, epoch=epoch, latency_ms=0.0, prompt_tokens=0, completion_tokens=0)
                     for row in rows if row.epoch == 0]  # fmt: skip
            continue
        expect(total)
        model.epoch = epoch
        model.forget()
        entries = {name: run(model, loaded, name, requests[name]) for name in requests}
        for sample in job["samples"]:
            place = loaded.places[sample["id"]]
            rows.append(_row(entries[place.task][place.number], sample, loaded, job, epoch))
    return rows


def build(loaded: Loaded, name: str, numbers: list[int], model: AskedModel) -> dict[int, list[Instance]]:
    """Return lm-eval's requests of some documents, by document."""
    task = loaded.tasks[name]
    shots = task.config.num_fewshot or 0
    if not shots or isinstance(getattr(task, "sampler", None), FirstNSampler):
        return _built(task, loaded.docs[name], numbers, model)
    if name not in loaded.built:
        task.set_fewshot_seed(FEWSHOT_SEED)
        loaded.built[name] = _built(task, loaded.docs[name], range(len(loaded.docs[name])), model)
    return {number: loaded.built[name][number] for number in numbers}


def _built(
    task: Task, docs: Sequence[dict[str, Any]], numbers: Sequence[int], model: AskedModel
) -> dict[int, list[Instance]]:
    # lm-eval's own choice by `samples` looks each number up in a list, and numbers the chosen from 0.
    task.doc_iterator = lambda **_: ((number, docs[number]) for number in numbers)
    chat = bool((getattr(task.config, "metadata", None) or {}).get("apply_chat_template"))
    task.build_all_requests(
        apply_chat_template=chat, chat_template=model.apply_chat_template if chat else None,
        fewshot_as_multiturn=chat,
    )  # fmt: skip
    found: dict[int, list[Instance]] = defaultdict(list)
    for request in task.instances:
        found[request.doc_id].append(request)
    return found


def run(model: AskedModel, loaded: Loaded, name: str, groups: dict[int, list[Instance]]) -> dict[int, Entry]:
    """Ask, filter and score the requests of some documents, as lm-eval's `evaluate` does; return entries by number."""
    task = loaded.tasks[name]
    fresh = {number: [_fresh(request) for request in group] for number, group in groups.items()}
    task._instances = [request for group in fresh.values() for request in group]
    kinds: dict[str, list[Instance]] = defaultdict(list)
    for request in task._instances:
        kinds[request.request_type] += [request] * (request.repeats or 1)
    for kind, requests in kinds.items():
        for request, answer in zip(requests, getattr(model, kind)(requests), strict=True):
            request.resps.append(answer)
    task.apply_filters()
    return {
        number: _entry(model, loaded, task, loaded.docs[name][number], sorted(group, key=lambda request: request.idx))
        for number, group in fresh.items()
    }


def _entry(model: AskedModel, loaded: Loaded, task: Task, doc: dict[str, Any], group: list[Instance]) -> Entry:
    costs = [reply for request in group for reply in model.costs.get(id(request), [])]
    if any(_nan(reply.value) for reply in costs):
        return Entry(group, {}, NO_NUMBER, costs, doc, task)
    try:
        scored = task.process_results(doc, [request.filtered_resps[loaded.filter] for request in group])
    except Exception as error:  # noqa: BLE001 - the task's own code: its failure is this sample's error
        why = f"the task could not score this: {type(error).__name__}: {str(error)[:160]}"
        return Entry(group, {}, why, costs, doc, task)
    return Entry(group, scored, "", costs, doc, task)


def _row(entry: Entry, sample: dict[str, Any], loaded: Loaded, job: dict[str, Any], epoch: int) -> Row:
    value, weight, error = math.nan, 1.0, entry.error
    if not error and loaded.metric not in entry.scored:
        known = ", ".join(f"`{name}`" for name in entry.scored)
        raise SpecError(f"the task gives no `{loaded.metric}`", field="metric", hint=f"it gives {known or 'nothing'}")
    if not error:
        value, weight = loaded.read(entry.scored[loaded.metric])
        if not (math.isfinite(value) and math.isfinite(weight) and weight > 0):
            error = NO_NUMBER if entry.requests[0].request_type != "generate_until" else "the scorer gave no number"
    if error:
        value, weight = math.nan, 1.0
    said = spoken(entry, loaded.filter)
    shown = {} if job["sealed"] else _shown(entry, said, value, weight)
    return Row(
        sample_id=sample["id"], kpi=job["kpi"], epoch=epoch, value=value, weight=weight, cluster=sample["cluster"],
        error=error, detail=detail(**shown),
        slices=json.dumps(dict(sample["slices"]), ensure_ascii=False, sort_keys=True) if sample["slices"] else "",
        output="" if job["sealed"] else said[:OUTPUT].encode("utf-8", "replace").decode("utf-8"),
        latency_ms=sum(reply.latency_ms for reply in entry.costs),
        prompt_tokens=sum(reply.prompt_tokens for reply in entry.costs),
        completion_tokens=sum(reply.completion_tokens for reply in entry.costs), scorer=job["scorer"],
    )  # fmt: skip


def spoken(entry: Entry, filter_: str) -> str:
    """Return what the model said: its completion, or the choice it finds likeliest; empty for a text it only reads."""
    kind = entry.requests[0].request_type
    if kind == "generate_until":
        return str(entry.costs[0].value) if entry.costs else ""
    if kind == "loglikelihood" and len(entry.requests) > 1 and not entry.error:
        scores = [reply.value[0] for reply in entry.costs]
        half = len(scores) // 2
        if "acc_mutual_info" in entry.scored and len(entry.requests) == 2 * half:
            scores = [with_ - without for with_, without in zip(scores[:half], scores[half:], strict=True)]
        return str(entry.requests[scores.index(max(scores))].args[-1]).strip()
    return ""


def _shown(entry: Entry, said: str, value: float, weight: float) -> dict[str, Any]:
    """Return a row's detail: the end of what was asked, what is right and what was said."""
    first = entry.requests[0]
    if first.request_type == "loglikelihood_rolling":
        return {"input": first.args[0], "per_unit": round(value / weight, 4) if math.isfinite(value) else None}
    return {"input": str(first.args[0])[-120:], "right": _right(entry), "said": said}


def _right(entry: Entry) -> str:
    try:
        target = entry.task.doc_to_target(entry.doc)
        if isinstance(target, int) and entry.task.config.doc_to_choice is not None:
            return str(entry.task.doc_to_choice(entry.doc)[target]).strip()
    except Exception:  # noqa: BLE001 - the task's own code; the row is only shown without it
        return ""
    return str(target).strip()


def _fresh(request: Instance) -> Instance:
    """Return a request without answers."""
    again = copy.copy(request)
    again.resps, again.filtered_resps = [], {}
    return again


def _sampled(group: list[Instance]) -> bool:
    from evals.children.lm_eval_model import Question

    return any(Question(request.request_type, request.args).sampled for request in group)


def _nan(value: Any) -> bool:
    number = value[0] if isinstance(value, list) else value
    return isinstance(number, float) and math.isnan(number)
