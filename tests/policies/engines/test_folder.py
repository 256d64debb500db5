"""What the start of an engine refuses to load: pickles, a repository's own code, weights from elsewhere."""

import json

import pytest

from policies.engines import folder, launch
from registry.errors import NotFound, Refused, SpecError


@pytest.fixture
def model(tmp_path):
    """A folder that looks like a model; no engine is started on it."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (made / "tokenizer.json").write_text("{}")
    (made / "config.json").write_text(json.dumps({"architectures": ["MistralForCausalLM"]}))
    return made


def test_a_plain_folder_passes(model):
    folder.check(model)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_part_is_named(model, name):
    (model / name).unlink()
    with pytest.raises(NotFound, match="no safetensors weights" if "safe" in name else name):
        folder.check(model)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "weights.pth", "extra.pkl", "below/model.ckpt", "tokenizer.pickle"]
)
def test_pickled_files_are_refused_even_beside_safetensors(model, name):
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"\x80\x04.")
    with pytest.raises(Refused, match="is pickled: loading it could run code"):
        folder.check(model)


@pytest.mark.parametrize("name", folder.CONFIGS)
@pytest.mark.parametrize("nest", [lambda asks: asks, lambda asks: {"text_config": asks}, lambda asks: {"x": [asks]}])
def test_code_of_its_own_is_refused_wherever_it_is_asked_for(model, name, nest):
    (model / name).write_text(json.dumps(nest({"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}})))
    with pytest.raises(Refused, match=rf"`{name}` asks for code of its own"):
        folder.check(model)


def test_a_peft_folder_would_load_its_base_from_elsewhere(model):
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/somewhere/else"}))
    with pytest.raises(Refused, match=r"`adapter_config.json` names weights outside this folder"):
        folder.check(model)


@pytest.mark.parametrize(
    "shard", ["../elsewhere.safetensors", "/abs.safetensors", "pytorch_model.bin", "gone.safetensors"]
)
def test_an_index_names_only_safetensors_beside_it(model, shard):
    (model.parent / "elsewhere.safetensors").write_bytes(b"")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": shard}}))
    with pytest.raises(Refused, match="which is no safetensors file of this folder"):
        folder.check(model)
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    folder.check(model)
    index.write_text("{}")
    with pytest.raises(SpecError, match="no `weight_map`"):
        folder.check(model)


def test_an_engine_is_not_started_on_such_a_folder(model, tmp_path):
    (model / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(Refused, match="is pickled"):
        launch.start("transformers", model, tmp_path / "e.sock", served_name="m", log=tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_the_engine_itself_runs_no_code_of_the_folder(model, tmp_path):
    """Past the check, the loader refuses as well: the class it is sent to would leave a mark when imported."""
    from policies.engines.language_model import LanguageModel

    mark = tmp_path / "mark"
    (model / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: ...\nclass EvilConfig: ...\n")
    config = {"model_type": "evil", "architectures": ["Evil"],
              "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.Evil"}}  # fmt: skip
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code|does not recognize"):
        LanguageModel(model, dtype="float32", device="cpu")
    assert not mark.exists()
