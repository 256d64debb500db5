"""Measure the KPIs of a suite on one model: what is already measured is taken from the cache, the rest is run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.cache import RowCache
from evals.harness.inspect import run_inspect
from evals.harness.lm_eval import run_lm_eval
from evals.instrument import Instrument
from evals.samples import Row, encode
from evals.targets import open_endpoint, open_weights, weights_identity
from registry.artifacts import remove_tree
from registry.errors import EngineFailure, SpecError
from registry.protocols import GuardedEndpoint, Progress
from registry.records import Asset, Candidate, EvalRun
from registry.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Model:
    """What is measured: a candidate's weights (or random ones in their place) and the endpoint that serves it.

    `served` identifies what answers at the endpoint; `control` is empty for a real candidate.
    """

    candidate: Candidate
    served: dict[str, Any]
    endpoint: GuardedEndpoint | None = None
    random_seed: int | None = None
    control: str = ""


def measure(
    ws: Workspace, suite: Asset, instruments: Sequence[Instrument], model: Model, *, actor: str, progress: Progress
) -> Asset:
    """Return the EvalRun of the instruments on the model; rows of each finished KPI survive a crash.

    Raises:
        SpecError: a KPI that no harness can run as it is written.
        EngineFailure: a guarded KPI without an endpoint, or a harness that failed.
    """
    _check(instruments, model)
    cache = RowCache(ws.work("evals", "rows"))
    rows: dict[str, list[Row]] = {}
    missing = []
    for instrument in instruments:
        known = cache.get(_key(instrument, model))
        if known is None:
            missing.append(instrument)
        else:
            rows[instrument.kpi.id] = [_renamed(row, instrument.kpi.id) for row in known]
    for instrument, found in _run(ws, suite, missing, model, progress):
        cache.put(_key(instrument, model), found)
        rows[instrument.kpi.id] = found
    return _register(ws, suite, instruments, model, rows, actor=actor)


def _run(
    ws: Workspace, suite: Asset, instruments: Sequence[Instrument], model: Model, progress: Progress
) -> Iterator[tuple[Instrument, list[Row]]]:
    weights = [each for each in instruments if each.kpi.harness == "lm-eval"]
    with tempfile.TemporaryDirectory(dir=ws.work("evals"), prefix="run-") as name:
        scratch = Path(name)
        if weights:
            with open_weights(ws, model.candidate, random_seed=model.random_seed) as target:
                yield from run_lm_eval(weights, target, scratch=scratch, progress=progress)
        guarded = [each for each in instruments if each.kpi.harness == "inspect"]
        if guarded and model.endpoint is not None:
            target_ = open_endpoint(model.endpoint, model.served)
            folder = ws.artifacts.checkout(suite.body["manifest"], scratch / "suite")
            try:
                for each in guarded:
                    answers = ws.work("evals", "answers") / f"{_key(each, model)}.jsonl"
                    found = run_inspect(each, target_, folder, answers=answers, scratch=scratch, progress=progress)
                    yield each, found
                    answers.unlink(missing_ok=True)  # the rows are stored once the caller asks for the next
            finally:
                remove_tree(folder)


def _check(instruments: Sequence[Instrument], model: Model) -> None:
    """Refuse what cannot be measured before anything costly starts."""
    for kpi in (instrument.kpi for instrument in instruments):
        if kpi.harness == "lm-eval" and kpi.endpoint == "guarded":
            raise SpecError(
                f"`{kpi.id}`: lm-eval measures weights", field="endpoint",
                hint="ask a guarded endpoint through an inspect task",
            )  # fmt: skip
        if kpi.harness == "inspect" and kpi.endpoint != "guarded":
            raise SpecError(
                f"`{kpi.id}`: an inspect task asks an endpoint", field="endpoint", hint="write `endpoint: guarded`"
            )
        if kpi.endpoint == "guarded" and model.endpoint is None:
            raise EngineFailure(
                f"`{kpi.id}` needs the guarded endpoint, and none is running",
                hint="serve the candidate under an evaluation permit; `hallmark eval run` does so",
            )


def _key(instrument: Instrument, model: Model) -> str:
    guarded = instrument.kpi.endpoint == "guarded"
    identity = model.served if guarded else weights_identity(model.candidate, model.random_seed)
    return RowCache.key(identity, instrument.digest)


def _renamed(row: Row, kpi: str) -> Row:
    """Return a cached row under the KPI's present name: the name is no part of the instrument."""
    return Row(row.sample_id, kpi, row.epoch, row.value, row.weight, row.cluster, row.error, row.detail)


def _register(
    ws: Workspace, suite: Asset, instruments: Sequence[Instrument], model: Model, rows: dict[str, list[Row]], *,
    actor: str,
) -> Asset:  # fmt: skip
    kpis = [instrument.kpi for instrument in instruments]
    guarded = any(kpi.endpoint == "guarded" for kpi in kpis)
    failed = {kpi.id: len({row.sample_id for row in rows[kpi.id] if row.error}) for kpi in kpis}
    record = EvalRun(
        candidate=model.candidate.id,
        suite=suite.id,
        instruments={each.kpi.id: each.digest for each in instruments},
        results=ws.artifacts.add_bytes(
            encode(row for kpi in kpis for row in rows[kpi.id]), "application/vnd.apache.parquet"
        ),
        planned={kpi.id: kpi.samples for kpi in kpis},
        completed={kpi.id: kpi.samples - failed[kpi.id] for kpi in kpis},
        errors=failed,
        target={kpi.id: kpi.endpoint for kpi in kpis},
        harness={kpi.id: kpi.harness for kpi in kpis},
        permit=model.endpoint.permit if guarded and model.endpoint is not None else "",
        control=model.control,
    )
    parents = [("candidate", model.candidate.id), ("suite", suite.id)]
    return ws.register(record, actor=actor, name=suite.name, parents=parents)
