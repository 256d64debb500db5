"""Checkpoints: signed by those who may, verified against the tree, published for others to hold a cut log against."""

import base64
import http.server
import shutil
import subprocess
import threading

import pytest

from registry import checkpoints, merkle, notes, outside
from registry.errors import HallmarkError, NotFound, Refused, SpecError, Tampered
from registry.identity import public_hex
from registry.signers import KeySigner, generate
from registry.workspace import Workspace


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A workspace with an operator, an auditor and a trainer, copied for each test."""
    root = tmp_path_factory.mktemp("fresh") / "ws"
    ws = Workspace.create(root)
    for name in ("auditor", "trainer"):
        ws.add_principal(name, name, public_hex(ws.keys.create(name)), signer="operator")
    ws.store.sync()
    ws.close()
    return root


@pytest.fixture
def ws(fresh, tmp_path):
    shutil.copytree(fresh, tmp_path / "ws")
    return Workspace.open(tmp_path / "ws")


@pytest.fixture
def forked(fresh, tmp_path):
    """The same workspace as `ws` up to its fifth record, and another one after it."""
    shutil.copytree(fresh, tmp_path / "forked")
    other = Workspace.open(tmp_path / "forked")
    other.record("other", "s", {}, actor="me")
    return other


def grow(ws, count, mark="a"):
    ws.journal.append([("count", mark, {"n": n}, "me") for n in range(count)])


def payloads(ws):
    """Every record's bytes in the order of the log, taken from the segment by hand."""
    data, found = ws.journal.segments()[0].read_bytes(), []
    while data:
        length = int.from_bytes(data[:4], "little")
        found.append(data[8 : 8 + length])
        data = data[8 + length :]
    return found


def test_a_checkpoint_is_a_signed_note_over_the_records_bytes(ws):
    grow(ws, 5)
    made = checkpoints.sign(ws, "auditor")
    records = payloads(ws)
    assert made.size == len(records) - 1
    assert made.root == merkle.root([merkle.leaf_hash(record) for record in records[:-1]])
    lines = made.note.split("\n")
    origin = f"hallmark/{ws.settings.workspace_id}"
    assert lines[:3] == [origin, str(made.size), base64.b64encode(made.root).decode()]
    assert lines[3] == f"time {made.time}"
    assert lines[5].startswith(f"— {origin}/auditor ")
    auditor = ws.principal("auditor")
    notes.verify(made.note, [notes.Verifier(f"{origin}/auditor", auditor.public)])
    assert checkpoints.newest(ws) == made
    row = ws.store.query("SELECT subject, body, actor FROM event WHERE kind = 'checkpoint.signed'")[0]
    assert (row["subject"], row["actor"]) == (str(made.size), "auditor")
    assert made.root.hex() in row["body"]


def test_a_later_checkpoint_covers_the_earlier_one(ws):
    assert checkpoints.newest(ws) is None
    first = checkpoints.sign(ws, "operator")
    grow(ws, 3)
    second = checkpoints.sign(ws, "operator")
    assert second.size == first.size + 4
    assert checkpoints.recorded(ws) == [first, second]
    leaves = [merkle.leaf_hash(record) for record in payloads(ws)][: second.size]
    proof = merkle.consistency_proof(leaves, first.size)
    assert merkle.verify_consistency(first.size, second.size, first.root, second.root, proof)


def test_only_operators_and_auditors_sign(ws):
    before = len(payloads(ws))
    with pytest.raises(Refused, match="`trainer` \\(trainer\\) may not sign"):
        checkpoints.sign(ws, "trainer")
    assert len(payloads(ws)) == before
    held = checkpoints.draft(ws, "operator")
    text = held.note.split("\n\n")[0] + "\n"
    by_trainer = notes.sign(text, f"{held.origin}/trainer", ws.keys.load("trainer"))
    with pytest.raises(Refused, match="no known key"):
        checkpoints.verify(ws.settings.workspace_id, by_trainer, ws.principals())


def test_a_key_that_is_not_ed25519_cannot_sign(ws):
    public = public_hex(ws.keys.create("second", algorithm="p256"))
    ws.add_principal("second", "auditor", public, signer="operator")
    with pytest.raises(SpecError, match="p256"):
        checkpoints.sign(ws, "second")


def test_what_was_signed_before_a_key_was_revoked_or_replaced_keeps_counting(ws):
    from registry import principals

    early = checkpoints.sign(ws, "auditor")
    old = ws.keys.load("auditor")
    principals.revoke(ws, "auditor", reason="lost", signer="operator")
    with pytest.raises(Refused, match="revoked"):
        checkpoints.sign(ws, "auditor")
    assert checkpoints.verify(ws.settings.workspace_id, early.note, ws.principals())[1][0].name == "auditor"
    late = checkpoints.draft(ws, "operator")
    forged = notes.sign(late.note.split("\n\n")[0] + "\n", f"{late.origin}/auditor", old)
    with pytest.raises(Refused, match="did not count at"):
        checkpoints.verify(ws.settings.workspace_id, forged, ws.principals())


