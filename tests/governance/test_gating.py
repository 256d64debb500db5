"""The gate's walk: looks one by one, stopped early, continued after a crash, never begun again under another rule."""

import json
import random

import pytest

from evals.harness import HARNESSES
from governance import candidates, gating, ledger
from governance.case import open_case
from registry import seals
from registry.errors import NotFound, NotYet
from registry.records import ModelVersion, Run
from tests.stubs import scripted_harness

TEXTS = [f"question number {number}" for number in range(800)]
SUITE = """
suite: scripted
version: 1
canary: scripted-canary-0123456789
gate: {gate}
kpis:
  - id: right
    harness: scripted
    task: right or wrong
    data: cases.jsonl
    samples: 800
    direction: higher
    range: [0, 1]
    control: null_model
    rule: {rule}
"""
GATE = "{alpha: 0.05, looks: 8}"
RULE = "{type: noninferior, margin: 0.05}"


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    monkeypatch.setitem(HARNESSES._table, "scripted", "tests.stubs.scripted_harness:Scripted")
    scripted_harness.ASKED.clear()
    scripted_harness.BROKEN.clear()


@pytest.fixture
def suite(tmp_path):
    def write(gate=GATE, rule=RULE, texts=TEXTS):
        (tmp_path / "cases.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        path = tmp_path / "suite.yaml"
        path.write_text(SUITE.format(gate=gate, rule=rule).replace("samples: 800", f"samples: {len(texts)}"))
        return path

    return write


@pytest.fixture
def add(ws, model):
    """Register a candidate whose model gets `right` of the questions right."""

    def make(name, right, seed=1):
        chosen = sorted(random.Random(seed).sample(TEXTS, right))
        (model / "right.json").write_text(json.dumps(chosen))
        (model / "model.safetensors").write_bytes(f"{name}{right}{seed}".encode() * 64)
        manifest = ws.artifacts.add_tree(model)
        run = ws.register(Run("pretrain", "sha256:r", {"name": name, "n": right, "seed": seed}, [], None, "x", 1, 1,
                              {}, {}), actor="trainer")  # fmt: skip
        record = ModelVersion(name, manifest.id, run.id, None, [], "MistralForCausalLM", 64, {})
        version = ws.register(record, actor="trainer", name=name, parents=[("run", run.id)])
        return candidates.create(ws, version.id, actor="trainer")

    return make


def looks(ws):
    return [(row["candidate_name"], row["number"], row["samples"], row["verdict"]) for row in ledger.looks(ws)]


def test_a_clear_loss_is_stopped_at_an_early_look_and_written_down(ws, suite, add):
    base, bad = add("base", 600), add("bad", 200, seed=2)
    decision, value = gating.run(ws, bad, suite(), baseline=base.id)
    assert (value.verdict, value.final) == ("FAIL", True)
    assert value.look < 4
    assert [row[0] for row in looks(ws)] == ["bad"] * value.look
    assert looks(ws)[-1][3] == "FAIL"
    measured = sum(count for _, count in scripted_harness.ASKED)
    assert measured <= 800 + 2 * 100 * value.look  # the control in full, the two candidates only as far as was needed
    assert decision.body["differs"] == ["recipe", "weights"]
    assert len(seals.sealed(ws, ledger.LOOKED)) == value.look


def test_what_is_over_is_repeated_and_asks_nothing(ws, suite, add):
    base, good = add("base", 600), add("good", 700)
    path = suite()
    first = gating.run(ws, good, path, baseline=base.id)
    assert first[1].verdict == "PASS"
    asked, taken = list(scripted_harness.ASKED), looks(ws)
    again = gating.run(ws, good, path, baseline=base.id)
    assert again[0].id == first[0].id
    assert again[1] == first[1]
    assert (scripted_harness.ASKED, looks(ws)) == (asked, taken)
    assert gating.decide(ws, good, path, baseline=base.id)[0].id == first[0].id
    assert gating.replay(ws, good, path, actor="evaluator") == first  # a pipeline asks no more, whoever is baseline now


def test_a_rerun_after_a_crash_goes_on_after_the_last_look(ws, suite, add, monkeypatch):
    base, same = add("base", 600, seed=3), add("same", 600, seed=4)
    path = suite(rule="{type: noninferior, margin: 0.02}")
    real, taken = ledger.write, []

    def crash(*args, **kwargs):
        real(*args, **kwargs)
        taken.append(1)
        if len(taken) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "write", crash)
    with pytest.raises(KeyboardInterrupt):
        gating.run(ws, same, path, baseline=base.id)
    monkeypatch.setattr(ledger, "write", real)
    assert [row[1] for row in looks(ws)] == [1, 2]
    before = len(scripted_harness.ASKED)
    _, value = gating.run(ws, same, path, baseline=base.id)
    numbers = [row[1] for row in looks(ws)]
    assert numbers == list(range(1, value.look + 1))
    assert value.look > 2
    # sessions of the second process measured only what the looks after the crash added
    assert all(count <= 100 for _, count in scripted_harness.ASKED[before:])


