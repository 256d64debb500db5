"""Built-in tasks on weights: right numbers, one child for all looks, nothing asked twice."""

import json
import math
import os
import signal
from dataclasses import replace

import pytest

from evals.harness.lm_eval import LmEval
from registry.errors import BudgetSpent, EngineFailure, SpecError
from registry.workspace import Workspace
from tests.evals.harness.lm_eval_cases import (
    kpi,
    planned,
    served,
    session,
    suite_in,
    texts,
    weights,
    whole,
    without_letter,
    write_rows,
)
from tests.stubs.openai_server import FakeEndpoint, completed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def builtins(tmp_path_factory):
    """One KPI of each built-in task."""
    ws = Workspace.create(tmp_path_factory.mktemp("builtins") / "ws")
    suite = suite_in(tmp_path_factory.mktemp("suite"))
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
    yield [planned(ws, each, suite) for each in kpis]
    ws.close()


@pytest.fixture(scope="module")
def stages():
    """What the shared session reports."""
    return []


@pytest.fixture(scope="module")
def opened(builtins, stages, tmp_path_factory, tiny_model):
    """One session for all tests that do not break it."""
    folder = tmp_path_factory.mktemp("session")
    with session(folder, weights(tiny_model), builtins, progress=lambda *what: stages.append(what)) as made:
        yield made


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


def test_built_in_tasks_are_measured_look_by_look_in_one_child(builtins, opened, stages, tiny_model):
    first = dict(opened.measure(whole(*builtins, first=3)))
    second = dict(opened.measure(whole(*builtins)))
    assert [stage for stage, *_ in stages].count("loading model") == 2  # begun and done, once for all tests here
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


def test_rows_say_what_was_said_what_it_cost_and_where_they_belong(builtins, opened):
    rows = dict(opened.measure(whole(builtins[2])))["exact"]
    ones = [row for row in rows if row.epoch == 0]
    assert [row.value for row in ones] == [row.value for row in rows if row.epoch == 1]
    assert {json.loads(row.slices)["topic"] for row in rows} == {"a", "b"}
    assert all(row.completion_tokens > 0 and row.output and row.scorer.startswith("sha256:") for row in ones)
    assert all("\n" not in row.output for row in ones)
    assert all(row.completion_tokens == 0 for row in rows if row.epoch == 1)  # it cannot vary: asked once


def here(folder, answers, instrument, seed=None):
    """The rows of an instrument's first four samples, measured in this process, without a child."""
    from evals.cache import AnswerCache
    from evals.children.lm_eval_model import AskedModel
    from evals.children.lm_eval_run import measure
    from evals.children.lm_eval_session import load_builtin
    from evals.children.weights.causal_lm import CausalLM

    one = instrument.kpi
    job = {"kpi": one.id, "task": one.task, "epochs": one.epochs, "scorer": "", "sealed": False,
           "samples": [sample.plain() for sample in instrument.samples[:4]]}  # fmt: skip
    model = AskedModel(CausalLM(folder, random_seed=seed), AnswerCache(answers, {}), tick=heard, spend=heard)
    return measure(model, load_builtin(job), job, heard)


def heard(count):
    """Hear a count that no test asks about."""


def test_the_null_model_is_another_model(builtins, opened, tmp_path, tiny_model):
    null = [here(tiny_model, tmp_path / name, builtins[0], seed=7) for name in "ab"]
    assert [row.value for row in null[0]] == [row.value for row in null[1]]
    real = {row.sample_id: row.value for row in dict(opened.measure(whole(builtins[0])))["bpb"]}
    assert all(row.value != real[row.sample_id] for row in null[0])


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


def test_a_killed_run_asks_nothing_twice(builtins, opened, tmp_path, tiny_model):
    kept = tmp_path / "answers" / "lm-eval.jsonl"

    def kill_in_the_middle(stage, done, total=None, note=""):
        if stage == "line" and done >= 16:
            os.kill(doomed._conversation._child.pid, signal.SIGKILL)  # as the system does when memory runs out

    finished = []
    with session(tmp_path, weights(tiny_model), builtins, progress=kill_in_the_middle) as doomed:
        with pytest.raises(EngineFailure, match="ended with status"):
            finished.extend(name for name, _ in doomed.measure(whole(*builtins)))
        assert finished == ["bpb"]
    lines = [json.loads(line)["key"] for line in kept.read_text().split("\n") if line]
    assert len(lines) >= 12 + 16
    spent = []
    with session(tmp_path, weights(tiny_model), builtins, spend=lambda tokens, _: spent.append(tokens)) as next_:
        rows = dict(next_.measure(whole(*builtins)))
    everything = [json.loads(line)["key"] for line in kept.read_text().split("\n") if line]
    assert everything[: len(lines)] == lines
    assert len(set(everything)) == len(everything)
    assert 0 < sum(spent) < sum(row.prompt_tokens + row.completion_tokens for group in rows.values() for row in group)
    again = dict(opened.measure(whole(*builtins)))  # in other batches, so equal but for rounding
    for name, group in again.items():
        assert [row.value for row in group] == pytest.approx([row.value for row in rows[name]], rel=1e-5)


def test_an_error_of_one_request_leaves_the_session_alive(builtins, opened, stages):
    wrong = replace(builtins[0], kpi=builtins[0].kpi.model_copy(update={"task": "no/such.yaml"}))
    with pytest.raises(SpecError, match="no task file"):
        list(opened.measure(whole(wrong)))
    assert len(dict(opened.measure(whole(builtins[0])))["bpb"]) == 12
    assert [stage for stage, *_ in stages].count("loading model") == 2


def test_text_that_the_tokenizer_cannot_express_is_an_error_row(ws, tmp_path, tiny_model):
    suite = suite_in(tmp_path / "suite")
    rows = [{"text": f"{'abc def ' * 10} {n}" + ("q" if n == 2 else "")} for n in range(4)]
    write_rows(suite.parent / "plain.jsonl", rows)
    one = planned(ws, kpi("bits_per_byte", data="plain.jsonl", direction="lower"), suite)
    found = here(without_letter(tiny_model, tmp_path / "model", "q"), tmp_path / "kept", one)
    assert sorted(bool(row.error) for row in found) == [False, False, False, True]
    (bad,) = (row for row in found if row.error)
    assert math.isnan(bad.value)
    assert "no finite probability" in bad.error


def test_sealed_samples_leave_no_text_in_rows(builtins, opened):
    rows = dict(opened.measure(whole(replace(builtins[2], sealed=True))))["exact"]
    assert {(row.detail, row.output) for row in rows} == {("{}", "")}


def test_a_task_over_an_endpoint(builtins, tmp_path):
    with FakeEndpoint(lambda body, count: completed(body, "x\nmore")) as endpoint:
        with session(tmp_path, served(endpoint), builtins) as opened:
            rows = dict(opened.measure(whole(builtins[2])))["exact"]
        asked = len(endpoint.asked)
    assert {row.value for row in rows} == {1.0}  # all targets are `x`
    assert asked == 6  # two epochs of what cannot vary


def test_fewer_samples_than_planned_is_a_wrong_suite(ws, tmp_path):
    suite = suite_in(tmp_path / "suite")
    write_rows(suite.parent / "asked.jsonl", [{"input": "a", "target": "b"}])
    with pytest.raises(SpecError, match="plans 4 samples, its data `asked.jsonl` gives 1"):
        LmEval().plan(ws, kpi("exact_match", data="asked.jsonl"), suite)
