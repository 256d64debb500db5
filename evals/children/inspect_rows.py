"""An inspect-ai log as rows: one a sample and epoch, with what was said, what it cost, and why there is no number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.scorer import Score

from evals.children.provider import Cost, scope_of
from evals.samples import Row, detail
from registry.errors import SpecError

OUTPUT_CHARACTERS = 2000
_WORDS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


def rows_of(log: EvalLog, request: Mapping[str, Any], costs: Mapping[str, Cost]) -> list[Row]:
    """Return the rows of a complete log.

    Args:
        log: the log; its samples carry our ids.
        request: `kpi`, `samples` (id to cluster and slices), `scorer` (digest) and `sealed`.
        costs: what the answers of each sample cost, by scope.

    Raises SpecError where no sample has the score that the KPI reads.
    """
    metric = request["kpi"]["metric"]
    scored = [sample.scores for sample in log.samples if sample.error is None and sample.scores]
    if scored and not any(_reads(scores, metric) for scores in scored):
        known = sorted({name for scores in scored for name in _known(scores)})
        raise SpecError(f"the task gives no score `{metric}`", field="metric", hint=f"scores: {', '.join(known)}")
    return [_row(sample, request, costs.get(scope_of(str(sample.id), sample.epoch), Cost())) for sample in log.samples]


def _row(sample: EvalSample, request: Mapping[str, Any], cost: Cost) -> Row:
    kpi, planned = request["kpi"], request["samples"][str(sample.id)]
    value, error, note = value_of(sample, kpi["metric"])
    said = "\n".join((sample.output.metadata or {}).get("texts", [])) or sample.output.completion
    asked = sample.input if isinstance(sample.input, str) else "\n".join(message.text for message in sample.input)
    more = {"limit": sample.limit.type} if sample.limit else {}
    hidden = request["sealed"]
    return Row(
        str(sample.id), kpi["id"], sample.epoch - 1, value, 1.0, planned["cluster"], _clean(error),
        "{}" if hidden else detail(input=asked, said=said, note=note, **more), planned["slices"],
        "" if hidden else _clean(said[:OUTPUT_CHARACTERS]), cost.latency_ms, cost.prompt_tokens,
        cost.completion_tokens, request["scorer"],
    )  # fmt: skip


def value_of(sample: EvalSample, metric: str) -> tuple[float, str, str]:
    """Return the value the KPI reads, why there is none, and the scorer's own words."""
    if sample.error is not None:
        said = sample.error.message.strip().splitlines()
        return math.nan, (said[0] if said else "the sample failed")[:200], ""
    scores = sample.scores or {}
    score, key = _find(scores, metric)
    if score is None:
        return math.nan, f"no score `{metric}`; the task gives {', '.join(sorted(scores)) or 'none'}", ""
    note = score.explanation or ""
    raw = score.value
    if isinstance(raw, dict):
        if key not in raw:
            known = ", ".join(sorted(raw))
            return math.nan, f"the score has the values {known}: write `metric: scorer.key`", note
        raw = raw[key]
    elif key:
        return math.nan, f"the score has one value, no `{key}`", note
    value = number(raw)
    if not math.isfinite(value):
        reason = f" ({score.reason})" if score.reason else ""
        return math.nan, f"the scorer gave no number: {str(raw)[:40]}{reason}", note
    return value, "", note


def _reads(scores: Mapping[str, Score], metric: str) -> bool:
    score, key = _find(scores, metric)
    return score is not None and (key in score.value if isinstance(score.value, dict) else not key)


def _known(scores: Mapping[str, Score]) -> Iterator[str]:
    for name, score in scores.items():
        if isinstance(score.value, dict):
            yield from (f"{name}.{key}" for key in score.value)
        else:
            yield name


def _find(scores: Mapping[str, Score], metric: str) -> tuple[Score | None, str]:
    """Return the score that `metric` names, and the key in it: `scorer`, `scorer.key`, or `key` of the only score."""
    only = next(iter(scores.values())) if len(scores) == 1 else None
    if not metric:
        return only, ""
    if metric in scores:
        return scores[metric], ""
    name, _, key = metric.partition(".")
    if name in scores:
        return scores[name], key
    if only is not None and isinstance(only.value, dict) and metric in only.value:
        return only, metric
    return None, ""


def number(value: Any) -> float:
    """Return a score's value as a number, NaN where it is none: inspect-ai would take an unknown word for 0."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, str):
        if value in _WORDS or value.lower() in _WORDS:
            return _WORDS.get(value, _WORDS.get(value.lower(), math.nan))
        try:
            return float(value)
        except ValueError:
            return math.nan
    return math.nan


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
