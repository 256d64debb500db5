"""From PASS to alias and back: nothing moves without verdict, approval, signature and intact bytes."""

import orjson
import pytest

from governance import approvals, promotion
from governance.setup import add_key
from registry.attestation import verify_release
from registry.errors import NotFound, NotYet, Refused, SpecError, Tampered
from registry.records import Certificate, plain


def approve_and_promote(ws, candidate, alias="prod"):
    approvals.approve(ws, candidate, reason="reviewed")
    return promotion.promote(ws, candidate, alias)


def test_a_passed_and_approved_candidate_is_promoted_and_verifies(ws, passed):
    candidate = passed()
    done = approve_and_promote(ws, candidate)
    verified = verify_release(ws, "prod")
    assert done.moved
    assert verified.candidate.id == candidate.id
    names = {subject["name"] for subject in verified.statement["subject"]}
    assert {"weights/model.safetensors", "weights/tokenizer.json", "bundle/bundle.yaml"} <= names
    assert verified.statement["predicate"]["verdict"] == "PASS"


def test_promoting_again_moves_nothing(ws, passed):
    candidate = passed()
    first = approve_and_promote(ws, candidate)
    second = promotion.promote(ws, candidate, "prod")
    assert (second.moved, second.release) == (False, first.release)


@pytest.mark.parametrize(("verdict", "error"), [("FAIL", Refused), ("INVALID", Refused), ("INCONCLUSIVE", NotYet)])
def test_any_other_verdict_is_neither_approved_nor_promoted(ws, passed, judge, verdict, error):
    candidate = passed()
    judge(candidate, verdict)
    with pytest.raises(Refused, match="only PASS can be approved"):
        approvals.approve(ws, candidate, reason="please")
    with pytest.raises(error, match=f"verdict is {verdict}"):
        promotion.promote(ws, candidate, "prod")
    with pytest.raises(NotFound):
        ws.release("prod")


def test_without_approval_it_waits(ws, passed):
    candidate = passed()
    with pytest.raises(NotYet, match="0 of 1 approvals"):
        promotion.promote(ws, candidate, "prod")


def test_the_trainer_cannot_approve_whatever_role_they_hold(ws, passed, add_version, judge):
    candidate = passed()
    with pytest.raises(Refused, match="no-one-approves-what-they-trained"):
        approvals.approve(ws, candidate, reason="mine is good", actor="trainer")
    with pytest.raises(Refused, match="may not approve: no rule permits it"):
        approvals.approve(ws, candidate, reason="fine by me", actor="evaluator")
    from governance import candidates

    add_key(ws, "dana", "approver", signer="operator")
    own = candidates.create(ws, add_version(b"d", trainer="dana").id, actor="trainer")
    judge(own)
    with pytest.raises(Refused, match=r"signed by `dana` \(approver\), which does not count"):
        approvals.approve(ws, own, reason="mine is good", actor="dana")
    denied = ws.store.query("SELECT actor FROM event WHERE kind = 'access.denied' ORDER BY seq")
    assert [row["actor"] for row in denied] == ["trainer", "evaluator"]


def test_an_approval_forged_into_the_journal_does_not_count(ws, passed):
    candidate = passed()
    given = approvals.approve(ws, candidate, reason="reviewed")
    other = passed(b"b")
    decision = approvals.newest_decision(ws, other.id)
    body = {
        "candidate": other.id,
        "decision": decision.id,
        "keyid": given.keyid,
        "reason": "x",
        "envelope": given.envelope,
    }
    ws.record("approval.given", other.id, body, actor="approver")
    with pytest.raises(NotYet, match="0 of 1 approvals"):
        promotion.promote(ws, other, "prod")


@pytest.mark.parametrize("actor", ["trainer", "evaluator", "approver", "auditor"])
def test_only_operators_promote(ws, passed, actor):
    candidate = passed()
    approvals.approve(ws, candidate, reason="reviewed")
    with pytest.raises(Refused, match="may not promote"):
        promotion.promote(ws, candidate, "prod", actor=actor)


def test_altered_weights_are_not_promoted(ws, passed):
    candidate = passed()
    approvals.approve(ws, candidate, reason="reviewed")
    entry = ws.artifacts.manifest(candidate.body["weights"]).entry("model.safetensors")
    path = ws.artifacts.path(entry.blake3)
    path.chmod(0o644)
    path.write_bytes(b"b" + path.read_bytes()[1:])
    with pytest.raises(Tampered, match=r"weights: `model.safetensors` was altered"):
        promotion.promote(ws, candidate, "prod")


