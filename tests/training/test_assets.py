"""Recipes and tokenizers are assets of their own."""

from __future__ import annotations

import json

import pytest

from registry.errors import NotFound, SpecError
from registry.records import Recipe, Tokenizer
from training import assets
from training import recipe as recipes
from training.tokenizer import train_tokenizer

DATASET = "sha256:" + "d" * 64


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer = train_tokenizer(["the quick brown fox jumps over the lazy dog " * 20], 270)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(b"w")
    return folder


def test_the_same_files_are_the_same_tokenizer_whoever_uses_them(ws, model):
    first = assets.register_tokenizer(ws, model, "base", [DATASET], actor="operator")
    (model / "model.safetensors").write_bytes(b"other weights")
    assert assets.register_tokenizer(ws, model, "tuned", [], actor="operator").id == first.id
    record = ws.get(first.id, Tokenizer)
    assert (record.name, record.vocab_size, record.datasets) == ("base", 270, [DATASET])
    assert first.parents == (("dataset", DATASET),)
    paths = {entry.path: entry.sha256 for entry in ws.artifacts.manifest(record.manifest).entries}
    assert set(paths) == {"tokenizer.json", "chat_template.jinja"}
    assert paths["tokenizer.json"] == record.digest
    (model / "chat_template.jinja").write_text("{{ messages[0] }}")
    assert assets.register_tokenizer(ws, model, "base", [DATASET], actor="operator").number == 2


def test_vocabularies_of_every_shape_are_counted():
    added = [{"id": 1, "content": "b"}, {"id": 2, "content": "c"}]
    listed = {"model": {"vocab": [["a", 0.0], ["b", -1.0]]}, "added_tokens": added}
    mapped = {"model": {"vocab": {"a": 0, "b": 1}}}
    assert assets.vocabulary_size(json.dumps(listed).encode()) == 3
    assert assets.vocabulary_size(json.dumps(mapped).encode()) == 2
    for damaged in (b"{", b"{}", b"[]"):
        with pytest.raises(SpecError, match="`tokenizer.json` is damaged"):
            assets.vocabulary_size(damaged)


def test_a_folder_without_a_tokenizer_is_refused(ws, tmp_path):
    with pytest.raises(NotFound, match="no `tokenizer.json`"):
        assets.register_tokenizer(ws, tmp_path, "x", [], actor="operator")


def test_a_recipe_is_registered_with_every_field(ws):
    body = {"name": "tiny", "method": "pretrain", "data": {"dataset": "house", "splits": {"a_train": 1}},
            "sequence_length": 32, "budget": {"steps": 1}}  # fmt: skip
    recipe = recipes.Recipe.model_validate(body)
    asset = assets.register_recipe(ws, recipe, actor="operator")
    assert ws.get(asset.id, Recipe).digest == recipe.digest
    assert asset.body["body"]["seed"] == recipe.seed
    assert assets.register_recipe(ws, recipe, actor="operator").id == asset.id
