"""Small suites and results for the gate's tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evals.gate import ControlResult, KpiResults, Results
from evals.suite import SuiteSpec

INSTRUMENT = "sha256:" + "a" * 64


def kpi(
    name: str = "accuracy", *, samples: int = 200, rule: dict[str, Any] | None = None, **fields: Any
) -> dict[str, Any]:
    rule = rule or {"type": "noninferior", "margin": 0.1}
    events = rule["type"] in ("max_rate", "zero_tolerance")
    entry = {
        "id": name,
        "harness": "inspect" if events else "lm-eval",
        "task": "tasks/policy.py@violations" if events else "exact_match",
        "data": "" if events else "data/cases.jsonl",
        "samples": samples,
        "direction": "lower" if events else "higher",
        "control": "planted_violator" if events else "null_model",
        "rule": rule,
    }
    return {**entry, **fields}


def suite(*kpis: dict[str, Any], **fields: Any) -> SuiteSpec:
    return SuiteSpec.model_validate(
        {
            "suite": "cases",
            "version": 1,
            "canary": "canary-0123456789",
            "gate": {"mode": "fixed"},
            "kpis": list(kpis),
            **fields,
        }
    )


def column(
    values: Sequence[float],
    *,
    ids: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    clusters: Sequence[str] | None = None,
    errors: Sequence[str] | None = None,
    epochs: Sequence[int] | None = None,
    instrument: str = INSTRUMENT,
    planned: int | None = None,
    **more: Any,
) -> KpiResults:
    n = len(values)
    names = [f"s{index:05d}" for index in range(n)] if ids is None else list(ids)
    return KpiResults(
        sample_ids=np.array(names, dtype=object),
        values=np.array(values, dtype=float),
        weights=np.ones(n) if weights is None else np.array(weights, dtype=float),
        clusters=np.array([""] * n if clusters is None else list(clusters), dtype=object),
        errors=np.array([""] * n if errors is None else list(errors), dtype=object),
        epochs=np.zeros(n, dtype=int) if epochs is None else np.array(epochs, dtype=int),
        instrument=instrument,
        planned=len(set(names)) if planned is None else planned,
        **more,
    )


def results(
    name: str, columns: Mapping[str, KpiResults] | None = None, **values: KpiResults | Sequence[float]
) -> Results:
    found = {key: item if isinstance(item, KpiResults) else column(item) for key, item in values.items()}
    return Results(name, {**(columns or {}), **found})


def controls(**values: KpiResults | Sequence[float]) -> dict[str, ControlResult]:
    """Both controls, with the same rows."""
    rows = results("control", **values)
    return {name: ControlResult(name, rows) for name in ("null_model", "planted_violator")}
