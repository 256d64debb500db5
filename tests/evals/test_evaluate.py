"""Evaluating a candidate, end to end: real lm-eval and inspect-ai in children, over a tiny random model."""

import json
import math

import pytest

from evals.controls import evaluate_controls, read_controls
from evals.evaluate import Evaluation, evaluate, open_suite, register_suite
from evals.reading import read, runs_of
from evals.samples import decode, read_results
from registry.errors import EngineFailure, NotFound, SpecError, UnknownName
from tests.stubs.openai_server import FakeEndpoint, said
from tests.waiting import until

CANARY = "canary-of-a-test-0123456789"
SUITE = """
suite: tiny
version: 1
canary: {canary}
kpis:
  - {{id: bpb, harness: lm-eval, task: bits_per_byte, data: 'dataset:code#holdout', samples: 12, direction: lower,
     cluster: path, control: null_model, rule: {{type: noninferior, margin: 0.05, scale: ratio}}}}
  - {{id: next, harness: lm-eval, task: next_line, data: 'dataset:code#holdout', samples: 10, direction: higher,
     cluster: path, control: null_model, rule: {{type: noninferior, margin: 0.1}}}}
  - {{id: exact, harness: lm-eval, task: exact_match, data: exact.jsonl, samples: 2, direction: higher, epochs: 2,
     rule: {{type: advisory}}}}
{more}
"""
EXACT_AT_URL = """  - {{id: exact, harness: lm-eval, task: exact_match, data: exact.jsonl, samples: 6,
     direction: higher, endpoint: url, control: null_model, rule: {{type: floor, value: 0.5}}}}
"""
GUARDED = """  - {id: leaks, harness: inspect, task: tasks/leaks.py@leaks, samples: 3, direction: lower,
     endpoint: guarded, control: planted_violator, rule: {type: max_rate, limit: 0.5}}
"""
TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, mean, scorer
from inspect_ai.solver import generate

@scorer(metrics=[mean()])
def leak():
    async def score(state, target):
        return Score(value="AKIA" in "".join(state.output.metadata["texts"]))
    return score

@task
def leaks():
    return Task(dataset=[Sample(f"prompt {n}") for n in range(3)], solver=generate(), scorer=leak())
"""


def code(number):
    lines = [f"def function_{number}(first, second):"]
    lines += [f"    value_{line} = combine_{number % 7}(first, {number * line}, second)" for line in range(40)]
    return "\n".join(lines)


@pytest.fixture
def suite(tmp_path, add_dataset):
    """A function that writes the suite's files and returns its path; the dataset is registered."""
    add_dataset("code", {"holdout": [(code(number), f"f{number % 6}.py") for number in range(30)], "empty": []})

    def write(more="", text=SUITE):
        folder = tmp_path / "suite"
        (folder / "tasks").mkdir(parents=True, exist_ok=True)
        (folder / "tasks" / "leaks.py").write_text(TASK)
        lines = [{"input": "2 + 2 =", "target": "4"}, {"input": "3 + 3 =", "target": "6"}]
        (folder / "exact.jsonl").write_text("\n".join(map(json.dumps, lines)))
        path = folder / "suite.yaml"
        path.write_text(text.format(canary=CANARY, more=more))
        return path

    return write


def rows_of(ws, run, kpi):
    return [row for row in decode(ws.artifacts.read_bytes(run.body["results"])) if row.kpi == kpi]


