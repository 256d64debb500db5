from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import SpecError
from registry.specs import dump, load, parse
from training.data.spec import DataSpec
from training.recipe import Budget, Data, Recipe, Schedule

GOOD = "name: x\nmethod: pretrain\ndata: {dataset: d, splits: {domain_train: 1}}\nbudget: {steps: 3}\n"
CONTINUE = GOOD.replace("pretrain", "continue") + "base: b\n"
SFT = CONTINUE.replace("continue", "sft") + "optimiser: {name: adamw}\n"
EXAMPLES = Path(__file__).parents[2] / "examples" / "quickstart"


def test_first_page_has_at_most_twelve_fields():
    assert len(Recipe.model_fields) <= 12


@pytest.mark.parametrize("name", ["base", "bad", "good", "sft"])
def test_examples_are_recipes_and_survive_yaml(name):
    recipe = load(EXAMPLES / f"{name}.yaml", Recipe)
    assert parse(dump(recipe), Recipe).digest == recipe.digest
    assert recipe.budget.steps, "a budget of steps is reproducible"


@pytest.mark.parametrize("name", ["data", "bad_data"])
def test_example_data_specs_load(name):
    assert load(EXAMPLES / f"{name}.yaml", DataSpec).sources[0].name == "stdlib"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "learning_rate: 1\n", "unknown key"),
        (GOOD + "base: b\n", "starts from random weights"),
        (GOOD + "trainer: {packing: true}\n", "does not use TRL"),
        (GOOD.replace("pretrain", "continue"), "needs `base`"),
        (CONTINUE + "model: {layers: 2}\n", "shape of its base"),
        (GOOD.replace("domain_train", "domain_holdout"), "held out"),
        (GOOD.replace("splits: {domain_train: 1}", "splits: {a: 1}, replay: 0.1, replay_split: a_holdout"), "held out"),
        (GOOD.replace("steps: 3", "steps: 3, tokens: 4"), "exactly one of"),
        (GOOD.replace("steps: 3", "batch: 4"), "exactly one of"),
        (GOOD + "schedule: {warmup: 0.7, decay: 0.7}\n", "exceed the budget"),
        (GOOD + "model: {heads: 3, kv_heads: 2}\n", "multiple"),
        (SFT.replace("steps: 3", "tokens: 30"), "needs `budget.steps`"),
        (SFT.replace("name: adamw", "name: muon"), "TRL's AdamW"),
        (SFT.replace("{domain_train: 1}", "{domain_train: 1}, replay: 0.5"), "pairs only"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(SpecError, match=message):
        parse(text, Recipe)


@given(st.floats(0, 0.9), st.dictionaries(st.sampled_from("ab"), st.floats(0.1, 5), min_size=1))
def test_shares_sum_to_one(replay, splits):
    data = Data(dataset="d", splits=splits, replay=replay, replay_split="b")
    assert sum(data.weights().values()) == pytest.approx(1)
    if replay and "b" not in splits:
        assert data.weights()["d", "b"] == pytest.approx(replay)


def test_budget_of_tokens_becomes_steps():
    assert Budget(tokens=1025, batch=4).total_steps(256) == 2
    assert Budget(seconds=3).total_steps(256) is None


@given(st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.5))
def test_schedule_stays_between_nothing_and_the_peak(done, warmup, decay):
    factor = Schedule(warmup=warmup, decay=decay).factor(done)
    assert 0 <= factor <= 1
    if warmup <= done <= 1 - decay:
        assert factor == pytest.approx(1, abs=1e-6) or done == 1
