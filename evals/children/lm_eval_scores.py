"""From lm-eval's value of one sample to a row's numerator and weight; metrics of a whole set are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lm_eval.api import metrics

from registry.errors import SpecError

Score = tuple[float, float]
"""Numerator and weight."""

SIZED = {metrics.bits_per_byte: 1 / math.log(2), metrics.weighted_perplexity: 1.0}
"""Aggregations over pairs of log-probability (nats) and size, and the factor from nats to the KPI's unit."""

_PROBES = ([0.0, 1.0, 1.0, 0.0, 1.0], [0.25, 0.5], [3.0, 4.0, 8.0])


def reader(name: str, aggregation: Callable[[Any], Any] | None) -> Callable[[Any], Score]:
    """Return what reads a metric's value of one sample.

    `bits_per_byte` gives bits and bytes, `word_perplexity` and `byte_perplexity` nats and their words or bytes, and
    `perplexity` nats: the KPI is then the logarithm of the perplexity, as a mean over samples is what can be tested.

    Raises:
        SpecError: the metric is no mean over samples.
    """
    if aggregation in SIZED:
        factor = SIZED[aggregation]
        return lambda value: (-float(value[0]) * factor, float(value[1]))
    if aggregation is metrics.perplexity:
        return lambda value: (-float(value), 1.0)
    if aggregation is metrics.brier_score:
        return _brier
    if aggregation is None or aggregation in (metrics.mean, metrics.nanmean) or _averages(aggregation):
        return _scalar
    raise SpecError(
        f"`{name}` is defined over all samples at once, not as a mean over them", field="metric",
        hint="the gate compares sample by sample; choose a metric with `aggregation: mean`",
    )  # fmt: skip


def _scalar(value: Any) -> Score:
    if isinstance(value, bool | int | float) or getattr(value, "ndim", 1) == 0:
        return float(value), 1.0
    raise SpecError(
        f"the metric gives `{str(value)[:60]}` for a sample, not a number", field="metric",
        hint="choose a metric that gives one number a sample",
    )  # fmt: skip


def _brier(value: Any) -> Score:
    """Return the squared distance between the probabilities of the choices and the right one."""
    gold, probabilities = value
    return sum((float(p) - (place == int(gold))) ** 2 for place, p in enumerate(probabilities)), 1.0


def _averages(aggregation: Callable[[Any], Any]) -> bool:
    """Say whether a task's own aggregation is the mean of what it gets."""
    try:
        return all(math.isclose(float(aggregation(list(items))), sum(items) / len(items)) for items in _PROBES)
    except Exception:  # noqa: BLE001 - a task's own code, given what it may not expect: then it is no mean
        return False
