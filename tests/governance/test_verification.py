"""`verify`: green for what is as recorded, and the first thing that is not is named."""

import pytest

from governance import approvals, permits, promotion, verification
from registry.attestation import verify_permit
from registry.errors import NotFound, Refused, Tampered, UnknownName


@pytest.fixture
def promoted(ws, passed):
    candidate = passed()
    approvals.approve(ws, candidate, reason="reviewed")
    promotion.promote(ws, candidate, "prod")
    return candidate


def flip(path):
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_everything_verifies_when_nothing_was_touched(ws, promoted):
    for target in ("prod", "@prod", "code", promoted.id, ws.release("prod").certificate, "log"):
        found = verification.verify(ws, target)
        assert (found.exit_code, found.problems) == (0, ()), found
        assert found.lines()[0].startswith("verified")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "chat_template.jinja", "config.json"])
def test_a_flipped_byte_in_any_served_file_is_named(ws, promoted, name):
    flip(ws.artifacts.path(ws.artifacts.manifest(promoted.body["weights"]).entry(name).blake3))
    for target in ("prod", "code", promoted.id):
        found = verification.verify(ws, target)
        assert found.exit_code == 1
        assert any(f"`{name}` was altered" in line for line in found.lines())


def test_a_flipped_byte_in_the_policy_is_named(ws, promoted):
    flip(ws.artifacts.path(ws.artifacts.manifest(promoted.body["bundle"]).entry("access.cedar").blake3))
    assert "`access.cedar` was altered" in verification.verify(ws, "prod").lines()[1]


def test_a_flipped_byte_in_the_journal_is_named(ws, promoted):
    ws.store.sync()
    flip(ws.journal.segments()[0])
    found = verification.verify_log(ws)
    assert found.exit_code == 1
    assert "is broken at byte" in found.problems[0]


def test_a_truncated_or_missing_segment_is_named(ws, promoted):
    ws.store.sync()
    path = ws.journal.segments()[0]
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    assert "lost its last" in verification.verify_log(ws).problems[0]
    path.unlink()
    assert verification.verify_log(ws).problems == (f"journal segment `{path.name}` is missing",)
    path.write_bytes(data)
    assert verification.verify_log(ws).problems == ()


def test_nothing_of_that_name(ws, promoted):
    with pytest.raises(UnknownName, match="did you mean|unknown target"):
        verification.verify(ws, "prd")


def test_a_permit_names_its_candidate_and_ends(ws, promoted):
    permit = permits.issue(ws, promoted.id, "sha256:s", actor="evaluator")
    found = verify_permit(ws, permit)
    assert (found.candidate.id, found.evaluator) == (promoted.id, "evaluator")
    ended = permits.issue(ws, promoted.id, "sha256:s", actor="evaluator", minutes=-1)
    with pytest.raises(Refused, match="expired"):
        verify_permit(ws, ended)
    with pytest.raises(NotFound, match="no permit"):
        verify_permit(ws, "absent")
    with pytest.raises(Refused, match="may not evaluate"):
        permits.issue(ws, promoted.id, "sha256:s", actor="trainer")


def test_a_permit_copied_under_another_id_is_refused(ws, promoted):
    import orjson

    permit = permits.issue(ws, promoted.id, "sha256:s", actor="evaluator")
    body = orjson.loads(ws.store.query("SELECT body FROM event WHERE kind = 'permit.issued'")[0]["body"])
    ws.record("permit.issued", "0" * 24, body, actor="trainer")
    with pytest.raises(Tampered, match="under another id"):
        verify_permit(ws, "0" * 24)
    assert verify_permit(ws, permit).id == permit
