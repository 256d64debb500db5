"""Evidence bundles: what is in them, who may make one, and that a reader needs nothing of ours to check one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from governance import evidence, promotion, weights_signing
from governance.cli.app import run
from governance.cli.main import cli
from governance.setup import add_key
from governance.standing import standings
from registry import principals, verifier
from registry.attestation import verify_certificate
from registry.errors import NotFound, Refused, Tampered
from tests.governance import proving

ISOLATED = """\
import importlib.abc, runpy, sys
allowed = set(sys.stdlib_module_names) | {"cryptography", "_cffi_backend"}
class Only(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed:
            raise ImportError(f"{name} is neither the standard library nor cryptography")
sys.meta_path.insert(0, Only())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def own(made, tmp_path):
    return proving.copied(made, tmp_path)


def test_a_bundle_holds_what_an_outsider_needs(made):
    ws, certificate, bundle = made
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    candidate = ws.resolve(certificate.body["candidate"], "candidate").body
    manifests = {f"manifests/{candidate[part][7:]}.json" for part in ("weights", "bundle")}
    assert names == manifests | {
        "index.json", "checkpoint.txt", "events.jsonl", "certificate.json", "revocations.json", "consistency.json",
        "weights.sigstore.json", "weights.pub.pem", "bom.cdx.json", "dossier.json", "dossier.html",
    }  # fmt: skip
    found = verifier.verify(bundle, ws.settings.workspace_id)
    kinds = {record["what"] for record in found.records}
    assert kinds >= {"certificate", "candidate", "decision", "eval_run", "suite", "version", "run", "dataset",
                     "approval.given", "alias.moved", "principal.created", "weights.signed"}  # fmt: skip
    assert found.problems == []
    assert any("approved by approver; trained by trainer" in text for text in found.checked)


def test_the_verifier_runs_alone_with_nothing_but_cryptography(made, tmp_path):
    ws, _, bundle = made
    alone = tmp_path / "verifier.py"
    alone.write_bytes(Path(verifier.__file__).read_bytes())
    arguments = [sys.executable, "-I", "-c", ISOLATED, str(alone), str(bundle), "--root", ws.settings.workspace_id]
    done = subprocess.run([*arguments, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["problems"] == []
    done = subprocess.run([*arguments[:-1], "0" * 64], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("NOT VERIFIED")


def test_only_an_operator_makes_one_and_only_of_what_was_certified(own, tmp_path):
    ws, certificate, _ = own
    with pytest.raises(Refused, match="signed by an operator"):
        evidence.export(ws, certificate.id, tmp_path / "out", actor="auditor")
    with pytest.raises(NotFound, match="nothing of `absent` was certified"):
        evidence.export(ws, "absent", tmp_path / "out")
    with pytest.raises(Refused, match="holds something already"):
        evidence.export(ws, certificate.id, own[2])
    assert not (tmp_path / "out").exists()


def test_altered_weights_are_not_exported(own, tmp_path):
    ws, certificate, _ = own
    weights = ws.resolve(certificate.body["candidate"], "candidate").body["weights"]
    proving.flip(ws.artifacts.path(ws.artifacts.manifest(weights).entry("model.safetensors").blake3))
    with pytest.raises(Tampered, match="model.safetensors"):
        evidence.export(ws, certificate.id, tmp_path / "out", with_weights=True)
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.slow
def test_a_rotated_key_keeps_its_signatures_and_a_revoked_one_loses_them(own, tmp_path):
    ws, certificate, bundle = own
    root = ws.settings.workspace_id
    add_key(ws, "olga", "operator", signer="operator")
    for name in ("evaluator", "approver"):
        (ws.keys.root / f"{name}.pem").rename(ws.keys.root / f"{name}-old.pem")
        principals.rotate(ws, name, ws.keys.create(name).public, signer="olga")
    verify_certificate(ws, certificate.id)
    later = evidence.export(ws, certificate.id, tmp_path / "later", actor="olga")
    found = verifier.verify(later, root)
    assert found.problems == []
    assert len(found.keys) == 9
    principals.revoke(ws, "evaluator", reason="lost", signer="operator")
    assert verifier.verify(evidence.export(ws, certificate.id, tmp_path / "still"), root).problems == []
    assert verifier.verify(bundle, root).problems == []


@pytest.mark.slow
def test_revoking_the_key_that_judged_voids_the_certificate(own, tmp_path):
    ws, certificate, bundle = own
    principals.revoke(ws, "evaluator", reason="stolen", signer="operator")
    found = verifier.verify(evidence.export(ws, certificate.id, tmp_path / "after"), ws.settings.workspace_id)
    assert any("decision: record" in text and "does not count" in text for text in found.problems)
    assert verifier.verify(bundle, ws.settings.workspace_id).problems == []


def test_the_revocation_list_is_signed_and_names_what_was_revoked(own, tmp_path):
    ws, certificate, _ = own
    promotion.revoke(ws, certificate.id, reason="leaks")
    out = tmp_path / "revocations.json"
    assert run(cli, ["certificate", "revocations", "--out", str(out), "--workspace", str(ws.root)]) == 0
    keys = {p.keyid: verifier.Key(p.name, p.role, p.public, 0) for p in ws.principals().values()}
    listed, signer = verifier.opened(json.loads(out.read_bytes()), evidence.REVOCATIONS_TYPE, keys)
    assert signer.role == "operator"
    assert [(item["id"], item["reason"]) for item in listed["certificates"]] == [(certificate.id, "leaks")]
    assert [(one.state, one.version) for one in standings(ws)] == [("revoked", "code:1")]


def test_a_revocation_nobody_signed_gets_no_operators_signature(own):
    ws, certificate, *_ = own
    ws.journal.append([("certificate.revoked", certificate.id, {"reason": "forged"}, "operator")])
    with pytest.raises(Tampered, match="carries no signature"):
        evidence.revocations(ws, "operator")


@pytest.mark.slow
def test_the_certificate_noun_shows_lists_and_signs(own, tmp_path, capsys):
    ws, certificate, _ = own
    place = ["--workspace", str(ws.root)]
    assert run(cli, ["certificate", "list", *place]) == 0
    assert f"{certificate.id[7:19]}  code:1               valid" in capsys.readouterr().out
    assert run(cli, ["certificate", "show", "code", *place]) == 0
    shown = capsys.readouterr().out
    assert "approved by  approver" in shown
    assert "weights/model.safetensors" in shown
    assert run(cli, ["certificate", "sign-weights", certificate.id, "--out", str(tmp_path / "sig"), *place]) == 0
    assert {path.name for path in (tmp_path / "sig").iterdir()} == {"weights.sigstore.json", "weights.pub.pem"}
    assert run(cli, ["certificate", "sign-weights", certificate.id, "--as", "trainer", *place]) == 1
    assert run(cli, ["report", "bom", "code", "--out", str(tmp_path / "bom.json"), *place]) == 0
    assert run(cli, ["report", "dossier", "code", "--format", "bundle", "--out", str(tmp_path / "b"), *place]) == 0
    assert (tmp_path / "b" / "index.json").is_file()
    assert run(cli, ["verify", "--print-verifier"]) == 0
    assert capsys.readouterr().out.endswith(Path(verifier.__file__).read_text(encoding="utf-8"))


# ---- model signing ---------------------------------------------------------------------------------------------


def model_signing(bundle, folder):
    command = [Path(sys.executable).parent / "model_signing", "verify", "key"]
    arguments = ["--signature", bundle / "weights.sigstore.json", "--public_key", bundle / "weights.pub.pem", folder]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def test_model_signings_own_command_verifies_the_weights(made, tmp_path):
    folder = proving.model_folder(tmp_path / "model", b"a")
    done = model_signing(made[2], folder)
    assert (done.returncode, "Verification succeeded" in done.stdout + done.stderr) == (0, True)
    (folder / "extra").write_text("x")
    done = model_signing(made[2], folder)
    assert done.returncode != 0
    assert "Extra files found" in done.stdout + done.stderr
    (folder / "extra").unlink()
    proving.flip(folder / "model.safetensors")
    done = model_signing(made[2], folder)
    assert done.returncode != 0
    assert "Hash mismatch for 'model.safetensors'" in done.stdout + done.stderr


def test_a_signature_is_made_once_and_bound_to_the_key(own):
    ws, certificate, _ = own
    first = weights_signing.newest(ws, certificate.id)
    assert weights_signing.sign(ws, certificate.id) == first
    weights_signing.check(ws, first)
    bundle = weights_signing.show(ws, certificate.id)
    assert bundle["public_key"].startswith("-----BEGIN PUBLIC KEY-----")
    (ws.keys.root / f"{weights_signing.KEY}.pem").unlink()
    second = weights_signing.sign(ws, certificate.id)
    assert second.public != first.public
    weights_signing.check(ws, second)
    with pytest.raises(Refused, match="may not sign weights"):
        weights_signing.sign(ws, certificate.id, "trainer")
    proving.flip(ws.artifacts.path(second.signature))
    with pytest.raises(Tampered, match="does not hash to its name"):
        weights_signing.check(ws, second)