def test_rollback_returns_to_the_release_before_and_keeps_history(ws, passed):
    first, second = passed(b"a"), passed(b"b")
    approve_and_promote(ws, first)
    approve_and_promote(ws, second)
    done = promotion.rollback(ws, "prod", reason="refusals doubled")
    assert verify_release(ws, "prod").candidate.id == first.id
    history = ws.store.query("SELECT version, actor, reason FROM alias_history ORDER BY seq")
    assert [row["version"] for row in history] == [first.body["version"], second.body["version"], first.body["version"]]
    assert history[-1]["reason"] == "refusals doubled"
    assert done.release.version == first.body["version"]


def test_rollback_re_verifies_its_target(ws, passed):
    first, second = passed(b"a"), passed(b"b")
    certificate = approve_and_promote(ws, first).certificate
    approve_and_promote(ws, second)
    promotion.revoke(ws, certificate.id, reason="data withdrawn")
    with pytest.raises(Refused, match="was revoked"):
        promotion.rollback(ws, "prod", reason="try")
    assert verify_release(ws, "prod").candidate.id == second.id


def test_rollback_without_history_is_an_error(ws, passed):
    with pytest.raises(NotFound, match="never promoted"):
        promotion.rollback(ws, "prod", reason="x")
    approve_and_promote(ws, passed())
    with pytest.raises(NotFound, match="no earlier release"):
        promotion.rollback(ws, "prod", reason="x")
    with pytest.raises(SpecError, match="not an alias"):
        promotion.promote(ws, passed(), "../prod")


def test_a_revoked_certificate_is_refused(ws, passed):
    done = approve_and_promote(ws, passed())
    promotion.revoke(ws, done.certificate.id, reason="data withdrawn")
    with pytest.raises(Refused, match="revoked by `operator`.*data withdrawn"):
        verify_release(ws, "prod")


def test_an_expired_certificate_is_refused(ws, passed, monkeypatch):
    approve_and_promote(ws, passed())
    from datetime import UTC, datetime, timedelta

    from registry import attestation

    later = datetime.now(UTC) + timedelta(days=91)
    monkeypatch.setattr(attestation, "trusted_now", lambda ws: later)
    with pytest.raises(Refused, match="expired"):
        verify_release(ws, "prod")


def test_a_swapped_pointer_is_refused_and_a_lost_one_is_mended(ws, passed):
    first, second = passed(b"a"), passed(b"b")
    approve_and_promote(ws, first)
    old = ws.pointer("prod").read_bytes()
    approve_and_promote(ws, second)
    ws.pointer("prod").write_bytes(old)
    with pytest.raises(Tampered, match="not what the journal records"):
        verify_release(ws, "prod")
    assert promotion.settle(ws) == ["prod"]
    assert verify_release(ws, "prod").candidate.id == second.id
    ws.pointer("prod").unlink()
    assert promotion.settle(ws) == ["prod"]
    foreign = orjson.loads(ws.pointer("prod").read_bytes()) | {"reason": "never happened"}
    ws.pointer("prod").write_bytes(orjson.dumps(foreign))
    assert promotion.settle(ws) == []
    with pytest.raises(Tampered):
        verify_release(ws, "prod")


def test_a_certificate_signed_by_the_wrong_role_is_refused(ws, passed):
    candidate = passed()
    approvals.approve(ws, candidate, reason="reviewed")
    from governance import certificate
    from registry.attestation import verify_certificate

    decision = approvals.newest_decision(ws, candidate.id)
    given = approvals.valid(ws, candidate, decision)
    issued = certificate.issue(ws, candidate, decision, given, actor="trainer")
    with pytest.raises(Refused, match=r"signed by `trainer` \(trainer\), which does not count"):
        verify_certificate(ws, issued.id)


def test_a_certificate_for_other_bytes_is_refused(ws, passed):
    done = approve_and_promote(ws, passed())
    record = ws.get(done.certificate.id, Certificate)
    other = passed(b"z")
    forged = Certificate(other.id, other.body["version"], record.decision, record.expires, record.envelope)
    asset = ws.register(forged, actor="operator")
    from registry.attestation import verify_certificate

    with pytest.raises(Tampered, match="names another candidate"):
        verify_certificate(ws, asset.id)
    assert plain(forged)["envelope"] == record.envelope