def test_a_checkpoint_of_another_log_is_refused(ws, tmp_path):
    other = checkpoints.sign(Workspace.create(tmp_path / "other"), "operator")
    with pytest.raises(Refused, match="of the log"):
        checkpoints.verify(ws.settings.workspace_id, other.note, ws.principals())


def test_a_recorded_checkpoint_that_does_not_hold_is_passed_over(ws):
    first = checkpoints.sign(ws, "auditor")
    made = checkpoints.draft(ws, "operator")
    ws.record("checkpoint.signed", "2", {"note": made.note, "size": 2, "root": made.root.hex()}, actor="operator")
    ws.record("checkpoint.signed", "many", {}, actor="operator")
    with pytest.raises(Tampered, match="differs from its signed note"):
        checkpoints.recorded(ws)
    assert checkpoints.newest(ws) == first
    assert checkpoints.newest(ws) != checkpoints.sign(ws, "operator") == checkpoints.newest(ws)


def test_a_log_shorter_than_its_recorded_checkpoint_gets_no_new_one(ws):
    made = checkpoints.draft(ws, "operator")
    text = made.note.split("\n\n")[0].replace(f"\n{made.size}\n", "\n99\n") + "\n"
    note = notes.sign(text, f"{made.origin}/operator", ws.keys.load("operator"))
    ws.record("checkpoint.signed", "99", {"note": note, "size": 99, "root": made.root.hex()}, actor="operator")
    with pytest.raises(Tampered, match="over 99 records was recorded"):
        checkpoints.sign(ws, "operator")


SIGNER = KeySigner(generate())
ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize("text", [
    f"o\n3\n{ROOT}\n", f"o\n3\n{ROOT}\ntime now\n", f"o\n03\n{ROOT}\ntime 2026-01-01T00:00:00Z\n",
    f"o\n-3\n{ROOT}\ntime 2026-01-01T00:00:00Z\n", f"o\n٣\n{ROOT}\ntime 2026-01-01T00:00:00Z\n",
    "o\n3\nAAAA\ntime 2026-01-01T00:00:00Z\n", f"o\n3\n{ROOT[:-2]}\ntime 2026-01-01T00:00:00Z\n",
    f"o\n3\n{ROOT}\ntime 2026-01-01T00:00:00\n", f"o\n3\n{ROOT}\ntime 2026-01-01T00:00:00Z\nmore\n",
    f"\n3\n{ROOT}\ntime 2026-01-01T00:00:00Z\n",
])  # fmt: skip
def test_malformed_checkpoints_are_refused(text):
    with pytest.raises(Tampered, match="malformed checkpoint"):
        checkpoints.parse(notes.sign(text, "o/key", SIGNER))


# ---- publishing ------------------------------------------------------------------------------------------------


def git(*words):
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def bare(tmp_path):
    path = tmp_path / "kept.git"
    git("init", "--quiet", "--bare", str(path))
    return path


@pytest.fixture
def endpoint():
    """A real HTTP server that keeps what is PUT and serves it again; `/full/...` answers 507."""
    kept = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = 507 if self.path.startswith("/full") else 201
            if status == 201:
                kept[self.path] = body
            self.send_response(status)
            self.end_headers()

        def do_GET(self):
            self.send_response(200 if self.path in kept else 404)
            self.end_headers()
            self.wfile.write(kept.get(self.path, b""))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kept
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_folder_keeps_every_published_checkpoint(ws, tmp_path):
    target = tmp_path / "kept" / "here"
    made = []
    for _ in range(3):
        grow(ws, 2)
        made.append(checkpoints.sign(ws, "operator"))
        assert checkpoints.publish(ws, made[-1], str(target)) == str(target / f"{made[-1].size}.txt")
    assert (target / "latest.txt").read_text() == made[-1].note
    checkpoints.publish(ws, made[0], str(target))
    assert (target / "latest.txt").read_text() == made[-1].note
    assert [note.decode() for _, note in outside.read(str(target))] == [one.note for one in made]


def test_publishing_beside_an_inconsistent_checkpoint_names_both(ws, forked, tmp_path):
    target = str(tmp_path / "kept")
    theirs = checkpoints.sign(forked, "operator")
    checkpoints.publish(forked, theirs, target)
    grow(ws, 1)
    mine = checkpoints.sign(ws, "operator")
    assert (mine.size, mine.root != theirs.root) == (theirs.size, True)
    with pytest.raises(Tampered, match="not consistent with this log") as caught:
        checkpoints.publish(ws, mine, target)
    for checkpoint in (mine, theirs):
        assert base64.b64encode(checkpoint.root).decode() in caught.value.message
    assert checkpoints.newest(ws) == mine
    assert (tmp_path / "kept" / "latest.txt").read_text() == theirs.note
    grow(ws, 7)
    with pytest.raises(Tampered, match="not consistent with this log"):
        checkpoints.publish(ws, checkpoints.sign(ws, "operator"), target)


