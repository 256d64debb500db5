"""Model folders in and out: nothing that runs code comes in, what is wrong is named, and what goes out is the same."""

import json
import os
import struct
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from governance import imports, model_folder
from governance.cli.app import run
from governance.cli.main import cli
from registry.errors import NotFound, Refused, SpecError, Tampered
from registry.records import Adapter, ModelVersion


def tensor_file(path, tensors, *, more=b"", header=None):
    """Write a safetensors file of named byte tensors."""
    place, table = 0, {}
    for name, data in tensors.items():
        table[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [place, place + len(data)]}
        place += len(data)
    text = json.dumps(table).encode() if header is None else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()) + more)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "hf"
    path.mkdir()
    tensor_file(path / "model.safetensors", {"a": bytes(64), "b": bytes(36)})
    (path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (path / "tokenizer.json").write_text("{}")
    return path


@pytest.fixture
def adapter(tmp_path):
    path = tmp_path / "peft"
    path.mkdir()
    tensor_file(path / "adapter_model.safetensors", {"lora_A": bytes(8)})
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    return path


def problems(folder):
    return model_folder.read(folder).problems


def test_export_then_import_gives_the_same_manifest(ws, folder, tmp_path):
    first = imports.import_folder(ws, folder, name="llama", licence="MIT", source="a mirror")
    record = ws.get("llama", ModelVersion)
    assert (record.architecture, record.parameters, record.run) == ("LlamaForCausalLM", 100, None)
    assert set(record.weights) == {"model.safetensors"}
    imports.export(ws, "llama", tmp_path / "out")
    again = imports.import_folder(ws, tmp_path / "out", name="llama")
    assert again.id == first.id
    assert again.body["manifest"] == first.body["manifest"]
    kinds = [row["kind"] for row in ws.store.query("SELECT kind FROM event WHERE kind LIKE 'version.%' ORDER BY seq")]
    assert kinds == ["version.imported", "version.exported", "version.imported"]


def test_an_exported_folder_must_be_new_and_whole(ws, folder, tmp_path):
    asset = imports.import_folder(ws, folder, name="llama")
    with pytest.raises(SpecError, match="there already"):
        imports.export(ws, "llama", folder)
    entry = ws.artifacts.manifest(asset.body["manifest"]).entry("model.safetensors")
    path = ws.artifacts.path(entry.blake3)
    path.chmod(0o644)
    path.write_bytes(bytes(entry.size))
    with pytest.raises(Tampered, match="model.safetensors"):
        imports.export(ws, "llama", tmp_path / "out")
    assert not (tmp_path / "out").exists()


FORBIDDEN = ("pytorch_model.bin", "x.pt", "x.pth", "x.pkl", "x.ckpt", "x.h5", "x.msgpack", "x.gguf", "modeling_own.py",
             "sub/kernel.so", "flax.MSGPACK")  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
def test_files_that_may_run_code_or_are_not_supported_are_named(ws, folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(SpecError, match=name.replace(".", r"\.")):
        imports.import_folder(ws, folder, name="llama")
    assert ws.assets("version") == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_auto_map_is_refused_at_any_depth(folder, name):
    value = {"architectures": ["X"], "text_config": [{"auto_map": {"AutoModel": "own.Model"}}]}
    (folder / name).write_text(json.dumps(value))
    assert any(name in line and "auto_map" in line for line in problems(folder))


HEADERS = [
    (b"", "no JSON"),
    (b"[1]", "not a JSON object"),
    (b"{", "Expecting"),
    (b'{"a": {"dtype": "U8"}}', "no dtype, shape and two offsets"),
    (b'{"a": {"dtype": "Q9", "shape": [2], "data_offsets": [0, 2]}}', "does not exist"),
    (b'{"a": {"dtype": "U8", "shape": [-2], "data_offsets": [0, 2]}}', "does not exist"),
    (b'{"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 2]}}', "its shape says 3"),
    (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2]}}', "its shape says 8"),
    (b'{"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}', "end at byte 9 of 2"),
    (b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}', "leaves a gap"),
    (b'{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},'
     b' "b": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}', "overlaps"),
    (b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}', "end at byte 1 of 2"),
    (b'{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},'
     b' "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}', "twice"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "why"), HEADERS)
def test_a_malformed_safetensors_header_is_named(folder, header, why):
    tensor_file(folder / "model.safetensors", {"x": b"12"}, header=header)
    found = problems(folder)
    assert len(found) == 1
    assert "model.safetensors" in found[0]
    if why != "no JSON":
        assert why in found[0]


@pytest.mark.parametrize("data", [b"", b"1234567", struct.pack("<Q", 1 << 60), struct.pack("<Q", 100) + b"{}"])
def test_a_file_shorter_than_its_header_is_named(folder, data):
    (folder / "model.safetensors").write_bytes(data)
    assert "longer than the file" in problems(folder)[0]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 200), place=st.integers(0, 199), value=st.integers(0, 255))
def test_no_bytes_make_the_reader_fail_otherwise(folder, cut, place, value):
    path = folder / "other.safetensors"
    tensor_file(path, {"a": bytes(40), "b": bytes(2)})
    data = bytearray(path.read_bytes()[:cut])
    if place < len(data):
        data[place] = value
    path.write_bytes(data)
    found = model_folder.read(folder)
    assert found.problems or sum(found.elements["other.safetensors"].values()) == 42


