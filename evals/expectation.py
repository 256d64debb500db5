"""What to expect of a KPI when a suite is planned: from earlier results, or from what the user says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from evals.results import KpiResults, Results
from evals.suite import Kpi, Noninferior, SuiteSpec, Superior
from registry.errors import SpecError, UnknownName


@dataclass(frozen=True, slots=True)
class Expectation:
    """What to expect of a KPI.

    `discordance` is the share of samples on which candidate and baseline will differ (0/1 metrics); `spread`, where
    given, replaces it by the standard deviation of one sample's difference (or value, for a floor), in units of the
    metric (of the baseline's mean for `scale: ratio`). `gain` is the true gain over the baseline, 0 for an equal model;
    `value` the candidate's true value (floor) or rate (max_rate; default a tenth of the limit). Clusters hold
    `cluster_size` samples with intra-cluster correlation `icc`.
    """

    discordance: float = 0.1
    spread: float | None = None
    gain: float = 0.0
    value: float | None = None
    cluster_size: float = 1.0
    icc: float = 0.0

    def variance(self, kpi: Kpi, effect: float) -> float | None:
        """Return the variance of one sample's difference if the true effect is `effect`; None where it is unknown."""
        if self.spread is not None:
            return self.spread**2
        if kpi.bounds != (0.0, 1.0) or scale_of(kpi) == "ratio":
            return None
        return max(self.discordance, abs(effect)) - effect**2


def scale_of(kpi: Kpi) -> str:
    """Return the scale of a KPI's rule: `absolute`, or `ratio` of the baseline."""
    return kpi.rule.scale if isinstance(kpi.rule, Noninferior | Superior) else "absolute"


def expectations(items: Sequence[str], default: Expectation, spec: SuiteSpec) -> dict[str, Expectation]:
    """Return what to expect of each KPI of a suite: `default`, and what `KPI:NAME=VALUE,...` says otherwise.

    Raises:
        UnknownName: no such KPI or name of a figure.
        SpecError: not of this form, or no number.
    """
    found = {kpi.id: default for kpi in spec.kpis}
    return overridden(found, items)


def overridden(found: Mapping[str, Expectation], items: Sequence[str]) -> dict[str, Expectation]:
    """Return expectations with what `KPI:NAME=VALUE,...` says put in their place. Raises as `expectations` does."""
    changed = dict(found)
    names = [field.name for field in fields(Expectation)]
    for item in items:
        kpi, _, said = item.partition(":")
        if kpi not in changed:
            raise UnknownName("KPI", kpi, changed)
        for part in said.split(","):
            name, _, value = part.strip().partition("=")
            if name not in names:
                raise UnknownName("figure", name, names)
            try:
                number = float(value)
            except ValueError:
                raise SpecError(f"`{part}` is no number", hint=f"write `{kpi}:{name}=0.05`") from None
            changed[kpi] = replace(changed[kpi], **{name: _checked(name, number)})
    return changed


def expectations_from(spec: SuiteSpec, candidate: Results, baseline: Results | None) -> dict[str, Expectation]:
    """Return what earlier results lead to expect of another candidate that is as good as its baseline.

    Discordance, spread and intra-cluster correlation are those of the pairs that both results hold; a KPI on the
    candidate alone expects its observed value. KPIs that are missing, or whose rows are errors, are left out.

    Args:
        spec: the suite.
        candidate: results of one model.
        baseline: results of another on the same samples; None where there was only one.
    """
    found = {}
    for kpi in spec.kpis:
        ours = _clean(candidate.kpis.get(kpi.id))
        theirs = _clean(baseline.kpis.get(kpi.id)) if baseline is not None else None
        if ours is not None and (theirs is not None or not kpi.needs_baseline):
            expected = _observed(kpi, ours, theirs if kpi.needs_baseline else None)
            if expected is not None:
                found[kpi.id] = expected
    return found


Columns = dict[str, tuple[float, float, str]]
"""By sample id: value, weight and cluster, epochs averaged."""


def _clean(rows: KpiResults | None) -> Columns | None:
    if rows is None or not len(rows.sample_ids) or bool((rows.errors != "").any()):
        return None
    ids, first, inverse, counts = np.unique(
        rows.sample_ids.astype(str), return_index=True, return_inverse=True, return_counts=True
    )
    values = np.bincount(inverse, weights=rows.values) / counts
    weights = np.bincount(inverse, weights=rows.weights) / counts
    clusters = rows.clusters[first].astype(str)
    return dict(zip(ids.tolist(), zip(values.tolist(), weights.tolist(), clusters.tolist(), strict=True), strict=True))


def _observed(kpi: Kpi, ours: Columns, theirs: Columns | None) -> Expectation | None:
    shared = [name for name in ours if theirs is None or name in theirs]
    if len(shared) < 2:
        return None
    values, weights = (np.array([ours[name][at] for name in shared]) for at in (0, 1))
    labels = [ours[name][2] or name for name in shared]
    mean = float(values.sum() / weights.sum())
    if theirs is None:
        residuals, unit = values - mean * weights, float(weights.mean())
    else:
        other = np.array([theirs[name][0] for name in shared])
        gain = kpi.sign * (values - other)
        scale = other if scale_of(kpi) == "ratio" else weights
        residuals, unit = gain - gain.sum() / scale.sum() * scale, float(scale.mean())
    icc, size = _correlation(residuals, labels)
    binary = kpi.bounds == (0.0, 1.0) and scale_of(kpi) == "absolute" and bool(np.isin(values, (0.0, 1.0)).all())
    spread = float(np.sqrt((residuals**2).sum() / (len(shared) - 1))) / abs(unit)
    return Expectation(
        discordance=float((residuals != 0).mean()) if theirs is None else float((values != other).mean()),
        spread=None if binary else spread,
        value=mean if theirs is None else None,
        cluster_size=size,
        icc=icc,
    )


def _correlation(residuals: Any, labels: Sequence[str]) -> tuple[float, float]:
    """Return the intra-cluster correlation of residuals (analysis of variance, Donner 1986) and Kish's cluster size.

    Without any cluster of two it is 0; a negative estimate is 0 as well.
    """
    _, owner, sizes = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    groups, total = len(sizes), len(residuals)
    size = float((sizes**2).sum() / total)
    if groups < 2 or groups == total:
        return 0.0, size
    means = np.bincount(owner, weights=residuals) / sizes
    between = float((sizes * (means - residuals.mean()) ** 2).sum()) / (groups - 1)
    within = float(((residuals - means[owner]) ** 2).sum()) / (total - groups)
    typical = (total - float((sizes**2).sum()) / total) / (groups - 1)
    if between + (typical - 1.0) * within <= 0.0 or not math.isfinite(within):
        return 0.0, size
    return min(1.0, max(0.0, (between - within) / (between + (typical - 1.0) * within))), size


def _checked(name: str, value: float) -> float:
    allowed = {"discordance": (0.0, 1.0), "icc": (0.0, 1.0), "spread": (0.0, math.inf), "cluster_size": (1.0, math.inf)}
    low, high = allowed.get(name, (-math.inf, math.inf))
    if not low <= value <= high or not math.isfinite(value):
        raise SpecError(f"`{name}={value:g}` is out of range", hint=f"between {low:g} and {high:g}")
    return value