def test_samples_that_failed_are_measured_again_and_nothing_else(ws, suite, add):
    base, good = add("base", 600), add("good", 700)
    path = suite()
    gating.evaluate(ws, base, path)
    scripted_harness.BROKEN.update(TEXTS[::10])
    broken = gating.run(ws, good, path, baseline=base.id)[1]
    assert (broken.verdict, looks(ws)) == ("INVALID", [])
    scripted_harness.BROKEN.clear()
    scripted_harness.ASKED.clear()
    value = gating.run(ws, good, path, baseline=base.id)[1]
    assert (value.verdict, value.look) == ("PASS", looks(ws)[-1][1])
    asked = [count for _, count in scripted_harness.ASKED]
    assert sum(asked) <= 160 + 100 * (value.look - 1)  # the lost ones, of the control too, and what later looks add


def test_a_crash_between_ledger_and_record_is_finished_without_another_look(ws, suite, add, monkeypatch):
    base, good = add("base", 600), add("good", 700)
    path = suite()
    with monkeypatch.context() as patch:
        patch.setattr(gating, "_register", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            gating.run(ws, good, path, baseline=base.id)
    taken = looks(ws)
    decision, value = gating.run(ws, good, path, baseline=base.id)
    assert (value.verdict, decision.body["verdict"]) == ("PASS", "PASS")
    assert looks(ws) == taken


def test_a_wider_margin_does_not_change_a_verdict(ws, suite, add):
    base, worse = add("base", 600, seed=5), add("worse", 560, seed=5)
    first = gating.run(ws, worse, suite(rule="{type: noninferior, margin: 0.01}"), baseline=base.id)[1]
    assert first.verdict in ("FAIL", "INCONCLUSIVE")
    decision, value = gating.run(ws, worse, suite(rule="{type: noninferior, margin: 0.2}"), baseline=base.id)
    assert (value.verdict, value.exit_code, decision.body["verdict"]) == ("INVALID", 2, "INVALID")
    assert "another rule or plan" in value.reasons[0]
    assert "not seen" in value.reasons[0]


def test_more_looks_or_another_order_are_another_plan(ws, suite, add):
    base, good = add("base", 600), add("good", 700)
    gating.run(ws, good, suite(), baseline=base.id)
    for gate in ("{alpha: 0.05, looks: 4}", "{alpha: 0.05, looks: 8, order_seed: 9}", "{alpha: 0.1, looks: 8}"):
        assert gating.run(ws, good, suite(gate), baseline=base.id)[1].verdict == "INVALID", gate


def test_the_holdout_counts_whom_it_judged_and_a_family_budget_ends(ws, suite, add):
    base = add("base", 600)
    path = suite("{alpha: 0.06, looks: 2, budget: family, max_candidates: 2}")
    values = [gating.run(ws, add(f"c{seed}", 700, seed=seed), path, baseline=base.id)[1] for seed in (11, 12, 13)]
    assert [value.verdict for value in values] == ["PASS", "PASS", "INVALID"]
    assert [value.judged for value in values] == [1, 2, 3]
    assert values[1].level == pytest.approx(0.03)
    assert values[1].familywise == pytest.approx(0.06)
    assert "spent" in values[2].reasons[0]
    assert len(looks(ws)) == sum(value.look for value in values[:2])


def test_decide_looks_at_what_is_stored_and_says_what_is_not(ws, suite, add):
    base, good = add("base", 600), add("good", 700)
    path = suite()
    with pytest.raises(NotYet):
        gating.decide(ws, good, path, baseline=base.id)
    gating.evaluate(ws, good, path)
    gating.evaluate(ws, base, path)
    with_controls = gating.run(ws, add("other", 720), path, baseline=base.id)[1]
    assert with_controls.verdict == "PASS"
    decision, value = gating.decide(ws, good, path, baseline=base.id)
    assert (value.verdict, value.kpis[0].n, value.kpis[0].fraction) == ("PASS", 800, 1.0)
    assert value.judged == 2
    assert decision.body["mode"] == "group_sequential"


def test_a_look_counts_only_with_the_evaluators_seal(ws, suite, add):
    base, good = add("base", 600), add("good", 700)
    path = suite()
    gating.run(ws, good, path, baseline=base.id)
    case = open_case(ws, good, path, baseline=base.id)
    said = ledger.describe_lines(case.spec, case.standing)
    assert f"look {case.standing.history[-1].look} of 8 taken" in said[0]
    assert len(case.standing.history) == case.standing.history[-1].look
    with pytest.raises(NotFound, match="must be signed"):
        ws.record(ledger.LOOKED, good.id, {"suite": "s", "looks": [], "report": {}}, actor="nobody")


def test_samples_may_be_appended_to_an_anytime_test_and_not_replaced(ws, suite, add):
    base, better = add("base", 600, seed=6), add("better", 640, seed=7)
    gate = "{alpha: 0.05, looks: 2, mode: anytime}"
    first = gating.run(ws, better, suite(gate, texts=TEXTS[:40]), baseline=base.id)[1]
    assert (first.verdict, first.final) == ("INCONCLUSIVE", True)
    assert gating.run(ws, better, suite(gate, texts=TEXTS[:40]), baseline=base.id)[1] == first
    longer = gating.run(ws, better, suite(gate), baseline=base.id)[1]
    assert (longer.verdict, longer.kpis[0].n, longer.look) == ("PASS", 800, 3)
    assert longer.judged == 1  # the same test went on
    other = gating.run(ws, better, suite(gate, texts=TEXTS[50:700]), baseline=base.id)[1]
    assert other.verdict == "INVALID"
    assert "have left the plan" in other.reasons[0]


def test_a_first_of_its_line_is_judged_by_its_limits_and_later_against_a_baseline(ws, suite, add):
    path = suite()
    text = path.read_text()
    limit = (
        text[text.index("  - id: right") :]
        .replace("id: right", "id: enough")
        .replace(RULE, "{type: floor, value: 0.5}")
    )
    path.write_text(text + limit)
    good = add("good", 700)
    first = gating.run(ws, good, path)[1]
    assert (first.verdict, first.bootstrap) == ("PASS", True)
    assert {kpi for kpi, _ in scripted_harness.ASKED if kpi == "right"} == {"right"}  # by its control alone
    base = add("base", 600)
    second = gating.run(ws, good, path, baseline=base.id)[1]
    assert (second.verdict, second.bootstrap) == ("PASS", False)
    latched = {kpi.kpi: kpi.latched for kpi in second.kpis}
    assert latched == {"right": False, "enough": True}
