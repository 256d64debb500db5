from __future__ import annotations

import math

import pytest
import torch

from registry.errors import EngineFailure
from registry.specs import parse
from training.data.batches import Batches
from training.export import random_model
from training.measure import bits_per_byte
from training.pretrain import State, loop, make_optimisers
from training.recipe import Recipe
from training.tokenizer import encode_documents, save_tokenizer, train_tokenizer

TEXTS = [f"def function_{i}(argument, other):\n    return argument + other * {i}\n" for i in range(300)]
RECIPE = """\
name: x
method: pretrain
data: {dataset: d, splits: {a: 1}}
model: {vocab: 320, hidden: 32, layers: 2, heads: 2, kv_heads: 1, head: 16, intermediate: 48}
sequence_length: 32
budget: {steps: 30, batch: 4}
"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 320)


def start(tokenizer, recipe: Recipe) -> tuple[State, Batches]:
    torch.manual_seed(0)
    model = random_model(recipe.shape, tokenizer, longest=32)
    documents = {"a": encode_documents(tokenizer, TEXTS)}
    batches = Batches(documents, {"a": 1.0}, length=32, batch=recipe.budget.batch, seed=0)
    return State(model, make_optimisers(model, recipe.optimiser), "cpu", bf16=False), batches


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_the_loss_falls(tokenizer, optimiser):
    recipe = parse(RECIPE + f"optimiser: {{name: {optimiser}}}\n", Recipe)
    state, batches = start(tokenizer, recipe)
    notes: list[str] = []
    loop(recipe, batches, state, lambda stage, done, total, note: notes.append(note))
    assert state.step == 30
    assert state.loss < 0.8 * math.log(320)
    assert "tokens/s" in notes[0]


def test_bf16_autocast_learns_too(tokenizer):
    recipe = parse(RECIPE, Recipe)
    state, batches = start(tokenizer, recipe)
    state.bf16 = True
    loop(recipe, batches, state, lambda *_: None)
    assert state.loss < 0.8 * math.log(320)
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}


def test_muon_moves_the_blocks_and_adamw_the_rest(tokenizer):
    recipe = parse(RECIPE, Recipe)
    state, _ = start(tokenizer, recipe)
    sizes = {name: sum(p.numel() for g in o.param_groups for p in g["params"]) for name, o in state.optimisers.items()}
    assert sizes["muon"] == sum(p.numel() for p in state.model.model.layers.parameters() if p.ndim == 2)
    assert sum(sizes.values()) == sum(p.numel() for p in state.model.parameters())


def test_a_loss_that_is_no_number_stops_the_run(tokenizer):
    recipe = parse(RECIPE, Recipe)
    state, batches = start(tokenizer, recipe)
    with torch.no_grad():
        state.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(EngineFailure, match="the loss is nan"):
        loop(recipe, batches, state, lambda *_: None)


def test_a_budget_of_seconds_ends(tokenizer):
    recipe = parse(RECIPE.replace("steps: 30", "seconds: 0.2"), Recipe)
    state, batches = start(tokenizer, recipe)
    loop(recipe, batches, state, lambda *_: None)
    assert state.step >= 1
    assert state.elapsed >= 0.2


def test_bits_per_byte_of_a_uniform_model_is_known(tokenizer, tmp_path):
    recipe = parse(RECIPE, Recipe)
    state, _ = start(tokenizer, recipe)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.zero_()
    state.model.save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path, longest=32)
    texts = [*TEXTS[:5], "é" * 90]
    tokens = sum(len(e.ids) for e in tokenizer.encode_batch(texts))
    expected = tokens * math.log2(320) / sum(len(text.encode()) for text in texts)
    assert bits_per_byte(tmp_path, texts, batch=4) == pytest.approx(expected, rel=1e-5)
