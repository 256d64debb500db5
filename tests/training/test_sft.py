from __future__ import annotations

import pytest

import training
import training.data
from registry.errors import SpecError, UnknownName
from registry.specs import parse
from training.recipe import Recipe

BASE = """\
name: tiny
method: pretrain
data: {dataset: house, splits: {domain_train: 1}}
model: {vocab: 400, hidden: 32, layers: 2, heads: 2, kv_heads: 1, head: 16, intermediate: 48}
sequence_length: 128
budget: {steps: 5, batch: 2}
precision: fp32
"""
SFT = """\
name: tuned
method: sft
base: tiny
data: {dataset: house, splits: {domain_train: 1}}
sequence_length: 128
budget: {steps: 6, batch: 2, save_every: 3}
optimiser: {name: adamw, adamw_lr: 0.002}
precision: fp32
trainer: {logging_steps: 2}
"""


@pytest.mark.parametrize(
    ("trainer", "kind", "message"),
    [
        ("loging_steps: 2", UnknownName, "loging_steps"),
        ("push_to_hub: true", SpecError, "decided by the recipe"),
        ("seed: 4", SpecError, "decided by the recipe"),
        ("logging_strategy: nonsense", SpecError, "TRL refuses"),
    ],
)
@pytest.mark.slow
def test_arguments_that_trl_has_not_or_the_recipe_decides(trainer, kind, message, tmp_path):
    from training.sft import make_arguments

    recipe = parse(SFT.replace("logging_steps: 2", trainer), Recipe)
    with pytest.raises(kind, match=message):
        make_arguments(recipe, tmp_path, bf16=False, cpu=True)


@pytest.mark.slow
def test_only_answers_are_trained_on_and_recorded(ws, spec_file, tmp_path):
    training.data.build(ws, spec_file, actor="operator")
    recipes = {}
    for name, text in (("base", BASE), ("sft", SFT)):
        recipes[name] = tmp_path / f"{name}.yaml"
        recipes[name].write_text(text)
    base = training.train(ws, recipes["base"], actor="operator")
    tuned = training.train(ws, recipes["sft"], actor="operator")
    shown = tuned.run.body["environment"]["loss_mask"]
    assert len(shown) == 4
    for sample in shown:
        assert sample["trained"].startswith("def ")
        assert sample["trained"].endswith(":<|eos|>")
        assert sample["row"].endswith("<|assistant|>" + sample["trained"])
    assert tuned.run.body["steps"] == 6
    assert tuned.run.body["metrics"]["pairs"] > 50
    assert tuned.run.body["state_digest"] != base.run.body["state_digest"]
    assert ("base", base.version.id) in tuned.version.parents
    names = {entry.path for entry in ws.artifacts.manifest(tuned.version.body["manifest"]).entries}
    assert "chat_template.jinja" in names
    assert not [name for name in names if not name.endswith((".json", ".jinja", ".safetensors"))]
