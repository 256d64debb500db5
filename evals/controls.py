"""Controls: models that must fail. A suite that a null model or a planted violator passes may not gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from evals.constant import PLANTED, ConstantEndpoint
from evals.evaluate import Evaluation, open_suite
from evals.reading import IMPORT, Shelf, collect, eval_runs
from evals.results import ControlResult
from registry.protocols import GuardedEndpoint, Progress, silent
from registry.records import Asset
from registry.workspace import Workspace

if TYPE_CHECKING:
    from evals.instrument import Instrument

CONTROLS = ("null_model", "planted_violator")
ANSWERS = {"null_model": "", "planted_violator": PLANTED}
"""What the endpoint of each control says to everything; the violator repeats the prompt as well."""


def evaluate_controls(
    ws: Workspace, candidate_id: str, suite_path: Path, *, actor: str, due: Mapping[str, int] | None = None,
    endpoints: Mapping[str, GuardedEndpoint] | None = None, progress: Progress = silent,
) -> list[Asset]:  # fmt: skip
    """Return EvalRuns that together hold the due samples of a control for every gating KPI of the suite.

    The null model has the candidate's architecture and tokenizer with random weights from a fixed seed, and says
    nothing where it is asked for words; the planted violator answers every prompt with secrets, past no guard. What
    was measured once for an instrument is reused, whichever candidate it was made for. Controls of KPIs whose results
    are imported have to be imported too.

    Args:
        ws: the workspace.
        candidate_id: the candidate whose architecture a new null model has.
        suite_path: the suite's YAML file.
        actor: the principal who evaluates.
        due: how many samples of each KPI, a prefix of the seeded order. None: all samples of all gating KPIs.
        endpoints: the judges, `judge:<name>`, where gating KPIs have one.
        progress: told per KPI.

    Raises: as `evals.evaluate.Evaluation.measure` does.
    """
    _, instruments = open_suite(ws, suite_path, actor)
    shelf = Shelf(ws)
    found: dict[str, Asset] = {}
    for control in CONTROLS:
        missing: dict[str, int] = {}
        for each, count in _wanted(instruments, control, due):
            runs = _chain(ws, shelf, control, each, count)
            if runs is not None and not _failed(shelf, runs, each, count):
                found |= {run.id: run for run in runs}
            elif each.kpi.harness != IMPORT:
                missing[each.kpi.id] = count
        if missing:
            with ExitStack() as stack:
                asked = _endpoints(control, endpoints or {}, stack)
                evaluation = stack.enter_context(
                    Evaluation(
                        ws, candidate_id, suite_path, actor=actor, endpoints=asked, control=control, progress=progress
                    )
                )
                found |= {run.id: run for run in evaluation.measure(missing)}
    return list(found.values())


def read_controls(
    ws: Workspace, suite: Asset, instruments: Sequence[Instrument], due: Mapping[str, int] | None = None
) -> tuple[dict[str, ControlResult], list[Asset]]:
    """Return what the gate takes as `controls`, and the EvalRuns it comes from: the due rows of each gating KPI.

    A KPI whose control is not measured so far, or not that far, is left out: the gate then says that it may not gate.
    """
    del suite  # a control counts for the instrument, in whichever suite it was measured
    shelf = Shelf(ws)
    results: dict[str, ControlResult] = {}
    cited: dict[str, Asset] = {}
    for control in CONTROLS:
        wanted = _wanted(instruments, control, due)
        runs = {each.kpi.id: _chain(ws, shelf, control, each, count) or [] for each, count in wanted}
        kept = {each.kpi.id: count for each, count in wanted if runs[each.kpi.id]}
        if kept:
            found, used = collect(shelf, runs, instruments, control, kept)
            results[control] = ControlResult(control, found)
            cited |= {run.id: run for run in used}
    return results, list(cited.values())


def _wanted(
    instruments: Sequence[Instrument], control: str, due: Mapping[str, int] | None
) -> list[tuple[Instrument, int]]:
    """Return the gating instruments of a control and how many of their samples are due."""
    gating = [each for each in instruments if each.kpi.gating and each.kpi.control == control]
    if due is None:
        return [(each, each.kpi.samples) for each in gating]
    return [(each, due[each.kpi.id]) for each in gating if each.kpi.id in due]


def _chain(ws: Workspace, shelf: Shelf, control: str, instrument: Instrument, count: int) -> list[Asset] | None:
    """Return the runs of one control model that hold the first `count` samples of an instrument, or None.

    Rows of two null models are never mixed: all runs are of the same candidate's. The newest such chain is taken.
    """
    chains: dict[str, list[Asset]] = {}
    for run in eval_runs(ws, "", control, instrument.digest):
        chains.setdefault(run.body["candidate"], []).append(run)
    for runs in reversed(chains.values()):
        found = shelf.due(runs, instrument, count)
        if not found.missing:
            return list(found.runs)
    return None


def _failed(shelf: Shelf, runs: Sequence[Asset], instrument: Instrument, count: int) -> bool:
    """Return whether some of the first `count` samples were measured with an error only: they are measured again."""
    sound = shelf.samples(runs, instrument)
    return any(sample.id not in sound for sample in instrument.samples[:count])


def _endpoints(control: str, given: Mapping[str, GuardedEndpoint], stack: ExitStack) -> dict[str, GuardedEndpoint]:
    """Return the judges as they are, and the control's own endpoint in the place of every other."""
    endpoint = ConstantEndpoint(ANSWERS[control], repeat_prompt=control == "planted_violator")
    stack.callback(endpoint.close)
    own = dict.fromkeys(("guarded", "vllm", "url"), endpoint)
    return {**{name: each for name, each in given.items() if name.startswith("judge:")}, **own}
