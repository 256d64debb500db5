"""Which parts two candidates differ in, told apart: data, recipe, weights, template, policy, engine, quantisation.

A candidate's record binds its model folder as a whole; here the folder is looked into, so that another chat template is
not reported as other weights, and weights trained on other data name the data.
"""

from __future__ import annotations

from typing import Any

import orjson

from evals.contamination import datasets_of
from registry.records import Asset, Candidate, Manifest, ModelVersion, Run
from registry.workspace import Workspace

PARTS = ("data", "recipe", "weights", "adapter", "tokenizer", "template", "system_prompt", "generation", "engine",
         "engine_version", "quantisation", "bundle")  # fmt: skip
"""What may differ, in the order in which it is named."""


def parts(ws: Workspace, first: str, second: str) -> list[str]:
    """Return the names of the parts in which two candidates differ, of `PARTS`; none if they are the same.

    Files of the model folder that are no part of their own (`config.json`) count as weights. The system prompt is
    part of the generation settings too, and named once.

    Raises UnknownName, NotFound, Tampered as the workspace does.
    """
    one, two = _parts(ws, first), _parts(ws, second)
    return [name for name in PARTS if one[name] != two[name]]


def _parts(ws: Workspace, ref: str) -> dict[str, Any]:
    asset = ws.resolve(ref, Candidate.KIND)
    record = ws.get(asset.id, Candidate)
    manifest = ws.artifacts.manifest(record.weights)
    own = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json",
           "generation_config.json"}  # fmt: skip
    return {
        "data": _data(ws, asset),
        "recipe": _recipe(ws, record.version),
        "weights": {entry.path: entry.sha256 for entry in manifest.entries if entry.path not in own},
        "adapter": record.adapter,
        "tokenizer": record.tokenizer,
        "template": record.template,
        "system_prompt": record.system_prompt,
        "generation": {name: value for name, value in record.generation.items() if name != "system_prompt"},
        "engine": record.engine,
        "engine_version": record.engine_version,
        "quantisation": [record.quantisation, _quantised(ws, manifest)],
        "bundle": record.bundle,
    }


def _data(ws: Workspace, candidate: Asset) -> list[tuple[str, tuple[str, ...]]]:
    return [(part.dataset.body["rows_digest"], part.splits) for part in datasets_of(ws, candidate)]


def _recipe(ws: Workspace, version: str) -> str:
    """Return the digest of the recipe that made a version, its data left out: that is a part of its own."""
    run = ws.get(version, ModelVersion).run
    if run is None:
        return ""
    body = {key: value for key, value in ws.get(run, Run).recipe_body.items() if key not in ("data", "name")}
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode()


def _quantised(ws: Workspace, manifest: Manifest) -> str:
    """Return the quantisation that a model folder's own configuration names, or nothing."""
    entry = manifest.entry("config.json")
    found = orjson.loads(ws.artifacts.read_bytes(entry.blake3)).get("quantization_config") if entry else None
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode() if found else ""
