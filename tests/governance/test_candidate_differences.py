"""The command that judges a change says what changed: each part alone, by its own name."""

import dataclasses
import json
import shutil

import pytest

from governance import candidates, differences
from registry.records import Candidate, Dataset, ModelVersion, Run


@pytest.fixture
def add(ws, model):
    """Register a version: what it was trained on, its recipe, its weights and its configuration; return its id."""

    def make(*, data="a", steps=1, weights=b"a", config=None):
        (model / "model.safetensors").write_bytes(weights * 64)
        if config is not None:
            (model / "config.json").write_text(json.dumps(config))
        record = Dataset("d", "sha256:s", f"sha256:{data}", "sha256:m", {"train": 1}, [], {}, [])
        dataset = ws.register(record, actor="trainer", name="d")
        recipe = {"name": "code", "steps": steps, "data": {"dataset": dataset.id, "splits": {"train": 1.0}}}
        run = Run("pretrain", f"sha256:{steps}", recipe, [dataset.id], None, "x", steps, 1, {}, {})
        made = ws.register(run, actor="trainer", parents=[("dataset", dataset.id)])
        manifest = ws.artifacts.add_tree(model)
        version = ModelVersion("code", manifest.id, made.id, None, [dataset.id], "MistralForCausalLM", 64, {})
        return ws.register(version, actor="trainer", name="code", parents=[("run", made.id)]).id

    return make


@pytest.fixture
def plain(ws, add):
    return candidates.create(ws, add(), actor="trainer")


def test_the_same_candidate_differs_in_nothing(ws, plain):
    assert differences.parts(ws, plain.id, plain.id) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": "b"}, ["data"]),
        ({"steps": 2}, ["recipe"]),
        ({"weights": b"b"}, ["weights"]),
        ({"data": "b", "weights": b"b"}, ["data", "weights"]),
    ],
)
def test_what_a_version_was_made_of_is_told_apart(ws, add, plain, change, named):
    other = candidates.create(ws, add(**change), actor="trainer")
    assert differences.parts(ws, plain.id, other.id) == named


def test_another_template_is_not_other_weights(ws, add, plain, tmp_path):
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages[0] }}")
    other = candidates.create(ws, add(), template=template, actor="trainer")
    assert differences.parts(ws, plain.id, other.id) == ["template"]


def test_a_prompt_a_policy_and_an_engine_are_named(ws, add, plain, tmp_path):
    from governance.setup import default_bundle

    prompt, policy = tmp_path / "p.txt", tmp_path / "policy"
    prompt.write_text("Be brief.")
    shutil.copytree(default_bundle(), policy, ignore=shutil.ignore_patterns("__pycache__"))
    (policy / "bundle.yaml").write_text((policy / "bundle.yaml").read_text() + "# changed\n")
    made = {
        "system_prompt": candidates.create(ws, add(), system_prompt=prompt, actor="trainer"),
        "bundle": candidates.create(ws, add(), policy=str(policy), actor="trainer"),
    }
    for name, other in made.items():
        assert differences.parts(ws, plain.id, other.id) == [name]
    engine = candidates.create(ws, add(), engine="vllm", actor="trainer")
    assert differences.parts(ws, plain.id, engine.id) == ["engine", "engine_version"]


@pytest.mark.parametrize("field", ["engine_version", "quantisation", "adapter"])
def test_an_engine_s_version_a_quantisation_and_an_adapter_are_named(ws, plain, field):
    record = dataclasses.replace(ws.get(plain.id, Candidate), **{field: "other"})
    other = ws.register(record, actor="trainer", name="code", parents=plain.parents)
    assert differences.parts(ws, plain.id, other.id) == [field]


def test_a_quantisation_in_the_model_s_own_configuration_is_named(ws, add, plain):
    config = {"architectures": ["MistralForCausalLM"], "quantization_config": {"quant_method": "bitsandbytes"}}
    other = candidates.create(ws, add(weights=b"q", config=config), actor="trainer")
    assert differences.parts(ws, plain.id, other.id) == ["weights", "quantisation"]
