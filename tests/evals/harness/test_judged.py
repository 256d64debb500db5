"""Answers scored by a judge in both orders: what wins, what is an error, and what labelled cases say of the judge."""

import json
import math
import re
import time
from dataclasses import replace

import pytest

from evals.harness.judged import Judged
from evals.harness.protocol import Task
from evals.instrument import Instrument
from evals.kpi import Kpi
from evals.suite import SuiteSpec
from registry import specs
from registry.errors import BudgetSpent, EngineFailure, NotFound, SpecError
from tests.evals.harness.inspect_cases import asked_of, staged
from tests.stubs.openai_server import refused, said

SUITE = """
suite: s
version: 1
canary: 0123456789abcdef
judges:
  j: {url: "http://127.0.0.1:1/v1", model: big, calibration: pairs.jsonl, min_kappa: 0.5}
  bare: {url: "http://127.0.0.1:1/v1", model: big}
  slow: {url: "http://127.0.0.1:1/v1", model: big, timeout_s: 2}
  graded: {url: "http://127.0.0.1:1/v1", model: other, calibration: graded.jsonl}
kpis:
"""
ENTRY = (
    "  - {{id: {id}, harness: judge, task: who is right, data: {data}, samples: {samples}, direction: higher, "
    "judge: {judge}, slices: [lang], cluster: ticket, epochs: {epochs}, rule: {{type: advisory}}}}\n"
)


