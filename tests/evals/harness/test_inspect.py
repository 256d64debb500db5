"""inspect-ai task files as they stand: agents, scorers, limits, graders; never silently shorter, never asked twice."""

import json
import math
from pathlib import Path

import pytest

from evals.harness.inspect import Inspect
from evals.suite import SuiteSpec
from registry import specs
from registry.errors import BudgetSpent, EngineFailure, SpecError
from tests.evals.harness.inspect_cases import TASKS, asked_of, due, instrument, kpi, staged
from tests.stubs.openai_server import called, refused, said

pytestmark = pytest.mark.slow
QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """One child for the tests of this file; judges and the quickstart's task lie in its suite as well."""
    folder = tmp_path_factory.mktemp("inspect")
    suite = folder / "suite"
    (suite / "tasks").mkdir(parents=True)
    (suite / "tasks" / "cases.py").write_text(TASKS)
    (suite / "tasks" / "policy.py").write_bytes((QUICKSTART / "tasks" / "policy.py").read_bytes())
    cases = [
        {"kind": "grade", "question": f"case {n}", "texts": ["be good", "good" if n % 2 else "bad"],
         "label": "correct" if n % 2 else "incorrect", "metadata": {}}
        for n in range(24)
    ]  # fmt: skip
    write_judge(suite, "j", [])
    write_judge(suite, "slow", [], timeout_s=2.0)
    write_judge(suite, "lab", cases)
    write_judge(suite, "pairs", [{**cases[0], "kind": "pair", "label": "a"}])
    with staged(Inspect(), folder, suite) as made:
        yield made


@pytest.fixture(autouse=True)
def _reset(stage):
    """Each test begins with the answers of a new stage."""
    stage.reset()


@pytest.fixture(scope="module")
def policy(stage, tmp_path_factory):
    """The quickstart's policy KPI, planned as the engine plans it."""
    from registry.workspace import Workspace

    one = specs.load(QUICKSTART / "suite.yaml", SuiteSpec).kpi("policy_violations")
    ws = Workspace.create(tmp_path_factory.mktemp("ws") / "ws")
    plan = Inspect().plan(ws, one, QUICKSTART / "suite.yaml")
    ws.close()
    return lambda digest: instrument(one, plan.samples, digest=digest)


def write_judge(suite, name, cases, timeout_s=20.0):
    """Write a judge's two files as the suite's manifest would hold them."""
    for place, held in {
        "judges": {"identity": {"url": f"http://{name}/v1", "model": ""}, "template": ""},
        "calibration": {"min_kappa": 0.4, "timeout_s": timeout_s, "cases": cases},
    }.items():
        (suite / place).mkdir(exist_ok=True)
        (suite / place / f"{name}.json").write_text(json.dumps(held))


def forced(body):
    return body.get("structured_outputs", {}).get("choice", [None])[0]


def right(body, count):
    return said("right " + asked_of(body).split()[-1])


def test_a_guard_that_removes_and_blocks_passes_with_enough_samples_for_the_limit(stage, policy):
    def guarded(body, count):
        text = forced(body)
        if text and "nightjar" in text:
            return refused(400, "content_filter")
        return said("[REDACTED:token]" if text else "def main(): pass")

    stage.says = guarded
    rows = stage.rows(policy("guarded"))
    assert len(rows) == len(stage.endpoint.asked) == 72  # at zero events a limit of .05 needs 59
    assert sum(row.value for row in rows) == 0
    assert {row.error for row in rows} == {""}
    assert sum(forced(body) is not None for body in stage.endpoint.asked) == 24
    assert len({row.sample_id for row in rows}) == 72


@pytest.mark.parametrize("channel", ["content", "reasoning"])
def test_an_endpoint_that_says_what_it_is_made_to_say_fails_on_any_channel(stage, policy, channel):
    stage.says = lambda body, count: (
        said(forced(body) or "nothing") if channel == "content" else said("clean", reasoning=forced(body) or "nothing")
    )
    caught = [row for row in stage.rows(policy(channel)) if row.value == 1.0]
    assert len(caught) == 24
    assert all(name in "".join(row.detail for row in caught) for name in ("AWS", "GitHub", "blocked topic"))


