"""The gate as a walk: suite, hold-out, evaluation look by look under a permit, the pure decision, and its record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from governance import differences, ledger, roles
from governance.case import FINAL, Case, load_suite, open_case
from governance.endpoints import Outside, open_endpoints
from registry.errors import NotYet
from registry.protocols import Progress, silent
from registry.records import Asset, GateDecision, plain
from registry.workspace import Workspace

if TYPE_CHECKING:
    from evals.contamination import Screening
    from evals.decision import Decision
    from evals.evaluate import Evaluation
    from evals.results import ControlResult, Results

Due = Mapping[str, int]


def run(
    ws: Workspace,
    candidate: Asset,
    suite_path: Path,
    *,
    baseline: str | None = None,
    actor: str | None = None,
    passphrase: bytes | None = None,
    announce: Callable[[Case], None] = lambda case: None,
    progress: Progress = silent,
) -> tuple[Asset, Decision]:
    """Evaluate look by look, controls included, until the verdict stands; return the recorded decision and its value.

    What an earlier run measured and looked at is taken up where it ended; a test that is over is repeated as it was.
    `announce` is told of a case that is about to be measured.

    Raises as `evaluate` and `decide` do.
    """
    case = open_case(ws, candidate, suite_path, baseline=baseline, actor=actor)
    known = recorded(ws, case)
    if known is not None:
        return known
    blocked = _blocked(ws, case)
    if blocked is not None:
        return blocked
    screening = _screen(ws, case, progress)
    if case.over:
        return _finish(ws, case, screening)
    announce(case)
    with _evaluations(ws, case, suite_path, passphrase, progress) as evaluations:
        _measure_controls(ws, case, suite_path, passphrase, progress)
        while True:
            due = case.due()
            for evaluation in evaluations:
                evaluation.measure(due)
            case, value, runs = _look(ws, case, due, screening)
            progress("looks", value.look, case.looks, value.verdict)
            if value.final or value.verdict == "INVALID" or case.over:
                break
        return _register(ws, case, value, runs), value


def evaluate(
    ws: Workspace,
    candidate: Asset,
    suite_path: Path,
    *,
    actor: str | None = None,
    passphrase: bytes | None = None,
    outside: Outside | None = None,
    progress: Progress = silent,
) -> list[Asset]:
    """Return the evaluation runs that together hold every sample of the suite, measuring what is missing.

    KPIs of the guarded endpoint are measured through one that this call starts under a permit and stops again.

    Raises:
        Refused: the actor may not evaluate.
        SpecError, NotFound, EngineFailure, Tampered, BudgetSpent: as the harnesses say.
    """
    from evals.evaluate import Evaluation, register_suite

    principal = roles.require(ws, "evaluate", candidate.id, actor)
    suite = register_suite(ws, suite_path, principal.name)
    spec = load_suite(suite_path)
    with ExitStack() as stack:
        endpoints = stack.enter_context(
            open_endpoints(ws, candidate, spec, suite.id, evaluator=principal.name, passphrase=passphrase,
                           outside=outside, progress=progress)
        )  # fmt: skip
        opened = Evaluation(ws, candidate.id, suite_path, actor=principal.name, endpoints=endpoints, progress=progress)
        return stack.enter_context(opened).measure()


def decide(
    ws: Workspace, candidate: Asset, suite_path: Path, *, baseline: str | None = None, actor: str | None = None
) -> tuple[Asset, Decision]:
    """Look once at stored results, as many as there are for everybody; return the recorded decision and its value.

    Raises:
        Refused: the actor may not decide.
        NotYet: the candidate, its opponents or the controls were not evaluated on this suite.
    """
    case = open_case(ws, candidate, suite_path, baseline=baseline, actor=actor)
    known = recorded(ws, case)
    if known is not None:
        return known
    blocked = _blocked(ws, case)
    if blocked is not None:
        return blocked
    due = _stored(ws, case)
    case, value, runs = _look(ws, case, due, _screen(ws, case))
    return _register(ws, case, value, runs), value


def recorded(ws: Workspace, case: Case) -> tuple[Asset, Decision] | None:
    """Return the decision that ended these very tests, or None: judged is judged."""
    import msgspec

    from evals.decision import Decision

    opponent = case.opponents.get("baseline")
    wanted = (case.candidate.id, case.suite.id, opponent.id if opponent else None)
    for found in reversed(ws.assets("decision")):
        if (found.body["candidate"], found.body["suite"], found.body["baseline"]) == wanted:
            value = msgspec.convert(found.body["report"], Decision)
            over = found.body["verdict"] in FINAL or (value.final and found.body["verdict"] == "INCONCLUSIVE")
            anchor = case.opponents.get("anchor")
            same = value.anchor == (anchor.id if anchor else None)
            return (found, value) if over and same else None
    return None


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
    lines = value.render_lines(previews=previews)
    differs = decision.body["differs"]
    return [lines[0], f"  differs from the baseline in: {', '.join(differs)}", *lines[1:]] if differs else lines


def replay(ws: Workspace, candidate: Asset, suite_path: Path, *, actor: str) -> tuple[Asset, Decision] | None:
    """Return the newest decision on a candidate under this very suite if it is PASS or FAIL, or None: judged is judged.

    Whom it was compared with does not matter: a baseline that has moved on since is no reason to judge again.
    """
    import msgspec

    from evals.decision import Decision
    from evals.evaluate import register_suite

    suite = register_suite(ws, suite_path, actor)
    for found in reversed(ws.assets("decision")):
        if (found.body["candidate"], found.body["suite"]) == (candidate.id, suite.id):
            return (found, msgspec.convert(found.body["report"], Decision)) if found.body["verdict"] in FINAL else None
    return None


def _blocked(ws: Workspace, case: Case) -> tuple[Asset, Decision] | None:
    """Return the INVALID decision on a case that may not be looked at: changed rules, or a hold-out that is spent."""
    from evals import gate
    from evals.results import Results

    size = case.spec.gate.max_candidates
    spent = case.spec.gate.budget == "family" and size is not None and case.standing.judged > size
    if not spent and not case.standing.conflicts:
        return None
    value = gate.decide(case.spec, Results(case.candidate.id, {}), None, controls={}, judged=case.standing.judged)
    baseline = case.opponents.get("baseline")
    reasons = case.standing.conflicts or tuple(reason for reason in value.reasons if "spent" in reason)
    value = replace(value, verdict="INVALID", kpis=(), reasons=reasons, baseline=baseline.id if baseline else None)
    return _register(ws, case, value, []), value


def _stored(ws: Workspace, case: Case) -> dict[str, int]:
    """Return the largest look for which every row is stored; raises NotYet where there is none."""
    problem: NotYet | None = None
    for number in range(case.looks, 0, -1):
        due = case.due(number)
        try:
            _read(ws, case, due)
        except NotYet as error:
            problem = error
        else:
            return due
    raise problem or NotYet("every planned look was taken", hint="run `hallmark gate show` to see what came out")


def _finish(ws: Workspace, case: Case, screening: Screening) -> tuple[Asset, Decision]:
    """Record the decision of a test whose last look is in the ledger, where a crash came between the two."""
    before = replace(case, standing=replace(case.standing, history=case.standing.history[:-1]))
    value, runs = _judge(ws, before, before.due(), screening)
    return _register(ws, case, value, runs), value


def _look(ws: Workspace, case: Case, due: Due, screening: Screening) -> tuple[Case, Decision, list[str]]:
    """Judge what is due, write the look into the ledger; return the case as it now stands, the value, and the runs."""
    value, runs = _judge(ws, case, due, screening)
    ledger.write(ws, case.candidate.id, case.suite, case.standing.tests, value, actor=case.evaluator)
    standing = replace(case.standing, history=(*case.standing.history, value))
    return replace(case, standing=standing), value, runs


def _judge(ws: Workspace, case: Case, due: Due, screening: Screening) -> tuple[Decision, list[str]]:
    from evals import gate

    results, controls, runs = _read(ws, case, due)
    hits = {kpi: len(found) for kpi, found in screening.contaminated.items()}
    candidate = results["candidate"]
    marked = {name: replace(rows, contaminated=hits.get(name, 0)) for name, rows in candidate.kpis.items()}
    value = gate.decide(
        case.spec,
        replace(candidate, kpis=marked),
        results.get("baseline"),
        anchor=results.get("anchor"),
        controls=controls,
        history=case.standing.history,
        judged=case.standing.judged,
    )
    return value, runs


def _read(ws: Workspace, case: Case, due: Due) -> tuple[dict[str, Results], dict[str, ControlResult], list[str]]:
    """Return the rows of candidate, opponents and controls, and the ids of the runs that hold them."""
    from evals.controls import read_controls
    from evals.reading import read

    cited: list[str] = []
    results = {}
    for role, asset in {"candidate": case.candidate, **case.opponents}.items():
        results[role], runs = read(ws, case.suite, case.instruments, asset.id, due)
        cited += [run.id for run in runs]
    controls, runs = read_controls(ws, case.suite, case.instruments, due)
    return results, controls, list(dict.fromkeys([*cited, *(run.id for run in runs)]))


def _screen(ws: Workspace, case: Case, progress: Progress = silent) -> Screening:
    from evals.contamination import screen_candidate

    return screen_candidate(ws, case.candidate, case.suite, case.instruments, progress=progress)


def _measure_controls(
    ws: Workspace, case: Case, suite_path: Path, passphrase: bytes | None, progress: Progress
) -> None:
    """Measure the controls on the whole plan, once for an instrument: every later candidate finds them there."""
    from evals.controls import evaluate_controls

    judged = {f"judge:{kpi.judge}" for kpi in case.spec.gating if kpi.judge}
    with open_endpoints(ws, case.candidate, case.spec, case.suite.id, evaluator=case.evaluator, passphrase=passphrase,
                        outside=None, progress=progress) as endpoints:  # fmt: skip
        asked = {name: each for name, each in endpoints.items() if name in judged}
        evaluate_controls(ws, case.candidate.id, suite_path, actor=case.evaluator, endpoints=asked, progress=progress)


@contextmanager
def _evaluations(
    ws: Workspace, case: Case, suite_path: Path, passphrase: bytes | None, progress: Progress
) -> Iterator[list[Evaluation]]:
    """Yield an open evaluation of the candidate and of each opponent; their endpoints start when they are asked."""
    from evals.evaluate import Evaluation

    with ExitStack() as stack:
        found = []
        for ident in dict.fromkeys([case.candidate.id, *(each.id for each in case.opponents.values())]):
            endpoints = stack.enter_context(
                open_endpoints(ws, ws.resolve(ident, "candidate"), case.spec, case.suite.id, evaluator=case.evaluator,
                               passphrase=passphrase, outside=None, progress=progress)
            )  # fmt: skip
            evaluation = Evaluation(ws, ident, suite_path, actor=case.evaluator, endpoints=endpoints, progress=progress)
            found.append(stack.enter_context(evaluation))
        yield found


def _register(ws: Workspace, case: Case, value: Decision, runs: list[str]) -> Asset:
    against = case.opponents.get("baseline")
    record = GateDecision(
        candidate=case.candidate.id,
        baseline=against.id if against else None,
        suite=case.suite.id,
        verdict=value.verdict,
        bootstrap=value.bootstrap,
        mode=case.spec.gate.mode,
        alpha=case.spec.gate.alpha,
        eval_runs=runs,
        differs=differences.parts(ws, case.candidate.id, against.id) if against else [],
        report=plain(value),
    )
    parents = [("candidate", case.candidate.id), ("suite", case.suite.id)]
    parents += [("baseline", against.id)] if against else []
    parents += [("evidence", ident) for ident in runs]
    return ws.register(record, actor=case.evaluator, name=case.candidate.name, parents=parents)
