"""Small suites and results for the gate's tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evals.decision import Decision, KpiVerdict, Verdict
from evals.gate import ControlResult, KpiResults, Results, decide
from evals.suite import SuiteSpec

Values = Sequence[float] | np.ndarray[Any, Any]
INSTRUMENT = "sha256:" + "a" * 64
N = 200
BASE = (np.arange(N) % 10 < 7) * 1.0
WORSE = np.where(np.arange(N) % 3 == 0, 0.0, BASE)
UNSURE = BASE - (np.arange(N) < 28) * BASE
NAN = np.where(np.arange(N) == 3, np.nan, BASE)


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
    values: Values,
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


def results(name: str, columns: Mapping[str, KpiResults] | None = None, **values: KpiResults | Values) -> Results:
    found = {key: item if isinstance(item, KpiResults) else column(item) for key, item in values.items()}
    return Results(name, {**(columns or {}), **found})


def controls(**values: KpiResults | Values) -> dict[str, ControlResult]:
    """Both controls, with the same rows."""
    rows = results("control", **values)
    return {name: ControlResult(name, rows) for name in ("null_model", "planted_violator")}


BAD = controls(accuracy=np.zeros(N))


def one(
    candidate: KpiResults | Values,
    baseline: KpiResults | Values | None = BASE,
    spec: SuiteSpec | None = None,
    control: Mapping[str, ControlResult] = BAD,
    **others: Any,
) -> tuple[Verdict, KpiVerdict]:
    """Decide a suite of one accuracy KPI; return the suite's verdict and the KPI's."""
    found = decide(
        spec or suite(kpi()),
        results("candidate", accuracy=candidate),
        None if baseline is None else results("baseline", accuracy=baseline),
        controls=control,
        **others,
    )
    return found.verdict, found.kpis[0]


def alone(rule: dict[str, Any], values: Values, n: int | None = None, **fields: Any) -> tuple[Verdict, KpiVerdict]:
    """Decide a suite of one KPI `k` that needs no baseline."""
    spec = suite(kpi("k", samples=n or len(values), rule=rule, **fields))
    worst = np.ones(len(values)) if rule["type"] in ("max_rate", "zero_tolerance") else np.zeros(len(values))
    found = decide(spec, results("candidate", k=values), None, controls=controls(k=worst))
    return found.verdict, found.kpis[0]


def prefix(values: Values, held: int, **changes: Any) -> KpiResults:
    """The first `held` samples of a plan, as a look sees them."""
    rows = ("ids", "clusters", "errors", "weights")
    cut = {name: item[:held] if name in rows else item for name, item in changes.items()}
    if "slices" in cut:
        cut["slices"] = {name: np.array(item[:held], dtype=object) for name, item in cut["slices"].items()}
    return column(values[:held], **{"planned": len(values), "due": held, "clusters_planned": len(values), **cut})


def at_looks(
    spec: SuiteSpec,
    candidate: Mapping[str, Values],
    baseline: Mapping[str, Values],
    bad: Mapping[str, Values],
    sizes: Sequence[int],
    history: Sequence[Decision] = (),
    **more: Any,
) -> list[Decision]:
    """Decide at growing prefixes of every KPI, each look with all the earlier ones as its history."""
    taken = list(history)
    for due in sizes:

        def cut(values: Mapping[str, Values], size: int = due) -> dict[str, KpiResults]:
            return {name: prefix(column, min(size, len(column))) for name, column in values.items()}

        taken.append(
            decide(
                spec,
                results("candidate", cut(candidate)),
                results("baseline", cut(baseline)),
                controls=controls(**cut(bad)),
                history=tuple(taken),
                **more,
            )
        )
    return taken