def test_a_request_holds_what_the_task_sets_and_a_row_what_it_cost(stage):
    stage.says = right
    rows = stage.rows(instrument(kpi(), digest="plain"))
    assert [row.value for row in rows] == [1.0] * 4
    assert [row.cluster for row in rows] == ["t0", "t0", "t1", "t1"]
    assert all((row.prompt_tokens, row.completion_tokens) == (3, 2) and row.latency_ms > 0 for row in rows)
    assert [row.output for row in rows] == [f"right {n}" for n in range(4)]
    assert len({row.scorer for row in rows}) == 1
    body = stage.endpoint.asked[0]
    assert (body["max_tokens"], body["stop"], body["seed"]) == (7, ["!"], 3)
    assert "tools" not in body
    assert stage.told == [(5, 0)] * 4


def test_only_the_samples_that_are_due_are_asked(stage):
    stage.says = right
    of = instrument(kpi(), digest="looks")
    assert len(stage.rows(of, first=1)) == len(stage.endpoint.asked) == 1
    (_, rest), *_ = stage.session.measure([type(due(of))(of, due(of).ids[1:])])
    assert {row.sample_id for row in rest} == set(due(of).ids[1:])
    assert len(stage.endpoint.asked) == 4


def test_an_agent_calls_a_tool_gets_its_result_and_answers(stage):
    def agent(body, count):
        last = body["messages"][-1]
        if last["role"] != "tool":
            return called(("lookup", '{"key": "capital"}'))
        return called(("submit", json.dumps({"answer": last["content"]})))

    stage.says = agent
    rows = stage.rows(instrument(kpi("tasks/cases.py@agent", samples=1), one_question("capital?", "Paris")))
    assert [(row.value, row.error) for row in rows] == [(1.0, "")]
    first, second = stage.endpoint.asked[:2]
    offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in first["tools"]}
    assert offered["lookup"]["required"] == ["key"]
    assert first["tool_choice"] == "auto"
    assert second["messages"][-1]["content"] == "Paris"
    assert second["messages"][-1]["tool_call_id"] == "call_0"
    assert json.loads(second["messages"][-2]["tool_calls"][0]["function"]["arguments"]) == {"key": "capital"}
    assert rows[0].prompt_tokens == 3 * len(stage.endpoint.asked)


def test_arguments_that_do_not_parse_are_told_to_the_model(stage):
    def mends(body, count):
        if count == 1:
            return called(("lookup", '{"key": '))
        if "pars" in str(body["messages"][-1]["content"]).lower():
            return called(("lookup", '{"key": "capital"}'))
        return called(("submit", '{"answer": "Paris"}'))

    stage.says = mends
    of = instrument(kpi("tasks/cases.py@basic", samples=1), one_question("capital?", "Paris"), digest="parse")
    assert [(row.value, row.error) for row in stage.rows(of)] == [(1.0, "")]
    assert "Error" in stage.endpoint.asked[1]["messages"][-1]["content"]


def test_a_limit_of_the_task_ends_an_endless_agent(stage):
    stage.says = lambda body, count: called(("lookup", '{"key": "capital"}'))
    rows = stage.rows(instrument(kpi("tasks/cases.py@endless", samples=1), one_question("go on", "x")))
    assert [(row.value, row.error) for row in rows] == [(0.0, "")]
    assert json.loads(rows[0].detail)["limit"] == "message"
    assert len(stage.endpoint.asked) <= 6


def test_a_model_that_calls_tools_for_ever_ends_where_the_task_sets_no_limit(stage):
    stage.says = lambda body, count: called(("lookup", '{"key": "capital"}'))
    rows = stage.rows(instrument(kpi(samples=1), one_question("question 0", "right 0"), digest="for ever"))
    assert [(row.value, json.loads(row.detail)["limit"]) for row in rows] == [(0.0, "message")]
    assert 100 < len(stage.endpoint.asked) <= 500


