"""`hallmark key`, `platform`, `doctor` and `init` on a real workspace: exit codes, documents, and who may."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from governance.cli.app import run
from governance.cli.main import cli
from registry import principals
from registry.identity import open_envelope, sign_envelope
from registry.signers import KeySigner, generate, public_pem
from registry.workspace import Workspace

SCRIPT = Path(__file__).parents[1] / "stubs" / "openssl_signer.sh"


@pytest.fixture
def hallmark(ws, capsys, monkeypatch):
    """Run a command in the workspace; return (exit code, JSON document or text of stdout, stderr)."""
    ws.close()
    monkeypatch.chdir(ws.root)
    monkeypatch.delenv("HALLMARK_WORKSPACE", raising=False)

    def call(line, text=False):
        words = shlex.split(line)
        code = run(cli, words if text else [*words, "--json"])
        out, err = capsys.readouterr()
        return code, out if text or not out else json.loads(out), err

    return call


def state(hallmark):
    return {row["name"]: row for row in hallmark("key list")[1]["principals"] if row["state"] != "retired"}


@pytest.fixture
def pem(tmp_path):
    signer = KeySigner(generate("p256"))
    path = tmp_path / "dana.pem"
    path.write_text(public_pem(signer.public))
    return path, signer


def test_a_public_key_made_elsewhere_is_registered_and_signs(hallmark, ws, pem):
    path, signer = pem
    code, made, _ = hallmark(f"key create dana --role approver --public {path}")
    assert (code, made["keyid"]) == (0, signer.keyid)
    row = state(hallmark)["dana"]
    assert (row["held"], row["algorithm"], row["held_here"], row["state"]) == ("elsewhere", "p256", False, "active")
    assert not (ws.root / "keys" / "dana.pem").exists()
    envelope = sign_envelope("text/plain", b"x", signer)
    assert open_envelope(envelope, "text/plain", {made["keyid"]: row["public"]})[0] == b"x"
    code, text, _ = hallmark("key export dana", text=True)
    assert (code, text) == (0, path.read_text())
    assert hallmark(f"key create twin --role operator --public {path}")[0] == 1


def test_a_private_key_is_never_taken_as_a_public_one(hallmark, ws):
    code, _, err = hallmark(f"key create dana --role approver --public {ws.root}/keys/trainer.pem")
    assert code == 2
    assert "this is a private key" in err


def test_the_signers_passphrase_and_the_new_keys_are_apart(hallmark, ws, tmp_path):
    (tmp_path / "new").write_text("new secret\n")
    (tmp_path / "own").write_text("own secret\n")
    assert hallmark(f"key rotate operator --new-passphrase-file {tmp_path}/own")[0] == 0
    code, _, err = hallmark("key create eli --role trainer")
    assert code == 2
    assert "does not open with this passphrase" in err
    create = f"key create dana --role trainer --passphrase-file {tmp_path}/own"
    assert hallmark(f"{create} --new-passphrase-file {tmp_path}/new --type p256")[0] == 0
    assert Workspace.open(ws.root).keys.load("dana", b"new secret").algorithm == "p256"


def test_rotation_shows_both_keys(hallmark, ws, pem):
    path, signer = pem
    before = state(hallmark)["approver"]["keyid"]
    assert hallmark("key rotate approver --type p256")[0] == 0
    assert hallmark(f"key rotate approver --public {path}")[0] == 0
    code, rows, _ = hallmark("key show approver")
    assert (code, [row["state"] for row in rows]) == (0, ["retired", "retired", "active"])
    assert (rows[0]["keyid"], rows[2]["keyid"]) == (before, signer.keyid)
    assert rows[2]["held"] == "elsewhere"
    assert not (ws.root / "keys" / "approver.pem").exists()  # a retired key signs nothing by mistake
    assert "retired" in hallmark("key list", text=True)[1]
    assert hallmark("key show nobody")[0] == 2
    assert hallmark("key rotate nobody")[0] == 2


def test_a_rotation_that_was_killed_is_finished_by_the_next(hallmark, ws):
    again = Workspace.open(ws.root)
    staged = again.keys.stage("trainer")
    principals.rotate(again, "trainer", staged.public, signer="operator")
    again.close()
    code, made, _ = hallmark("key rotate trainer")
    assert (code, made["keyid"]) == (0, staged.keyid)
    assert Workspace.open(ws.root).keys.load("trainer").keyid == staged.keyid


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the program openssl is not installed")
def test_an_operator_behind_a_program_vouches_and_is_looked_after(hallmark, ws, tmp_path):
    make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "card.key"]
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
    command = f"sh {SCRIPT} {tmp_path}/card.key"
    with (ws.root / "hallmark.toml").open("a") as file:
        file.write(f'\n[signers]\ncard = "{command}"\n')
    assert hallmark("key create card --role operator")[0] == 0
    assert (state(hallmark)["card"]["held"], state(hallmark)["card"]["algorithm"]) == ("external signer", "p256")
    assert hallmark("key create dana --role trainer --as card")[0] == 0
    assert state(hallmark)["dana"]["state"] == "active"
    lines = {row["name"]: row for row in hallmark("doctor")[1]}
    assert lines["signer card"] == {"name": "signer card", "found": "answers", "ok": True}
    (tmp_path / "card.key").unlink()
    code, _, err = hallmark("key create eli --role trainer --as card")
    assert code == 1
    assert "signer of `card` refused to sign" in err
    lines = {row["name"]: row for row in hallmark("doctor")[1]}
    assert not lines["signer card"]["ok"]


def test_revocation_is_signed_and_refused_to_others(hallmark):
    code, _, err = hallmark("key revoke evaluator --reason left --as trainer")
    assert code == 1
    assert "may not manage keys" in err
    denied = hallmark("log show --kind access.denied")[1]
    assert [(row["actor"], row["subject"]) for row in denied] == [("trainer", "evaluator")]
    assert hallmark("key revoke evaluator --reason left")[0] == 0
    assert state(hallmark)["evaluator"]["state"] == "revoked"
    assert hallmark("key revoke evaluator --reason again")[0] == 1


def test_callers_are_made_and_revoked_by_the_operator(hallmark):
    assert hallmark("key create billing --caller --group engineers")[1]["groups"] == ["engineers"]
    assert hallmark("key revoke billing --reason retired")[1] == {"name": "billing", "revoked": "caller"}
    assert hallmark("key create billing --caller --as auditor")[0] == 1


def test_callers_have_attributes_limits_and_a_certificate(hallmark, ws):
    line = "--group g --attribute purpose=billing --attribute tool=a --attribute tool=b --requests-per-minute 60"
    line += " --tokens-per-minute 1e5 --tokens-per-day 2e6 --concurrent 4"
    code, made, err = hallmark(f"key create billing --caller {line}")
    limits = {"requests_per_minute": 60, "tokens_per_minute": 1e5, "tokens_per_day": 2e6, "concurrent_requests": 4}
    assert (code, made["attributes"]) == (0, {"purpose": "billing", "tool": ["a", "b"], **limits})
    assert made["api_key"].startswith("hk_")
    assert "shown once" in err
    [listed] = hallmark("key list")[1]["callers"]
    assert (listed["name"], listed["attributes"]) == ("billing", made["attributes"])
    text = hallmark("key list", text=True)[1]
    assert (
        "purpose=billing requests_per_minute=60 tokens_per_day=2000000 tokens_per_minute=100000 tool=a tool=b" in text
    )
    assert hallmark("key create other --caller --attribute purpose")[0] == 2
    assert hallmark("key create other --caller --attribute tokens_per_day=5")[0] == 2
    assert hallmark("key create other --caller --requests-per-minute -1")[0] == 2
    assert hallmark("key create token:corp:ada --caller")[0] == 2
    assert hallmark(f"key create other --caller --certificate {ws.root}/hallmark.toml")[0] == 2
    code, _, err = hallmark("key create dana --role approver --attribute a=b")
    assert (code, "`--caller`" in err) == (2, True)


def test_a_caller_of_a_token_is_revoked_by_name(hallmark):
    assert hallmark("key revoke token:corp:eve --reason left")[1] == {"name": "token:corp:eve", "revoked": "caller"}
    assert hallmark("key revoke eve --reason left")[0] == 2
    assert hallmark("key revoke token:corp:ada --reason left --as trainer")[0] == 1


def test_the_platform_policy_is_shown_checked_and_changed(hallmark, tmp_path):
    assert hallmark("key create second --role operator")[0] == 0
    text = hallmark("platform show", text=True)[1]
    new = tmp_path / "new.cedar"
    new.write_text(text.replace('["trainer", "agent"]', '["trainer"]'))
    code, found, _ = hallmark(f"platform check {new}")
    assert (code, found["changes"][0]) == (0, "- agent may no longer build-data")
    code, found, _ = hallmark(f"platform change {new} --reason 'no agents'")
    assert (code, found["voters"], found["needed"]) == (3, ["operator"], 2)
    assert [vote["voters"] for vote in hallmark("platform show")[1]["pending"]] == [["operator"]]
    assert hallmark(f"platform change {new} --reason x --as trainer")[0] == 1
    code, text, _ = hallmark(f"platform change {new} --reason 'agreed' --as second", text=True)
    assert (code, text.startswith("active: 2 of 2 operators (operator, second)")) == (0, True)
    assert hallmark("platform show")[1]["policy"] == new.read_text()
    assert hallmark("platform show --shipped")[1]["policy"] != new.read_text()


def test_a_policy_that_lets_trainers_approve_is_refused_with_1(hallmark, tmp_path):
    new = tmp_path / "new.cedar"
    new.write_text("permit (principal, action, resource);")
    code, found, _ = hallmark(f"platform check {new}")
    assert code == 1
    assert "it lets every trainer approve" in found["refusals"]
    assert hallmark(f"platform change {new} --reason x")[0] == 1


def test_doctor_says_who_holds_what(hallmark, ws, pem):
    lines = {row["name"]: row for row in hallmark("doctor")[1]}
    assert lines["separation of duties"]["found"].startswith("none: one account holds approver, evaluator, operator")
    assert lines["clock"]["ok"]
    assert hallmark(f"key rotate approver --public {pem[0]}")[0] == 0
    (ws.root / "keys" / "trainer.pem").chmod(0o644)
    (ws.root / "keys").chmod(0o777)
    lines = {row["name"]: row for row in hallmark("doctor")[1]}
    assert lines["keys held elsewhere"]["found"] == "approver"
    assert lines["separation of duties"]["found"].startswith("here: evaluator, operator, trainer")
    assert "can be read by others" in lines["key trainer"]["found"]
    assert not lines["key folder"]["ok"]


def test_doctor_does_not_call_an_encrypted_key_bad(hallmark, ws, tmp_path):
    (tmp_path / "secret").write_text("of hers alone\n")
    assert hallmark(f"key create dana --role approver --new-passphrase-file {tmp_path}/secret")[0] == 0
    lines = {row["name"]: row for row in hallmark("doctor")[1]}
    assert (lines["key dana"]["found"], lines["key dana"]["ok"]) == ("encrypted, not opened", True)
    (ws.root / "keys" / "trainer.pem").write_bytes(b"not a key")
    lines = {row["name"]: row for row in hallmark("doctor")[1]}
    assert not lines["key trainer"]["ok"]


def test_init_says_that_one_account_is_no_separation(hallmark, tmp_path):
    (tmp_path / "secret").write_text("root secret\n")
    code, made, err = hallmark(f"init {tmp_path}/other --passphrase-file {tmp_path}/secret")
    assert (code, len(made["principals"])) == (0, 6)
    assert "one person can train, judge, approve and promote alone" in err
    assert b"ENCRYPTED" in (tmp_path / "other" / "keys" / "approver.pem").read_bytes()
