"""`hallmark log`: every command on a real workspace, its document under --json, its exit code and its words."""

import json
import subprocess

import pytest

from registry import checkpoints, merkle


@pytest.fixture
def document(hallmark):
    """Run a command line with --json; return its exit code and document."""

    def call(*words):
        code, out, err = hallmark(*words, "--json")
        assert out, err
        return code, json.loads(out)

    return call


def test_show_gives_numbers_and_bodies(document, hallmark):
    code, rows = document("log", "show", "-n", "3", "--kind", "principal.created")
    assert code == 0
    assert [row["kind"] for row in rows] == ["principal.created"] * 3
    assert rows[-1]["body"]["role"]
    assert len(bytes.fromhex(rows[-1]["leaf"])) == 32
    assert f"{rows[-1]['seq']:>6}  {rows[-1]['ts'][:19]}" in hallmark("log", "show")[1]


def test_checkpoint_is_recorded_published_and_verified(ws, document, hallmark, tmp_path):
    place = str(tmp_path / "kept")
    code, made = document("log", "checkpoint", "--publish", place)
    assert (code, made["recorded"]) == (0, True)
    assert made["published"] == f"{place}/{made['size']}.txt"
    assert checkpoints.newest(ws).note == made["note"]
    code, found = document("log", "verify", "--checkpoint", place)
    assert (code, found["problems"], found["first_bad"]) == (0, [], None)
    assert (found["anchored"], found["unanchored"], found["checkpoints"]) == (made["size"], 1, 1)
    code, out, _ = hallmark("log", "verify")
    assert code == 0
    assert out.startswith("verified  log\n")


def test_a_dry_run_leaves_nothing(ws, document, tmp_path):
    before = ws.store.size()
    code, made = document("log", "checkpoint", "--dry-run", "--publish", str(tmp_path / "kept"))
    assert (code, made["recorded"], made["published"]) == (0, False, "")
    assert made["size"] == before == ws.store.size()
    assert not (tmp_path / "kept").exists()


def test_the_setting_names_the_place(ws, hallmark, tmp_path, monkeypatch):
    monkeypatch.setenv("HALLMARK_CHECKPOINT_PUBLISH", str(tmp_path / "kept"))
    code, out, _ = hallmark("log", "checkpoint", "--as", "auditor")
    assert code == 0
    assert "/auditor " in out
    assert "published at" in out
    assert (tmp_path / "kept" / "latest.txt").read_text() in out


def test_a_failed_publication_keeps_the_checkpoint(ws, hallmark, tmp_path):
    code, _, err = hallmark("log", "checkpoint", "--publish", str(tmp_path / "none.git"))
    assert code == 2
    assert "is signed and recorded, but not published: git ls-remote failed" in err
    assert "hint: " in err
    assert checkpoints.newest(ws).size == ws.store.size() - 1


def test_only_operators_and_auditors_may(hallmark, ws):
    code, _, err = hallmark("log", "checkpoint", "--as", "trainer")
    assert code == 1
    assert "may not checkpoint" in err
    assert checkpoints.newest(ws) is None


def test_a_bad_record_is_named_with_exit_code_1(ws, document, hallmark):
    hallmark("log", "checkpoint")
    ws.store.sync()
    path = ws.journal.segments()[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, found = document("log", "verify")
    assert code == 1
    assert found["first_bad"]["segment"] == path.stem
    assert found["first_bad"]["byte"] < len(data) // 2
    code, out, _ = hallmark("log", "verify")
    assert code == 1
    assert out.startswith("NOT VERIFIED  log\n  journal segment `000001.seg` is broken at byte ")


def test_proofs_and_receipts_are_written_and_hold(ws, document, hallmark, tmp_path):
    hallmark("log", "checkpoint")
    out = tmp_path / "proof.json"
    code, proof = document("log", "prove", "4", "--out", str(out))
    assert code == 0
    assert json.loads(out.read_bytes()) == proof
    path = [bytes.fromhex(step) for step in proof["proof"]]
    leaf = merkle.leaf_hash(proof["payload"].encode())
    assert merkle.verify_inclusion(leaf, 3, proof["size"], path, bytes.fromhex(proof["root"]))
    receipt = tmp_path / "receipt.json"
    assert hallmark("log", "receipt", "4", "--out", str(receipt))[1] == f"written to {receipt}\n"
    assert hallmark("log", "verify", "--receipt", str(receipt))[0] == 0
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"hash": "0" * 64}))
    code, found = document("log", "verify", "--receipt", str(receipt))
    assert (code, found["first_bad"]["seq"]) == (1, 4)
    code, _, err = hallmark("log", "prove", "99999")
    assert (code, "fits no records" in err) == (2, True)


def test_help_shows_an_example_and_git_keeps_checkpoints(hallmark, document, tmp_path):
    for name in ("show", "verify", "checkpoint", "prove", "receipt"):
        assert "Example: hallmark log " + name in hallmark("log", name, "--help")[1]
    bare = tmp_path / "kept.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(bare)], check=True)
    made = document("log", "checkpoint", "--publish", f"git+{bare}#main")[1]
    found = document("log", "verify", "--checkpoint", f"git+{bare}#main")[1]
    assert (found["problems"], found["anchored"]) == ([], made["size"])