def shard(folder, weight_map):
    (folder / "model.safetensors").unlink()
    tensor_file(folder / "model-00001-of-00002.safetensors", {"a": bytes(10)})
    tensor_file(folder / "consolidated.safetensors", {"a": bytes(10), "b": bytes(5)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_an_index_whose_shards_are_missing_is_refused(folder):
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    shard(folder, {"a": first, "b": second, "c": "../../etc/passwd"})
    assert [line for line in problems(folder) if second in line and "missing" in line]
    assert [line for line in problems(folder) if "etc/passwd" in line]
    tensor_file(folder / second, {"other": bytes(5)})
    assert [line for line in problems(folder) if "does not hold tensor `b`" in line]


def test_weights_that_stand_twice_count_once(folder):
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    shard(folder, {"a": first, "b": second})
    tensor_file(folder / second, {"b": bytes(5)})
    found = model_folder.read(folder)
    assert found.problems == []
    assert found.parameters == 15


@pytest.mark.parametrize(("config", "why"), [("{}", "no `architectures`"), ("[]", "not a JSON object"),
                                             ("{", "not JSON"), (None, "is missing")])  # fmt: skip
def test_a_config_that_names_no_architecture_is_refused(folder, config, why):
    if config is None:
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_text(config)
    assert any("config.json" in line and why in line for line in problems(folder))


def test_links_get_a_cure(ws, folder):
    (folder / "model.safetensors").rename(folder.parent / "blob")
    (folder / "model.safetensors").symlink_to(folder.parent / "blob")
    with pytest.raises(SpecError, match="link") as caught:
        imports.import_folder(ws, folder, name="llama")
    assert "cp -rL" in caught.value.hint


def test_an_adapter_is_bound_to_its_base(ws, folder, adapter, tmp_path):
    with pytest.raises(SpecError, match="one base version"):
        imports.import_folder(ws, adapter, name="tuned")
    base = imports.import_folder(ws, folder, name="llama")
    asset = imports.import_folder(ws, adapter, name="tuned", base="llama")
    record = ws.get("tuned", Adapter)
    assert (asset.kind, record.base, record.method, record.rank) == ("adapter", base.id, "LORA", 4)
    assert asset.parents == (("base", base.id),)
    imports.export(ws, "tuned", tmp_path / "out")
    assert imports.import_folder(ws, tmp_path / "out", name="tuned", base="llama").id == asset.id
    with pytest.raises(NotFound):
        imports.import_folder(ws, adapter, name="other", base="nobody")


def test_a_name_and_a_role_are_asked_for(ws, folder):
    with pytest.raises(SpecError, match="no name"):
        imports.import_folder(ws, folder, name="../up")
    with pytest.raises(Refused, match="may not import"):
        imports.import_folder(ws, folder, name="llama", actor="auditor")


def test_the_commands(ws, folder, adapter, tmp_path, capsys):
    at = ["--workspace", str(ws.root)]
    assert run(cli, ["version", "import", str(folder), "--name", "llama", "--dry-run", *at]) == 0
    assert "fine (100 parameters)" in capsys.readouterr().out
    assert run(cli, ["version", "import", str(folder), "--name", "llama", "--licence", "MIT", *at]) == 0
    assert run(cli, ["version", "import", str(adapter), "--name", "tuned", "--base", "llama:1", *at]) == 0
    capsys.readouterr()
    assert run(cli, ["version", "list", *at]) == 0
    assert [line.split()[1:3] for line in capsys.readouterr().out.splitlines()] == [["version", "llama:1"],
                                                                                    ["adapter", "tuned:1"]]  # fmt: skip
    assert run(cli, ["version", "show", "llama", *at]) == 0
    assert "LlamaForCausalLM" in capsys.readouterr().out
    assert run(cli, ["version", "show", "llama", "--json", *at]) == 0
    assert json.loads(capsys.readouterr().out)["body"]["parameters"] == 100
    assert run(cli, ["version", "export", "llama", "--to", str(tmp_path / "out"), *at]) == 0
    assert (tmp_path / "out" / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    (folder / "evil.bin").write_bytes(b"x")
    capsys.readouterr()
    assert run(cli, ["version", "import", str(folder), "--name", "llama", *at]) == 2
    assert "`evil.bin`" in capsys.readouterr().err


REAL = """
import sys
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2)
model = LlamaForCausalLM(config)
model.save_pretrained(sys.argv[1], max_shard_size="20KB")
print(sum(p.numel() for p in model.parameters()))
"""
LOAD = """
import sys
from transformers import AutoModelForCausalLM
print(sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(sys.argv[1]).parameters()))
"""


@pytest.mark.slow
def test_a_real_sharded_folder_comes_in_and_loads_again_from_its_export(ws, tmp_path):
    def python(code, *arguments):
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        command = [sys.executable, "-P", "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        return int(done.stdout.split()[-1])

    count = python(REAL, str(tmp_path / "hf"))
    assert (tmp_path / "hf" / "model.safetensors.index.json").is_file()
    imports.import_folder(ws, tmp_path / "hf", name="llama")
    assert ws.get("llama", ModelVersion).parameters == count
    imports.export(ws, "llama", tmp_path / "out")
    assert python(LOAD, str(tmp_path / "out")) == count
