"""The gate as a walk: suite, controls, evaluation under a permit, the pure decision, and its record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from governance import candidates, permits, roles
from governance.starting import StartingEndpoint
from registry import specs
from registry.errors import NotFound, NotYet
from registry.protocols import GuardedEndpoint, Progress, silent
from registry.records import Asset, GateDecision, plain
from registry.workspace import Workspace

if TYPE_CHECKING:
    from evals.decision import Decision
    from evals.suite import SuiteSpec


FINAL = ("PASS", "FAIL")


def run(
    ws: Workspace,
    candidate: Asset,
    suite_path: Path,
    *,
    baseline: str | None = None,
    actor: str | None = None,
    passphrase: bytes | None = None,
    progress: Progress = silent,
) -> tuple[Asset, Decision]:
    """Evaluate what is missing, controls included, and judge; return the recorded decision and its value.

    Raises as `evaluate` and `decide` do.
    """
    evaluate(ws, candidate, suite_path, actor=actor, passphrase=passphrase, progress=progress)
    from evals.controls import evaluate_controls

    name = roles.acting(ws, "evaluate", actor)
    evaluate_controls(ws, candidate.id, suite_path, actor=name, progress=progress)
    spec = specs.load(suite_path, _suite_spec())
    for opponent in _opponents(ws, spec, baseline).values():
        evaluate(ws, opponent, suite_path, actor=actor, passphrase=passphrase, progress=progress)
    return decide(ws, candidate, suite_path, baseline=baseline, actor=actor)


def evaluate(
    ws: Workspace,
    candidate: Asset,
    suite_path: Path,
    *,
    actor: str | None = None,
    passphrase: bytes | None = None,
    progress: Progress = silent,
) -> Asset:
    """Return the evaluation run of a candidate, measuring it first where there is none.

    KPIs of the guarded endpoint are measured through one that this call starts under a permit and stops again.

    Raises:
        Refused: the actor may not evaluate.
        SpecError, NotFound, EngineFailure, Tampered: as the harnesses say.
    """
    from evals import evaluate as room

    principal = roles.require(ws, "evaluate", candidate.id, actor)
    suite = room.register_suite(ws, suite_path, principal.name)
    known = room.find_run(ws, candidate.id, suite)
    if known is not None:
        return known
    spec = specs.load(suite_path, _suite_spec())
    guarded = any(kpi.endpoint == "guarded" for kpi in spec.kpis)
    opened = _guarded(ws, candidate, suite.id, principal.name, passphrase, progress) if guarded else nullcontext(None)
    with opened as endpoint:
        asked = {"guarded": endpoint} if endpoint else {}
        return room.evaluate(ws, candidate.id, suite_path, actor=principal.name, endpoints=asked, progress=progress)[-1]


def decide(
    ws: Workspace, candidate: Asset, suite_path: Path, *, baseline: str | None = None, actor: str | None = None
) -> tuple[Asset, Decision]:
    """Judge stored results; return the recorded decision and its value.

    Raises:
        Refused: the actor may not decide.
        NotYet: the candidate was not evaluated on this suite.
    """
    from evals import controls, gate, samples
    from evals.evaluate import find_run, open_suite

    principal = roles.require(ws, "decide", candidate.id, actor)
    spec = specs.load(suite_path, _suite_spec())
    suite, instruments = open_suite(ws, suite_path, principal.name)
    measured = find_run(ws, candidate.id, suite)
    if measured is None:
        raise NotYet("this candidate was not evaluated on this suite", hint="run `hallmark gate run` instead")
    opponents = _opponents(ws, spec, baseline)
    runs = {role: find_run(ws, opponent.id, suite) for role, opponent in opponents.items()}
    for role, found in runs.items():
        if found is None:
            raise NotYet(f"the {role} was not evaluated on this suite", hint="run `hallmark gate run` instead")
    results = {role: samples.read_results(ws, found.id) for role, found in runs.items() if found}
    against = opponents.get("baseline")
    controlled, control_runs = controls.read_controls(ws, suite, instruments)
    decision = gate.decide(
        spec,
        samples.read_results(ws, measured.id),
        results.get("baseline"),
        anchor=results.get("anchor"),
        controls=controlled,
    )
    cited = [measured, *[found for found in runs.values() if found], *control_runs]
    record = GateDecision(
        candidate=candidate.id,
        baseline=against.id if against else None,
        suite=suite.id,
        verdict=decision.verdict,
        bootstrap=decision.bootstrap,
        mode=spec.gate.mode,
        alpha=spec.gate.alpha,
        eval_runs=list(dict.fromkeys(found.id for found in cited)),
        differs=candidates.difference(ws, candidate.id, against.id) if against else [],
        report=plain(decision),
    )
    parents = [("candidate", candidate.id), ("suite", suite.id)]
    parents += [("baseline", against.id)] if against else []
    parents += [("evidence", ident) for ident in record.eval_runs]
    return ws.register(record, actor=principal.name, name=candidate.name, parents=parents), decision


def render(ws: Workspace, decision: Asset, value: Decision) -> list[str]:
    """Return a decision as lines for people, each worst sample with the beginning of what was asked."""
    import orjson

    wanted = [item.sample_id for kpi in value.kpis for item in kpi.worst]
    rows = ws.store.query(
        "SELECT DISTINCT sample_id, detail FROM sample_result"
        " WHERE list_contains(?, eval_run) AND list_contains(?, sample_id)",
        [list(decision.body["eval_runs"]), wanted],
    )
    previews = {row["sample_id"]: str(orjson.loads(row["detail"] or "{}").get("input", "")) for row in rows}
    return value.render_lines(previews=previews)


def replay(ws: Workspace, candidate: Asset, suite_path: Path, *, actor: str) -> tuple[Asset, Decision] | None:
    """Return the newest conclusive decision on a candidate and this very suite, or None: judged is judged."""
    import msgspec

    from evals.decision import Decision
    from evals.evaluate import register_suite

    suite = register_suite(ws, suite_path, actor)
    for found in reversed(ws.assets("decision")):
        if (found.body["candidate"], found.body["suite"]) == (candidate.id, suite.id):
            return (found, msgspec.convert(found.body["report"], Decision)) if found.body["verdict"] in FINAL else None
    return None


def _opponents(ws: Workspace, spec: SuiteSpec, named: str | None) -> dict[str, Asset]:
    """Return the candidates to compare with: `baseline`, and `anchor` where the suite names one."""
    found = {"baseline": baseline_of(ws, spec, named)}
    if spec.baseline and spec.baseline.anchor:
        found["anchor"] = baseline_of(ws, spec, spec.baseline.anchor)
    return {role: asset for role, asset in found.items() if asset}


def baseline_of(ws: Workspace, spec: SuiteSpec, named: str | None) -> Asset | None:
    """Return the candidate to compare with: the one named, else what the suite's baseline alias points at, else None.

    Raises NotFound when a baseline was named and is not there; a suite's alias that was never promoted is None.
    """
    ref = named or (spec.baseline.ref if spec.baseline else "")
    if not ref:
        return None
    try:
        return ws.resolve(ws.release(ref).candidate, "candidate")
    except NotFound:
        if not named:
            return None
    return candidates.existing_candidate(ws, ref)


@contextmanager
def _guarded(
    ws: Workspace, candidate: Asset, suite: str, evaluator: str, passphrase: bytes | None, progress: Progress
) -> Iterator[GuardedEndpoint]:
    from policies.serve import Endpoint

    permit = permits.issue(ws, candidate.id, suite, actor=evaluator, passphrase=passphrase)
    endpoint = StartingEndpoint(lambda: Endpoint.start(ws, permit=permit, progress=progress))
    endpoint.begin()
    try:
        yield endpoint
    finally:
        endpoint.close()


def _suite_spec() -> Any:
    from evals.suite import SuiteSpec

    return SuiteSpec