def test_publishing_from_a_cut_log_is_refused(ws, fresh, tmp_path):
    grow(ws, 5)
    target = str(tmp_path / "kept")
    checkpoints.publish(ws, checkpoints.sign(ws, "operator"), target)
    cut = Workspace.open(shutil.copytree(fresh, tmp_path / "cut"))
    with pytest.raises(Tampered, match="the log was cut"):
        checkpoints.publish(cut, checkpoints.sign(cut, "operator"), target)


def test_a_folder_with_something_else_in_it_is_not_overwritten(ws, tmp_path):
    (tmp_path / "latest.txt").write_text("shopping list\n")
    with pytest.raises(Tampered, match="holds no checkpoint of this log: malformed note"):
        checkpoints.publish(ws, checkpoints.sign(ws, "operator"), str(tmp_path))
    assert (tmp_path / "latest.txt").read_text() == "shopping list\n"
    (tmp_path / "file").write_text("")
    with pytest.raises(HallmarkError, match="cannot write"):
        checkpoints.publish(ws, checkpoints.sign(ws, "operator"), str(tmp_path / "file"))
    with pytest.raises(SpecError, match="no place"):
        checkpoints.publish(ws, checkpoints.sign(ws, "operator"), "")


def test_a_git_repository_gets_a_commit_for_each(ws, bare, tmp_path):
    made = []
    for target in (str(bare), f"git+file://{bare}", f"git+{bare}#main", f"{bare}#other"):
        grow(ws, 1)
        made.append(checkpoints.sign(ws, "operator"))
        checkpoints.publish(ws, made[-1], target)
    checkpoints.publish(ws, made[2], str(bare) + "#main")
    assert git("-C", str(bare), "log", "--format=%s", "main").split("\n")[:-1] == [
        f"Checkpoint over {one.size} records" for one in reversed(made[:3])
    ]
    assert git("-C", str(bare), "show", "main:latest.txt") == made[2].note
    assert git("-C", str(bare), "show", f"other:{made[3].size}.txt") == made[3].note
    git("-C", str(bare), "symbolic-ref", "HEAD", "refs/heads/main")
    assert [note.decode() for _, note in outside.read(str(bare))] == [one.note for one in made[:3]]
    assert list(ws.work("checkpoints").iterdir()) == []


def test_git_refuses_what_is_not_consistent_and_speaks_for_itself(ws, forked, bare, tmp_path):
    checkpoints.publish(forked, checkpoints.sign(forked, "operator"), str(bare))
    grow(ws, 1)
    made = checkpoints.sign(ws, "operator")
    with pytest.raises(Tampered, match="not consistent"):
        checkpoints.publish(ws, made, str(bare))
    with pytest.raises(HallmarkError, match=r"git ls-remote failed: .*does not (appear|exist)") as caught:
        checkpoints.publish(ws, made, str(tmp_path / "none.git"))
    assert caught.value.exit_code == 2
    hook = bare / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho closed for the night >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(HallmarkError, match="git push failed: .*closed for the night"):
        checkpoints.publish(ws, made, f"{bare}#new")
    with pytest.raises(SpecError, match="names no git repository"):
        checkpoints.publish(ws, made, "git+--upload-pack=touch.git")
    assert checkpoints.newest(ws) == made


def test_an_endpoint_gets_a_put_and_its_refusal_is_an_error(ws, endpoint, tmp_path):
    url, kept = endpoint
    made = checkpoints.sign(ws, "operator")
    assert checkpoints.publish(ws, made, f"{url}/log/") == f"{url}/log/{made.size}"
    assert kept == {f"/log/{made.size}": made.note.encode()}
    assert outside.read(f"{url}/log/{made.size}") == [(f"{url}/log/{made.size}", made.note.encode())]
    with pytest.raises(HallmarkError, match="PUT .*/full/.* answered 507"):
        checkpoints.publish(ws, made, f"{url}/full")
    with pytest.raises(HallmarkError, match="GET .* answered 404"):
        outside.read(f"{url}/nothing")
    with pytest.raises(HallmarkError, match="failed: .*refused"):
        outside.read("http://127.0.0.1:9/1")
    assert checkpoints.newest(ws) == made


def test_a_place_without_checkpoints_is_not_an_anchor(tmp_path):
    with pytest.raises(NotFound, match="holds no checkpoint"):
        outside.read(str(tmp_path))
    with pytest.raises(NotFound, match="no file"):
        outside.read(str(tmp_path / "none.txt"))