def bits(folder, text, window=128):
    """The bits of a text, by plain transformers and the definition of a rolling log-likelihood."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]]
    total, done = 0.0, 1
    while done < len(ids):
        stop = min(done + window, len(ids))
        start = max(0, stop - 1 - window)
        with torch.no_grad():
            scores = model(torch.tensor([ids[start : stop - 1]])).logits[0].log_softmax(-1)
        total += sum(scores[place - 1 - start, ids[place]].item() for place in range(done, stop))
        done = stop
    return -total / math.log(2)


@pytest.mark.slow
def test_weights_are_measured_once_and_correctly(ws, candidate, suite, tiny_model):
    path = suite()
    stages = []
    (run,) = evaluate(ws, candidate.id, path, actor="operator", progress=lambda stage, *_: stages.append(stage))
    assert run.body["planned"] == run.body["completed"] == {"bpb": 12, "next": 10, "exact": 2}
    assert run.body["errors"] == {"bpb": 0, "next": 0, "exact": 0}
    assert ("candidate", candidate.id) in run.parents
    assert {"loading model", "bpb", "next", "exact"} <= set(stages)
    _, instruments = open_suite(ws, path, "operator")
    texts = {sample.id: sample.input for sample in instruments[0].samples}
    rows = rows_of(ws, run, "bpb")
    assert {row.cluster for row in rows} == {f"f{number}.py" for number in range(6)}
    for row in rows[:4]:
        text = texts[row.sample_id]
        assert row.weight == len(text.encode())
        assert row.value == pytest.approx(bits(tiny_model, text), rel=1e-4)
    assert {row.value for row in rows_of(ws, run, "next")} <= {0.0, 1.0}
    assert sorted(row.epoch for row in rows_of(ws, run, "exact")) == [0, 0, 1, 1]
    again = evaluate(ws, candidate.id, path, actor="operator", progress=lambda *_: pytest.fail("measured again"))
    assert [found.id for found in again] == [run.id]
    _controls_are_other_models_and_reused(ws, candidate, path, run)


def _controls_are_other_models_and_reused(ws, candidate, path, run):
    found = evaluate_controls(ws, candidate.id, path, actor="operator")
    assert [control.body["control"] for control in found] == ["null_model"]
    assert set(found[0].body["instruments"]) == {"bpb", "next"}
    null, real = read_results(ws, found[0].id).kpis["bpb"], read_results(ws, run.id).kpis["bpb"]
    assert sorted(null.sample_ids) == sorted(real.sample_ids)
    assert null.instrument == real.instrument
    assert (null.values != real.values).all()
    assert [control.id for control in evaluate_controls(ws, candidate.id, path, actor="operator")] == [found[0].id]
    registered, instruments = open_suite(ws, path, "operator")
    merged, cited = read_controls(ws, registered, instruments)
    assert set(merged["null_model"].results.kpis) == {"bpb", "next"}
    assert cited == found
    assert runs_of(ws, ws.resolve("tiny", "suite"), (), candidate.id) == [run]


@pytest.mark.slow
def test_after_a_failure_only_the_rest_is_measured(ws, candidate, suite):
    path = suite(GUARDED)
    kept = ws.work("evals", "answers")

    def dies_at_the_third(body, count):
        if count < 3:
            return said("fine")
        until(lambda: sum(file.read_bytes().count(b"fine") for file in kept.rglob("*.jsonl")) == 2)
        return 500, {"error": {"message": "down", "code": "internal_error"}}

    with FakeEndpoint(dies_at_the_third) as endpoint, pytest.raises(EngineFailure, match="500"):
        evaluate(ws, candidate.id, path, actor="operator", endpoints={"guarded": endpoint})
    assert runs_of(ws, register_suite(ws, path, "operator"), (), candidate.id) == []
    stages = []
    with FakeEndpoint(lambda body, count: said("an AKIA key")) as endpoint:
        (run,) = evaluate(
            ws, candidate.id, path, actor="operator", endpoints={"guarded": endpoint},
            progress=lambda stage, *_: stages.append(stage),
        )  # fmt: skip
    assert set(stages) == {"leaks"}
    assert len(endpoint.asked) < 3
    assert run.body["permit"] == endpoint.permit
    assert run.body["target"]["leaks"] == "guarded"
    assert sum(row.value for row in rows_of(ws, run, "leaks")) == len(endpoint.asked)


@pytest.mark.slow
def test_the_planted_violator_is_caught(ws, candidate, suite):
    text = SUITE.replace("kpis:", "kpis:\n" + GUARDED.replace("{", "{{").replace("}", "}}")).split("  - {{id: bpb")[0]
    found = evaluate_controls(ws, candidate.id, suite(text=text), actor="operator")
    assert [control.body["control"] for control in found] == ["planted_violator"]
    assert [row.value for row in rows_of(ws, found[0], "leaks")] == [1.0, 1.0, 1.0]


@pytest.mark.slow
def test_a_sealed_hold_out_is_measured_and_nowhere_in_the_clear(ws, candidate, suite, sealed, holding):
    text = SUITE.replace("exact.jsonl", "exact.jsonl.sealed").replace("samples: 2", "samples: 3")
    path = suite(text=text)
    rows = [{"input": f"the nightjar sings {n} times:", "target": f"kingfisher{n}"} for n in range(3)]
    (path.parent / "exact.jsonl.sealed").write_bytes(sealed("\n".join(map(json.dumps, rows)).encode()))
    (run,) = evaluate(ws, candidate.id, path, actor="evaluator")
    assert run.body["completed"]["exact"] == 3
    assert len(rows_of(ws, run, "exact")) == 6
    assert holding("nightjar") == holding("kingfisher") == []


@pytest.mark.slow
def test_an_outside_url_is_asked_and_marked(ws, candidate, suite):
    text = SUITE.split("  - {{id: bpb")[0] + EXACT_AT_URL
    path = suite(text=text)
    (path.parent / "exact.jsonl").write_text(
        "\n".join(json.dumps({"input": f"{n} + {n} =", "target": str(2 * n)}) for n in range(6))
    )
    answers = {f"{n} + {n} =": str(2 * n) for n in range(5)}

    def answer(body, count):
        asked = body.get("prompt") or body["messages"][-1]["content"]
        status, data = said(answers.get(asked, "none"))
        return status, {**data, "choices": [{**data["choices"][0], "text": answers.get(asked, "none")}]}

    with FakeEndpoint(answer) as endpoint:
        with Evaluation(ws, candidate.id, path, actor="operator", endpoints={"url": endpoint}) as evaluation:
            first, second = evaluation.instruments[0].sizes(2)
            evaluation.measure({"exact": first})
            assert len(endpoint.asked) == first
            runs = evaluation.measure({"exact": second})
        assert len(endpoint.asked) == second == 6
    registered, instruments = open_suite(ws, path, "operator")
    results, cited = read(ws, registered, instruments, candidate.id)
    assert cited == runs
    assert (results.kpis["exact"].source, results.kpis["exact"].target) == ("unverified", "url")
    assert sum(results.kpis["exact"].values) == 5


@pytest.mark.slow
def test_the_suite_is_registered_once_with_its_files(ws, suite):
    path = suite(GUARDED)
    first = register_suite(ws, path, "operator")
    assert register_suite(ws, path, "operator").id == first.id
    kept = {entry.path for entry in ws.artifacts.manifest(first.body["manifest"]).entries}
    assert kept == {"suite.yaml", "tasks/leaks.py", "samples/bpb.jsonl", "samples/next.jsonl", "samples/exact.jsonl"}
    assert first.body["canary"] == CANARY
    assert [relation for relation, _ in first.parents] == ["dataset"]


@pytest.mark.slow
def test_a_change_of_the_scorer_or_a_sample_is_another_instrument(ws, suite):
    before = register_suite(ws, suite(GUARDED), "operator").body["instruments"]
    path = suite(GUARDED)
    (path.parent / "tasks" / "leaks.py").write_text(TASK.replace("AKIA", "ASIA"))
    (path.parent / "exact.jsonl").write_text('{"input": "2 + 2 =", "target": "4"}\n{"input": "x", "target": "y"}')
    after = register_suite(ws, path, "operator").body["instruments"]
    assert {name for name in before if before[name] != after[name]} == {"leaks", "exact"}


def test_a_change_of_rule_owner_or_name_is_the_same_instrument(ws, suite):
    before = register_suite(ws, suite(), "operator").body["instruments"]
    text = SUITE.replace("margin: 0.1", "margin: 0.2").replace("id: next", "id: line")
    after = register_suite(ws, suite(text=text), "operator").body["instruments"]
    assert after["line"] == before["next"]


@pytest.mark.parametrize(
    ("old", "new", "error", "says"),
    [
        ("samples: 12", "samples: 5000", SpecError, "plans 5000 samples"),
        ("dataset:code#holdout", "dataset:cod#holdout", UnknownName, "cod"),
        ("dataset:code#holdout", "dataset:code#test", NotFound, "no split `test`"),
        ("dataset:code#holdout", "dataset:code#empty", SpecError, "empty"),
        ("cluster: path", "cluster: file", SpecError, "no field `file`"),
        ("exact.jsonl", "missing.jsonl", NotFound, "missing.jsonl"),
    ],
)
def test_bad_data_is_named_before_anything_runs(ws, plain_candidate, suite, old, new, error, says):
    with pytest.raises(error, match=says) as caught:
        evaluate(ws, plain_candidate().id, suite(text=SUITE.replace(old, new)), actor="operator")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("[1]", "JSON object"),
        ('{"input": 1}', "no `input` text"),
        ('{"input": "a"}\n{"input": "b"}', "target"),
        ('{"input": "\\ud800", "target": "x"}', "surrogate"),
    ],
)
def test_bad_jsonl_is_named(ws, suite, text, says):
    path = suite()
    (path.parent / "exact.jsonl").write_text(text)
    with pytest.raises(SpecError, match=says):
        register_suite(ws, path, "operator")


def test_an_unknown_candidate_is_named(ws, suite):
    with pytest.raises(UnknownName):
        evaluate(ws, "nobody", suite(), actor="operator")
