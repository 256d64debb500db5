"""An adapter is certified with its base, and held to every byte."""

import json

import pytest

from governance import approvals, candidates, drills, evidence, imports, promotion, verification
from governance.setup import create_workspace
from registry import verifier
from registry.attestation import verify_release
from registry.errors import Tampered
from tests.governance import proving
from tests.governance.test_imports import tensor_file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace whose alias `prod` points at a certified version with an adapter; its bundle; its adapter."""
    root = tmp_path_factory.mktemp("adapters")
    ws = create_workspace(root / "ws")
    base = proving.version(ws, root)
    folder = root / "peft"
    folder.mkdir()
    tensor_file(folder / "adapter_model.safetensors", {"lora_A": bytes(range(64))})
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    adapter = imports.import_folder(ws, folder, name="tone", base=base.id)
    candidate = candidates.create(ws, base.id, adapter="tone", actor="trainer")
    proving.judged(ws, candidate, proving.suite(ws, root).id)
    approvals.approve(ws, candidate, reason="reviewed")
    certificate = promotion.promote(ws, candidate, "prod").certificate
    promotion.promote(ws, candidate, "next")
    return ws, certificate, evidence.export(ws, certificate.id, root / "bundle"), adapter


def object_of(ws, adapter, name="adapter_model.safetensors"):
    return ws.artifacts.path(ws.artifacts.manifest(adapter.body["manifest"]).entry(name).blake3)


def test_the_certificate_binds_the_adapter_and_its_base(made):
    ws, _, _, adapter = made
    statement = verify_release(ws, "prod").statement
    names = {subject["name"] for subject in statement["subject"]}
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json", "weights/model.safetensors"} <= names
    assert statement["predicate"]["adapter"] == {
        "id": adapter.id, "manifest": adapter.body["manifest"], "base": adapter.body["base"],
    }  # fmt: skip


def test_an_altered_byte_of_the_adapter_is_named(made):
    ws, certificate, _, adapter = made
    assert verification.verify(ws, "prod").exit_code == 0
    path = object_of(ws, adapter)
    kept = path.read_bytes()
    try:
        proving.flip(path, 0.9)
        for target in ("prod", certificate.id):
            found = verification.verify(ws, target)
            assert found.exit_code == 1
            assert any("adapter_model.safetensors" in problem for problem in found.problems)
        candidate = ws.resolve(certificate.body["candidate"], "candidate")
        with pytest.raises(Tampered, match="adapter"):
            promotion.check_bytes(ws, candidate)
    finally:
        path.chmod(0o644)
        path.write_bytes(kept)
        path.chmod(0o444)
    assert verification.verify(ws, "prod").exit_code == 0


def test_the_bundle_of_a_version_with_an_adapter_verifies_alone(made):
    ws, _, bundle, _ = made
    assert verifier.verify(bundle, ws.settings.workspace_id).problems == []
    manifests = sorted((bundle / "manifests").iterdir())
    named = [path for path in manifests if b"adapter_model.safetensors" in path.read_bytes()]
    assert len(named) == 1
    kept = named[0].read_bytes()
    try:
        proving.flip(named[0], 0.5)
        assert verifier.verify(bundle, ws.settings.workspace_id).problems != []
    finally:
        named[0].write_bytes(kept)


def test_a_drill_names_an_adapter_that_no_engine_can_load(made):
    ws, *_ = made
    other = proving.version(ws, ws.root.parent, b"b")
    plain = candidates.create(ws, other.id, actor="trainer")
    proving.judged(ws, plain, ws.assets("suite")[0].id)
    approvals.approve(ws, plain, reason="reviewed")
    promotion.promote(ws, plain, "next")
    found = drills.drill(ws, "next", reason="monthly")
    assert any("adapter" in problem for problem in found.problems)
