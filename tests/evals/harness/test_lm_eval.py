"""Built-in tasks on weights: right numbers, one child for all looks, nothing asked twice."""

import json
import math

import pytest

from evals.harness.lm_eval import LmEval
from registry.errors import BudgetSpent, SpecError
from tests.evals.harness.lm_eval_cases import kpi, planned, session, suite_in, texts, weights, whole, write_rows


@pytest.fixture
def builtins(ws, tmp_path):
    """One KPI of each built-in task."""
    suite = suite_in(tmp_path / "suite")
    short = {"text": "def short(argument):\n    return compute_value(argument, 3) + compute_index(4)\n", "path": "s.py"}
    write_rows(suite.parent / "code.jsonl", [*texts(16), short])
    write_rows(
        suite.parent / "asked.jsonl", [{"input": f"def f{n}(", "target": "x", "topic": "ab"[n % 2]} for n in range(6)]
    )
    kpis = [
        kpi("bits_per_byte", id="bpb", data="code.jsonl", direction="lower", samples=12, cluster="path"),
        kpi("next_line", id="line", data="code.jsonl", samples=8, cluster="path"),
        kpi("exact_match", id="exact", data="asked.jsonl", samples=6, slices=["topic"], epochs=2),
    ]
    return [planned(ws, each, suite) for each in kpis]


def by_hand(folder, text):
    """Bits of a text under the model, token by token after the begin token, computed without lm-eval."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [0, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    with torch.inference_mode():
        said = model(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
    return -sum(float(said[place, token]) for place, token in enumerate(ids[1:])) / math.log(2)


def test_built_in_tasks_are_measured_look_by_look_in_one_child(builtins, tmp_path, tiny_model):
    stages = []
    tell = lambda stage, *_: stages.append(stage)  # noqa: E731
    with session(tmp_path, weights(tiny_model), builtins, progress=tell) as opened:
        first = dict(opened.measure(whole(*builtins, first=3)))
        second = dict(opened.measure(whole(*builtins)))
    assert stages.count("loading model") == 2  # begun and done, once
    assert {name: len(rows) for name, rows in first.items()} == {"bpb": 3, "line": 3, "exact": 6}
    for name, rows in first.items():
        assert {(row.sample_id, row.epoch): row.value for row in rows}.items() <= {
            (row.sample_id, row.epoch): row.value for row in second[name]
        }.items()
    text = {sample.id: sample.input for sample in builtins[0].samples}
    short = min(second["bpb"], key=lambda row: len(text[row.sample_id]))
    assert short.weight == len(text[short.sample_id].encode())
    assert short.value == pytest.approx(by_hand(tiny_model, text[short.sample_id]), rel=1e-5)
    assert {row.value for row in second["line"]} <= {0.0, 1.0}
    assert all(row.latency_ms > 0 and row.prompt_tokens > 0 for row in second["bpb"] + second["line"])


def test_rows_say_what_was_said_what_it_cost_and_where_they_belong(builtins, tmp_path, tiny_model):
    with session(tmp_path, weights(tiny_model), builtins) as opened:
        rows = dict(opened.measure(whole(builtins[2])))["exact"]
    ones = [row for row in rows if row.epoch == 0]
    assert [row.value for row in ones] == [row.value for row in rows if row.epoch == 1]
    assert {json.loads(row.slices)["topic"] for row in rows} == {"a", "b"}
    assert all(row.completion_tokens > 0 and row.output and row.scorer.startswith("sha256:") for row in ones)
    assert all("\n" not in row.output for row in ones)
    assert all(row.completion_tokens == 0 for row in rows if row.epoch == 1)  # it cannot vary: asked once


def test_the_null_model_is_another_model(builtins, tmp_path, tiny_model):
    found = []
    for target in (weights(tiny_model), weights(tiny_model, 7), weights(tiny_model, 7)):
        with session(tmp_path, target, builtins) as opened:
            found.append([row.value for row in dict(opened.measure(whole(builtins[0])))["bpb"]])
    assert found[0] != found[1] == found[2]


def test_a_budget_stops_the_child_and_what_was_answered_is_kept(builtins, tmp_path, tiny_model):
    spent = []

    def spend(tokens, judge_calls):
        spent.append(tokens)
        if sum(spent) > 100:
            raise BudgetSpent("enough", hint="raise it")

    with session(tmp_path, weights(tiny_model), builtins, spend=spend) as opened, pytest.raises(BudgetSpent):
        list(opened.measure(whole(*builtins)))
    before = len((tmp_path / "answers" / "lm-eval.jsonl").read_text().split('"key"')) - 1
    assert before > 0
    spent.clear()
    with session(tmp_path, weights(tiny_model), builtins, spend=lambda tokens, _: spent.append(tokens)) as opened:
        assert len(dict(opened.measure(whole(*builtins)))) == 3
    answers = [json.loads(line) for line in (tmp_path / "answers" / "lm-eval.jsonl").read_text().split("\n") if line]
    assert len({each["key"] for each in answers}) == len(answers)  # nothing was asked twice


def test_fewer_samples_than_planned_is_a_wrong_suite(ws, tmp_path):
    suite = suite_in(tmp_path / "suite")
    write_rows(suite.parent / "asked.jsonl", [{"input": "a", "target": "b"}])
    with pytest.raises(SpecError, match="plans 4 samples, its data `asked.jsonl` gives 1"):
        LmEval().plan(ws, kpi("exact_match", data="asked.jsonl"), suite)
