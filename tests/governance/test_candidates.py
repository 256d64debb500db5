"""Candidates: every part that would serve is in the digest."""

import json
from dataclasses import replace

import pytest

from governance import candidates
from registry.errors import NotFound, Refused, SpecError
from registry.records import Adapter, Candidate, ModelVersion


def test_the_same_parts_are_the_same_candidate(ws, add_version):
    version = add_version()
    first = candidates.create(ws, version.id, actor="trainer")
    assert candidates.create(ws, "code", actor="evaluator").id == first.id
    record = ws.get(first.id, Candidate)
    assert record.weights == version.body["manifest"]
    assert record.engine == "transformers"
    assert record.engine_version[0].isdigit()
    assert record.generation == {"eos_token_id": 1}


def test_each_part_changes_the_candidate_and_is_named_in_the_difference(ws, add_version, tmp_path):
    version = add_version().id
    plain = candidates.create(ws, version, actor="trainer")
    template, prompt = tmp_path / "t.jinja", tmp_path / "p.txt"
    template.write_text("{{ messages[0] }}")
    prompt.write_text("Be brief.")
    policy = tmp_path / "policy"
    from governance.setup import default_bundle

    policy.mkdir()
    for path in default_bundle().iterdir():
        if path.is_file():
            (policy / path.name).write_bytes(path.read_bytes())
    text = (policy / "bundle.yaml").read_text()
    (policy / "bundle.yaml").write_text(text + "# changed\n")
    changed = {
        "template": candidates.create(ws, version, template=template, actor="trainer"),
        "system_prompt": candidates.create(ws, version, system_prompt=prompt, actor="trainer"),
        "engine": candidates.create(ws, version, engine="vllm", actor="trainer"),
        "bundle": candidates.create(ws, version, policy=str(policy), actor="trainer"),
    }
    differ = {name: candidates.difference(ws, plain.id, other.id) for name, other in changed.items()}
    assert differ == {
        "template": ["weights", "template"],
        "system_prompt": ["system_prompt", "generation"],
        "engine": ["engine", "engine_version"],
        "bundle": ["bundle"],
    }
    served = ws.artifacts.manifest(changed["template"].body["weights"])
    assert ws.artifacts.read_bytes(served.entry("chat_template.jinja").blake3) == b"{{ messages[0] }}"


def test_a_version_means_its_newest_candidate(ws, add_version, tmp_path):
    version = add_version()
    with pytest.raises(NotFound, match="has no candidate yet"):
        candidates.existing_candidate(ws, "code")
    made = candidates.candidate_of(ws, "code", actor="trainer")
    assert candidates.existing_candidate(ws, version.id[7:20]).id == made.id
    other = candidates.create(ws, "code", engine="vllm", actor="trainer")
    assert candidates.existing_candidate(ws, "code").id == other.id
    assert candidates.candidate_of(ws, made.id, actor="trainer").id == made.id


def test_incomplete_versions_and_unknown_parts(ws, add_version, model, tmp_path):
    version = add_version().id
    with pytest.raises(SpecError, match="unknown engine `vlm`"):
        candidates.create(ws, version, engine="vlm", actor="trainer")
    with pytest.raises(NotFound, match="unknown bundle"):
        candidates.create(ws, version, policy="nope", actor="trainer")
    with pytest.raises(NotFound, match="cannot read"):
        candidates.create(ws, version, template=tmp_path / "absent", actor="trainer")
    (model / "tokenizer.json").unlink()
    with pytest.raises(SpecError, match="has no `tokenizer.json`"):
        candidates.create(ws, add_version(b"q").id, actor="trainer")


def test_a_bundle_is_its_files_without_what_python_left_beside_them(ws, tmp_path):
    from governance.setup import default_bundle

    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in default_bundle().iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    first = candidates.register_bundle(ws, folder, actor="policy-author")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"1")
    assert candidates.register_bundle(ws, folder, actor="policy-author").id == first.id
    names = {entry.path for entry in ws.artifacts.manifest(first.body["manifest"]).entries}
    assert json.dumps(sorted(names)) == json.dumps(
        sorted(path.name for path in default_bundle().iterdir() if path.is_file())
    )


def lora(ws, tmp_path, base, name="tone"):
    """Register a small adapter in PEFT's format, of rank 2 over one projection."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes = {f"{layer}.lora_A.weight": (2, 8), f"{layer}.lora_B.weight": (8, 2)}
    save_file({key: np.zeros(shape, np.float32) for key, shape in shapes.items()}, folder / "adapter_model.safetensors")
    manifest = ws.artifacts.add_tree(folder)
    weights = {entry.path: entry.sha256 for entry in manifest.entries if entry.path.endswith(".safetensors")}
    record = Adapter(name, base, manifest.id, "LORA", 2, weights)
    return ws.register(record, actor="trainer", name=name, parents=[("base", base)])


def test_an_adapter_is_part_of_the_candidate_and_bound_to_its_base(ws, add_version, tmp_path):
    version, other = add_version(), add_version(b"b")
    adapter = lora(ws, tmp_path, version.id)
    bare = candidates.create(ws, version.id, actor="trainer")
    tuned = candidates.create(ws, version.id, adapter="tone", actor="trainer")
    assert candidates.difference(ws, bare.id, tuned.id) == ["adapter"]
    assert ws.get(tuned.id, Candidate).adapter == adapter.body["manifest"]
    assert ("adapter", adapter.id) in tuned.parents
    assert "adapter" not in bare.body
    with pytest.raises(Refused, match="adapter `tone:1` belongs to version"):
        candidates.create(ws, other.id, adapter="tone", actor="trainer")


def test_the_quantisation_of_the_weights_or_of_their_loading_is_part_of_the_candidate(ws, add_version, tmp_path):
    version = add_version()
    plain = candidates.create(ws, version.id, engine="vllm", actor="trainer")
    loaded = candidates.create(ws, version.id, engine="vllm:fp8", actor="trainer")
    assert (plain.body["quantisation"], loaded.body["quantisation"]) == ("none", "fp8")
    assert candidates.difference(ws, plain.id, loaded.id) == ["quantisation"]
    for engine, asked in (("transformers", "fp8"), ("vllm", "int3")):
        with pytest.raises(SpecError, match=asked):
            candidates.create(ws, version.id, engine=f"{engine}:{asked}", actor="trainer")


def test_weights_that_are_stored_quantised_are_named_so(ws, add_version, tmp_path):
    base = add_version()
    model = ws.get(base.id, ModelVersion)
    folder = ws.artifacts.checkout(model.manifest, tmp_path / "stored")
    config = folder / "config.json"
    config.unlink(missing_ok=True)
    config.write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    stored = ws.register(replace(model, manifest=ws.artifacts.add_tree(folder).id), actor="trainer", name="stored")
    for engine in ("vllm", "transformers:gptq"):
        made = candidates.create(ws, stored.id, engine=engine, actor="trainer")
        assert made.body["quantisation"] == "gptq"
    with pytest.raises(SpecError, match="stored as gptq"):
        candidates.create(ws, stored.id, engine="vllm:fp8", actor="trainer")