def write(folder, name, rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A suite with questions, rubrics and labelled cases; a gating KPI that no test here measures makes it whole."""
    folder = tmp_path_factory.mktemp("judged")
    rows = [{"input": f"question {n}", "lang": "deen"[n % 2 * 2 :][:2], "ticket": n // 2} for n in range(6)]
    write(folder, "asked.jsonl", [{**row, "target": f"reference {n}"} for n, row in enumerate(rows)])
    write(folder, "rubrics.jsonl", [{**row, "rubric": f"names {n}"} for n, row in enumerate(rows)])
    write(folder, "neither.jsonl", rows)
    write(folder, "mixed.jsonl", [{**rows[0], "target": "t"}, {**rows[1], "rubric": "r"}])
    pairs = [("good", "bad", "a"), ("bad", "good", "b"), ("good", "good", "tie")] * 10
    write(folder, "pairs.jsonl", [
        {"input": f"case {n}", "answer_a": f"{a} {n}", "answer_b": f"{b} {n}", "label": label}
        for n, (a, b, label) in enumerate(pairs)
    ])  # fmt: skip
    write(folder, "graded.jsonl", [
        {"input": f"case {n}", "answer": "good" if n % 2 else "bad", "target": "be good",
         "label": "correct" if n % 2 else "incorrect"}
        for n in range(30)
    ])  # fmt: skip
    path = folder / "suite.yaml"
    gate = "  - {id: g, harness: lm-eval, task: exact_match, data: asked.jsonl, samples: 2, direction: higher, "
    path.write_text(SUITE + gate + "control: null_model, rule: {type: floor, value: 0.1}}\n")
    return path


@pytest.fixture(scope="module")
def stage(suite, tmp_path_factory):
    """One child for the tests of this file."""
    copy = tmp_path_factory.mktemp("copy")
    with staged(Judged(), copy, copy / "suite") as made:
        yield made


@pytest.fixture(autouse=True)
def _reset(stage):
    """Each test begins with the answers of a new stage."""
    stage.reset()


@pytest.fixture
def instrument(ws, suite, stage):
    """A function that plans a KPI, lays its files out where the stage reads them, and returns its instrument."""

    def plan(name, data="asked.jsonl", judge="bare", samples=6, epochs=1, **changed):
        text = ENTRY.format(id=name, data=data, judge=judge, samples=samples, epochs=epochs)
        path = suite.parent / f"{name}.yaml"
        path.write_text(suite.read_text() + text)
        found = Judged().plan(ws, specs.load(path, SuiteSpec).kpi(name), path)
        for place, held in found.files.items():
            (stage.suite / place).parent.mkdir(parents=True, exist_ok=True)
            (stage.suite / place).write_bytes(held)
        return replace(
            Instrument(specs.load(path, SuiteSpec).kpi(name), found.samples, found.files, "", f"sha256:{name}"),
            **changed,
        )

    return plan


def number(text):
    return int(re.findall(r"\d+", text)[0])


def texts_of(body):
    """The two texts that a judge sees, in the order of their places."""
    return re.findall(r"\[(?:Answer [AB]|Answer|Rubric)\]\n(.*?)\n\[End of", asked_of(body), re.DOTALL)


def fair(body, count):
    """Prefers what is good, whatever its place."""
    first, second = (text.startswith("good") for text in texts_of(body))
    return said("I think. VERDICT: " + ("TIE" if first == second else "A" if first else "B"))


@pytest.mark.slow
def test_a_win_is_one_a_tie_a_half_and_places_do_not_count(stage, instrument):
    stage.says = lambda body, count: said("good" if number(asked_of(body)) < 2 else "as the reference says")
    stage.judges = fair
    of = instrument("fair")
    rows = stage.rows(of)
    expected = {sample.id: 1.0 if number(sample.input) < 2 else 0.5 for sample in of.samples}
    assert {row.sample_id: row.value for row in rows} == expected
    assert (len(stage.endpoint.asked), len(stage.judge.asked)) == (6, 12)
    assert sorted(stage.told) == [(5, 0)] * 6 + [(5, 1)] * 12
    row = rows[0]
    assert json.loads(row.slices)["lang"] in ("de", "en")
    assert row.cluster in ("0", "1", "2")
    assert (row.prompt_tokens, row.completion_tokens) == (3, 2)
    assert row.output.startswith(("good", "as the"))
    asked = stage.judge.asked[0]
    assert (asked["temperature"], "who is right" in asked_of(asked)) == (0.0, True)
    standing = stage.session.judgement("fair")
    assert (standing.swap_agreement, standing.kappa, standing.calibrated) == (1.0, None, False)
    assert standing.verbosity == pytest.approx(-1.0)
    assert stage.rows(of) == rows  # kept answers: nothing is asked again
    assert not stage.endpoint.asked + stage.judge.asked


@pytest.mark.slow
def test_a_judge_that_loves_the_first_place_decides_nothing_and_it_shows(stage, instrument):
    stage.says = lambda body, count: said("good")
    stage.judges = lambda body, count: said("VERDICT: A")
    assert {row.value for row in stage.rows(instrument("place"))} == {0.5}
    assert stage.session.judgement("place").swap_agreement == 0.0


@pytest.mark.slow
def test_a_rubric_is_met_partly_or_not(stage, instrument):
    stage.says = lambda body, count: said(f"answer {number(asked_of(body))}")

    def judges(body, count):
        place = number(texts_of(body)[0])
        return said("VERDICT: " + ("YES" if place < 2 else "PARTLY" if place < 4 else "NO"))

    stage.judges = judges
    of = instrument("rubric", "rubrics.jsonl")
    places = {sample.id: number(sample.input) for sample in of.samples}
    found = {places[row.sample_id]: row.value for row in stage.rows(of)}
    assert found == {0: 1.0, 1: 1.0, 2: 0.5, 3: 0.5, 4: 0.0, 5: 0.0}
    seen = [texts_of(body) for body in stage.judge.asked]
    assert sum(first.startswith("names") for first, _ in seen) == sum(first.startswith("answer") for first, _ in seen)


@pytest.mark.slow
def test_a_judge_that_says_nonsense_or_nothing_in_time_makes_errors_never_scores(stage, instrument):
    stage.says = lambda body, count: said("good")

    def judges(body, count):
        place = next(n for n in range(6) if f"question {n}" in asked_of(body))
        if place == 0:
            time.sleep(3)
        return said("no idea" if place == 1 else "VERDICT: A\nVERDICT: MAYBE" if place == 2 else "VERDICT: TIE")

    stage.judges = judges
    of = instrument("nonsense", judge="slow")
    places = {sample.id: number(sample.input) for sample in of.samples}
    found = {places[row.sample_id]: row for row in stage.rows(of)}
    assert [bool(found[place].error) for place in range(6)] == [True, True, True, False, False, False]
    assert all(math.isnan(found[place].value) for place in range(3))
    assert "ReadTimeout" in found[0].error
    assert "no verdict" in found[1].error


@pytest.mark.slow
def test_labelled_cases_are_judged_once_and_say_how_far_people_agree(stage, instrument):
    stage.says = lambda body, count: said("good")
    stage.judges = fair
    stage.rows(instrument("labels", judge="j"))
    assert len(stage.judge.asked) == 2 * 30 + 2 * 6
    standing = stage.session.judgement("labels")
    assert (standing.kappa, standing.labels, standing.min_kappa) == (1.0, 30, 0.5)
    assert 0.8 < standing.kappa_lower < 1.0
    assert standing.calibrated
    stage.session._standings.clear()  # as in a later run
    stage.rows(instrument("labels2", judge="j"))
    assert len(stage.judge.asked) == 2 * 6
    assert stage.session.judgement("labels2").kappa_lower == standing.kappa_lower


@pytest.mark.slow
def test_a_judge_that_people_disagree_with_is_not_calibrated(stage, instrument, suite):
    stage.says = lambda body, count: said("good")
    stage.judges = lambda body, count: said("VERDICT: " + ("YES" if len(asked_of(body)) % 2 else "NO"))
    stage.rows(instrument("blind", "rubrics.jsonl", judge="graded"))
    standing = stage.session.judgement("blind")
    assert standing.labels == 30
    assert not standing.calibrated
    with pytest.raises(SpecError, match="calibrated on pairs") as caught:
        stage.rows(instrument("kinds", "rubrics.jsonl", judge="j"))
    assert "single answers" in caught.value.hint


@pytest.mark.slow
def test_sealed_questions_leave_no_text(stage, instrument):
    stage.says = lambda body, count: said("good")
    stage.judges = fair
    row = stage.rows(instrument("sealed", sealed=True))[0]
    assert set(json.loads(row.detail)) == {"length", "orders"}
    assert row.output == ""


@pytest.mark.slow
def test_a_candidate_that_fails_is_no_result(stage, instrument):
    stage.says = lambda body, count: refused(500, "internal_error")
    with pytest.raises(EngineFailure, match="500"):
        stage.rows(instrument("down"))


@pytest.mark.slow
def test_a_judge_that_is_gone_is_no_result_and_no_question_is_asked_twice(stage, instrument):
    stage.says = lambda body, count: said("good")
    stage.judges = lambda body, count: fair(body, count) if count <= 3 else refused(500, "internal_error")
    of = instrument("gone")
    with pytest.raises(EngineFailure, match="500"):
        stage.rows(of)
    stage.judges = fair
    assert {row.error for row in stage.rows(of)} == {""}
    assert (len(stage.endpoint.asked), len(stage.judge.asked)) == (0, 9)


@pytest.mark.slow
def test_the_budget_of_judge_calls_ends_a_run_and_its_answers_are_kept(stage, instrument):
    stage.says, stage.judges = (lambda body, count: said("good")), fair
    of, calls = instrument("budget", epochs=4), []

    def spend(tokens, judged):
        calls.append(judged)
        if sum(calls) > 10:
            raise BudgetSpent("no judge calls are left", hint="raise `judge_calls`")

    kept, stage.spend = stage.spend, spend
    with pytest.raises(BudgetSpent):
        stage.rows(of)
    stage.spend = kept
    asked = len(stage.judge.asked)
    assert len(stage.rows(of)) == 24
    assert 10 < asked < 48
    assert len(stage.judge.asked) <= 48 - 10


def test_the_plan_keeps_who_judges_apart_from_the_labels(instrument):
    found = instrument("plan", judge="j").files
    assert set(found) == {"samples/plan.jsonl", "judges/j.json", "calibration/j.json"}
    assert b"case 1" not in found["judges/j.json"]
    assert json.loads(found["calibration/j.json"])["min_kappa"] == 0.5


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"data": "neither.jsonl"}, SpecError, "`target` or `rubric`"),
        ({"data": "mixed.jsonl", "samples": 2}, SpecError, "mixes"),
        ({"samples": 7}, SpecError, "plans 7 samples, its data"),
        ({"data": "gone.jsonl"}, NotFound, "no data file"),
    ],
)
def test_wrong_data_is_named_before_anything_is_asked(instrument, fields, error, says):
    with pytest.raises(error, match=says) as caught:
        instrument("wrong", **fields)
    assert caught.value.hint


def test_a_judge_that_nothing_serves_is_named(instrument, stage):
    of = instrument("unserved")
    session = Judged().open(stage.bench(judges={}))
    with pytest.raises(EngineFailure, match="`unserved` needs the judge `bare`"):
        list(session.measure([Task(of, (of.samples[0].id,))]))
    session.close()


def test_a_kpi_that_gates_on_a_judge_without_labels_is_refused(suite, tmp_path):
    gate = ENTRY.format(id="gates", data="asked.jsonl", judge="bare", samples=6, epochs=1)
    path = tmp_path / "suite.yaml"
    path.write_text(
        suite.read_text() + gate.replace("type: advisory}", "type: floor, value: 0.5}, control: null_model")
    )
    with pytest.raises(SpecError, match="not calibrated") as caught:
        specs.load(path, SuiteSpec)
    assert "calibration" in caught.value.hint


def test_the_scorer_names_our_code():
    kpi = Kpi.model_validate({
        "id": "k", "harness": "judge", "task": "t", "data": "d.jsonl", "samples": 1, "direction": "higher",
        "judge": "j", "rule": {"type": "advisory"},
    })  # fmt: skip
    assert "judge.py" in Judged().scorer(kpi)["code"]