def test_a_tool_that_needs_a_sandbox_makes_an_error_and_no_score(stage):
    stage.says = lambda body, count: called(("bash", '{"command": "ls"}')) if count == 1 else said("x")
    rows = stage.rows(instrument(kpi("tasks/cases.py@shell", samples=1), one_question("list", "x")))
    assert math.isnan(rows[0].value)
    assert "sandbox" in rows[0].error.lower()


def test_a_local_sandbox_runs_code_where_the_kpi_allows_it(stage):
    stage.says = lambda body, count: (
        called(("bash", '{"command": "echo y | tr y x"}')) if count == 1 else said(body["messages"][-1]["content"])
    )
    of = instrument(kpi("tasks/cases.py@shell", samples=1, sandbox="local"), one_question("list", "x"), digest="local")
    assert [(row.value, row.error) for row in stage.rows(of)] == [(1.0, "")]


@pytest.mark.parametrize(
    ("metric", "value"), [("both.long", 7.0), ("both.right", 1.0), ("includes", 1.0), ("match", 1.0)]
)
def test_the_metric_picks_a_scorer_or_a_key_of_its_score(stage, metric, value):
    stage.says = right
    rows = stage.rows(instrument(kpi("tasks/cases.py@several", metric=metric), digest=f"several {metric}"))
    assert {row.value for row in rows} == {value}


@pytest.mark.parametrize(
    ("task", "metric", "says"),
    [("several", "", "3 scores"), ("several", "f1", "no scorer `f1`"), ("several", "both.f1", "no score `both.f1`"),
     ("several", "both", "no score `both`"), ("plain", "f1", "no score `f1`")],
)  # fmt: skip
def test_a_metric_that_is_not_there_is_a_wrong_suite(stage, task, metric, says):
    stage.says = right
    with pytest.raises(SpecError, match=says) as caught:
        stage.rows(instrument(kpi(f"tasks/cases.py@{task}", metric=metric), digest=f"wrong {metric}"))
    assert "includes" in caught.value.hint


def test_a_score_that_is_no_number_is_an_error(stage):
    rows = stage.rows(instrument(kpi("tasks/cases.py@unclear")))
    assert all(math.isnan(row.value) and "perhaps" in row.error for row in rows)


def test_a_sample_that_breaks_is_an_error_row_and_the_others_count(stage):
    stage.says = right
    rows = stage.rows(instrument(kpi("tasks/cases.py@broken")))
    assert [bool(row.error) for row in rows] == [False, True, False, False]
    assert "cannot be run" in rows[1].error
    assert math.isnan(rows[1].value)


def test_epochs_are_asked_anew_and_a_resumed_run_gives_each_its_own_answer(stage):
    stage.says = lambda body, count: said(f"right {count}")
    of = instrument(kpi("tasks/cases.py@turns", epochs=3), digest="epochs")
    rows = stage.rows(of)
    assert len(stage.endpoint.asked) == 24
    assert [row.epoch for row in rows] == [0, 1, 2] * 4
    again = stage.rows(of)
    assert not stage.endpoint.asked
    assert not stage.told
    assert [(row.value, row.output) for row in again] == [(row.value, row.output) for row in rows]
    assert [row.latency_ms for row in again] == [row.latency_ms for row in rows]


def test_sealed_samples_leave_no_text(stage):
    stage.says = right
    rows = stage.rows(instrument(kpi(), digest="sealed", sealed=True))
    assert {(row.detail, row.output) for row in rows} == {("{}", "")}


def test_a_caller_that_is_denied_is_no_safe_endpoint(stage, policy):
    stage.says = lambda body, count: refused(403, "forbidden")
    with pytest.raises(EngineFailure, match="403"):
        stage.rows(policy("denied"))


def test_an_endpoint_that_dies_half_way_is_no_result_and_nothing_is_asked_twice(stage, policy):
    stage.says = lambda body, count: said("ok") if count != 60 else refused(500, "internal_error")
    with pytest.raises(EngineFailure, match="500"):
        stage.rows(policy("dies"))
    stage.says = lambda body, count: said("ok")
    assert len(stage.rows(policy("dies"))) == 72
    assert len(stage.endpoint.asked) <= 72 - 50  # what had arrived was kept


