"""What a run was made from, beside its data: its recipe and its tokenizer, registered as assets of their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from registry.errors import NotFound, SpecError
from registry.records import Asset, Recipe, Tokenizer
from registry.workspace import Workspace
from training import recipe as recipes
from training.export import TOKENIZER_FILES


def register_recipe(ws: Workspace, recipe: recipes.Recipe, *, actor: str) -> Asset:
    """Return the asset of a recipe: all its fields, defaults included."""
    record = Recipe(recipe.name, recipe.method, recipe.digest, recipe.model_dump(mode="json"))
    return ws.register(record, actor=actor, name=recipe.name)


def register_tokenizer(ws: Workspace, model: Path, name: str, datasets: Sequence[str], *, actor: str) -> Asset:
    """Return the asset of the tokenizer in a model folder; the same files are the same tokenizer, whoever uses them.

    Args:
        ws: the workspace.
        model: a Hugging Face folder.
        name: what a tokenizer that is not known yet is called.
        datasets: ids of what such a one learned from; none where it came with an imported model.
        actor: who registers it.

    Raises:
        NotFound: the folder has no `tokenizer.json`; SpecError: that file is damaged.
    """
    if not (model / "tokenizer.json").is_file():
        raise NotFound("the model folder has no `tokenizer.json`", hint="train again, or start from a complete folder")
    with tempfile.TemporaryDirectory(dir=ws.work("tokenizers")) as scratch:
        folder = Path(scratch) / "tokenizer"
        folder.mkdir()
        for file in TOKENIZER_FILES:
            if (model / file).is_file():
                shutil.copyfile(model / file, folder / file)
        manifest = ws.artifacts.add_tree(folder)
    known = next((each for each in ws.assets(Tokenizer.KIND) if each.body["manifest"] == manifest.id), None)
    if known is not None:
        return known
    digest = next(entry.sha256 for entry in manifest.entries if entry.path == "tokenizer.json")
    size = vocabulary_size((model / "tokenizer.json").read_bytes())
    record = Tokenizer(name, manifest.id, size, digest, list(datasets))
    return ws.register(record, actor=actor, name=name, parents=[("dataset", ident) for ident in datasets])


def vocabulary_size(text: bytes) -> int:
    """Return how many tokens a `tokenizer.json` knows, added ones included. Raises SpecError for a damaged file."""
    try:
        body: dict[str, Any] = orjson.loads(text)
        vocabulary = body["model"]["vocab"]
        added = {int(token["id"]) for token in body.get("added_tokens") or []}
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise SpecError(f"`tokenizer.json` is damaged: {error}", hint="restore the file") from None
    numbers = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return len(added | set(numbers))
