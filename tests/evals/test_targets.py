"""Targets: verified weights, and endpoints of this machine only."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from evals.targets import null_identity, open_endpoint, open_weights, served_identity, weights_identity
from registry.errors import EngineFailure, NotFound, Tampered
from registry.records import Candidate, sha256


def test_weights_are_a_private_copy_that_is_removed(ws, candidate, tiny_model):
    record = ws.get(candidate.id, Candidate)
    with open_weights(ws, record) as target:
        folder = target.folder
        assert (folder / "config.json").read_bytes() == (tiny_model / "config.json").read_bytes()
        assert target.identity == weights_identity(record)
    assert not folder.exists()


def test_a_flipped_byte_is_found_before_anything_runs(ws, candidate):
    record = ws.get(candidate.id, Candidate)
    entry = ws.artifacts.manifest(record.weights).entry("model.safetensors")
    path = ws.artifacts.path(entry.blake3)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(Tampered, match=r"model\.safetensors"), open_weights(ws, record):
        pass


def test_what_decides_an_answer_is_in_the_identity(ws, plain_candidate):
    known = ws.get(plain_candidate().id, Candidate)
    policy = ws.get(plain_candidate(bundle="other", engine_version="6").id, Candidate)
    changes = ({"weights": b"other"}, {"template": "t"}, {"system_prompt": "s"}, {"generation": {"temperature": 1.0}})
    others = [ws.get(plain_candidate(**change).id, Candidate) for change in changes]
    assert weights_identity(known) == weights_identity(policy)
    assert served_identity(known, "vllm") != served_identity(policy, "vllm")
    assert len({str(weights_identity(each)) for each in (known, *others)}) == 5
    # A null model has no weights of its own: only the seed, and all else, tells two of them apart.
    nulls = [null_identity(ws, each, 1) for each in (known, *others)]
    assert nulls[0] == nulls[1]
    assert len({str(each) for each in nulls}) == 4
    assert null_identity(ws, known, 2) != nulls[0]


def test_random_weights_are_another_model(ws, candidate):
    record = ws.get(candidate.id, Candidate)
    with open_weights(ws, record, random_seed=3) as target:
        assert target.random_seed == 3
        assert target.identity == null_identity(ws, record, 3) != weights_identity(record)
        assert target.size > 1000


def test_the_system_prompt_is_the_one_that_the_candidate_names(ws, plain_candidate):
    prompt = {"generation": {"system_prompt": "Be brief."}}
    good = ws.get(plain_candidate(**prompt, system_prompt=sha256(b"Be brief.")).id, Candidate)
    with open_weights(ws, good) as target:
        assert target.system_prompt == "Be brief."
    other = ws.get(plain_candidate(**prompt, system_prompt=sha256(b"Be long.")).id, Candidate)
    with pytest.raises(Tampered, match="system prompt"), open_weights(ws, other):
        pass


def test_an_adapter_is_merged_into_the_private_copy(ws, candidate, tiny_model, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    module = "model.layers.1.self_attn.o_proj"
    a, b = torch.randn(2, 32), torch.randn(32, 2)
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 6}))
    key = f"base_model.model.{module}"
    save_file({f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}, folder / "adapter_model.safetensors")
    bare = ws.get(candidate.id, Candidate)
    tuned = replace(bare, adapter=ws.artifacts.add_tree(folder).id)
    before = load_file(tiny_model / "model.safetensors")
    with open_weights(ws, tuned) as target:
        after = load_file(target.folder / "model.safetensors")
        assert target.identity == weights_identity(tuned) != weights_identity(bare)
    assert [name for name in before if not torch.equal(before[name], after[name])] == [f"{module}.weight"]
    torch.testing.assert_close(after[f"{module}.weight"], before[f"{module}.weight"] + 3 * (b @ a))
    with open_weights(ws, tuned, random_seed=3) as target:
        assert target.identity == null_identity(ws, bare, 3)


def test_weights_under_an_adapter_that_does_not_fit_are_refused(ws, candidate, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    tuned = replace(ws.get(candidate.id, Candidate), adapter=ws.artifacts.add_tree(tmp_path).id)
    with pytest.raises(NotFound, match="the adapter has no"), open_weights(ws, tuned):
        pass


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "http://localhost:1/v1", "http://[::1]:8000/v1"])
def test_loopback_endpoints_are_accepted(url):
    endpoint = SimpleNamespace(base_url=url, api_key="k", permit="", headers={"x": "y"})
    target = open_endpoint(endpoint, {"candidate": "c"})
    assert target.plain() == {"base_url": url, "api_key": "k", "headers": {"x": "y"}}


@pytest.mark.parametrize("url", ["https://api.example.com/v1", "http://10.0.0.1/v1", "http://127.0.0.1.example.com/"])
def test_other_machines_are_refused_unless_the_user_named_them(url):
    endpoint = SimpleNamespace(base_url=url, api_key="k", permit="", headers={}, model="large")
    with pytest.raises(EngineFailure, match="not on this machine"):
        open_endpoint(endpoint, {})
    assert open_endpoint(endpoint, {}, anywhere=True).plain()["model"] == "large"


@pytest.mark.parametrize("url", ["x", "", "file:///etc/passwd", "http:///v1"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(EngineFailure, match="no address"):
        open_endpoint(SimpleNamespace(base_url=url, api_key="k", permit="", headers={}), {}, anywhere=True)