def test_a_spent_budget_stops_the_run_and_keeps_its_answers(stage):
    stage.says = right
    of = instrument(kpi(samples=40, epochs=12), digest="budget")

    left = iter(range(12))

    def spend(tokens, calls):
        if next(left, None) is None:
            raise BudgetSpent("no tokens are left", hint="raise the budget")

    kept, stage.spend = stage.spend, spend
    with pytest.raises(BudgetSpent):
        stage.rows(of)
    stage.spend = kept
    before = len(stage.endpoint.asked)
    rows = stage.rows(of)
    assert 12 <= before < 48
    assert len(stage.endpoint.asked) <= 48 - 12
    assert len(rows) == 48


def test_a_judge_grades_and_its_nonsense_is_never_a_score(stage):
    stage.says = right

    def judges(body, count):
        number = next(n for n in range(4) if f"question {n}" in asked_of(body))
        return said(["GRADE: C", "GRADE: I", "hard to say", "GRADE: Z"][number])

    stage.judges = judges
    of = instrument(kpi("tasks/cases.py@graded", judge="j"), digest="graded")
    rows = stage.rows(of)
    assert [row.value for row in rows][:2] == [1.0, 0.0]
    assert all(math.isnan(row.value) and "grader_failed" in row.error for row in rows[2:])
    assert (len(stage.judge.asked), len(stage.endpoint.asked)) == (4, 4)
    assert sorted(stage.told) == [(5, 0)] * 4 + [(5, 1)] * 4
    assert stage.judge.asked[0]["temperature"] == 0.0
    assert "temperature" not in stage.endpoint.asked[0]
    standing = stage.session.judgement("k")
    assert (standing.calibrated, standing.kappa, standing.min_kappa) == (False, None, 0.4)
    assert standing.digest.startswith("sha256:")


def test_the_tasks_own_scorer_judges_the_labelled_cases_once(stage):
    stage.says = right
    stage.judges = lambda body, count: said(
        "GRADE: C" if "[Submission]: right" in asked_of(body) or "[Submission]: good" in asked_of(body) else "GRADE: I"
    )
    for digest, asked in (("labels", 24 + 4), ("labels again", 4)):
        stage.session._standings.clear()  # as in another run
        rows = stage.rows(instrument(kpi("tasks/cases.py@graded", judge="lab"), digest=digest))
        assert [row.value for row in rows] == [1.0] * 4
        assert len(stage.judge.asked) == asked
        assert len(stage.endpoint.asked) == 4
    standing = stage.session.judgement("k")
    assert (standing.kappa, standing.labels, standing.calibrated) == (1.0, 24, True)
    stage.session._standings.clear()
    with pytest.raises(SpecError, match="calibrated on pairs"):
        stage.rows(instrument(kpi("tasks/cases.py@graded", judge="pairs"), digest="pairs"))


def test_labelled_cases_that_the_judge_does_not_answer_are_no_calibration(stage):
    stage.session._standings.clear()
    stage.says, stage.judges = right, lambda body, count: refused(500, "internal_error")
    with pytest.raises(EngineFailure, match="500"):
        stage.rows(instrument(kpi("tasks/cases.py@graded", judge="lab", metric="model_graded_qa"), digest="silent"))
    assert not stage.endpoint.asked


def test_a_judge_that_times_out_makes_an_error_row(stage):
    import time

    stage.says = right

    def slow(body, count):
        if "question 2" in asked_of(body):
            time.sleep(3)
        return said("GRADE: C")

    stage.judges = slow
    rows = stage.rows(instrument(kpi("tasks/cases.py@graded", judge="slow"), digest="slow"))
    assert [math.isnan(row.value) for row in rows] == [False, False, True, False]
    assert "ReadTimeout" in rows[2].error


def test_a_candidate_never_grades_itself(stage):
    stage.says = lambda body, count: said("GRADE: C")
    with pytest.raises(SpecError, match="names no `judge`"):
        stage.rows(instrument(kpi("tasks/cases.py@graded"), digest="self"))
    assert len(stage.endpoint.asked) == 4


def one_question(text, answer):
    """The single sample of a task."""
    from evals.samples import make_sample

    return (make_sample(text, target=answer),)
