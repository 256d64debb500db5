"""Who signed decides what counts: verdicts, results, approvals, moves and revocations, before and after keys change."""

from datetime import datetime, timedelta

import orjson
import pytest

from governance import approvals, certificate, promotion, separation
from governance.setup import add_key
from registry import clock, principals
from registry.attestation import open_certificate, verify_certificate, verify_release
from registry.errors import NotFound, NotYet, Refused, Tampered
from registry.merkle import Frontier
from registry.records import GateDecision, plain


@pytest.fixture
def promoted(ws, passed):
    """A candidate that `prod` points at."""
    candidate = passed()
    approvals.approve(ws, candidate, reason="reviewed")
    promotion.promote(ws, candidate, "prod")
    return candidate


def unsealed(ws, kind, subject, body, actor="operator"):
    """Write a line into the journal as somebody without keys would."""
    ws.journal.append([(kind, subject, body, actor)])


def rotate(ws, name, signer="operator"):
    """Give a principal a new key, as `hallmark key rotate` does."""
    (ws.keys.root / f"{name}.pem").rename(ws.keys.root / f"{name}-old.pem")
    made = ws.keys.create(name)
    return principals.rotate(ws, name, made.public, signer=signer)


def set_clock(monkeypatch, offset):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + offset

    monkeypatch.setattr(clock, "datetime", Clock)


def test_a_planted_pass_is_not_certified(ws, passed):
    """Someone who can write the journal, but has no key, records a verdict."""
    candidate = passed()
    record = GateDecision(candidate.id, None, "s", "PASS", True, "fixed", 0.05, [], [], {"kpis": []})
    body = {"kind": "decision", "name": "code", "number": 2, "body": plain(record), "parents": []}
    unsealed(ws, "asset.registered", record.id, body, actor="evaluator")
    approvals.approve(ws, candidate, reason="looks good")
    with pytest.raises(Tampered, match="carries no signature"):
        promotion.promote(ws, candidate, "prod")
    assert ws.store.state().aliases == {}


def test_a_verdict_recorded_by_another_role_is_not_certified(ws, passed):
    candidate = passed()
    record = GateDecision(candidate.id, None, "s", "PASS", True, "fixed", 0.05, [], [], {"kpis": []})
    ws.register(record, actor="trainer", name="code")
    approvals.approve(ws, candidate, reason="looks good")
    with pytest.raises(Refused, match=r"signed by `trainer` \(trainer\), which does not count"):
        promotion.promote(ws, candidate, "prod")


def test_a_certificate_says_what_it_rests_on(ws, promoted):
    found = verify_release(ws, "prod").statement["predicate"]
    decision = approvals.newest_decision(ws, promoted.id)
    approver = ws.principal("approver")
    assert found["approvers"] == [approver.keyid]
    assert (found["quorum"], found["plan"]["alpha"], found["plan"]["mode"]) == (1, 0.05, "fixed")
    assert [result["evalRun"] for result in found["results"]] == decision.body["eval_runs"]
    journal = found["journal"]
    leaves = ws.store.leaves(0, journal["size"])
    tree = Frontier()
    for leaf in leaves:
        tree.append(leaf)
    assert (len(leaves), tree.root().hex()) == (journal["size"], journal["root"])
    assert journal["origin"].endswith(ws.settings.workspace_id)


def test_a_revocation_nobody_signed_is_tampering_and_not_a_revocation(ws, promoted):
    ident = ws.release("prod").certificate
    unsealed(ws, "certificate.revoked", ident, {"reason": "because I can"})
    with pytest.raises(Tampered, match=r"`certificate.revoked` of .* carries no signature"):
        verify_release(ws, "prod")


def test_a_move_nobody_signed_is_tampering(ws, promoted, passed):
    """Pointing an alias back at an older certificate that still holds takes an operator's key."""
    first = ws.release("prod")
    second = passed(b"b")
    approvals.approve(ws, second, reason="reviewed")
    promotion.promote(ws, second, "prod")
    body = {"certificate": first.certificate, "candidate": first.candidate, "version": first.version, "reason": "x",
            "release": first.id, "pointer": plain(first)}  # fmt: skip
    unsealed(ws, "alias.moved", "prod", body)
    ws.point(first)
    with pytest.raises(Tampered, match=r"`alias.moved` of `prod`\) carries no signature"):
        verify_release(ws, "prod")


def test_an_operators_key_that_was_replaced_keeps_what_it_signed_and_signs_no_more(ws, promoted):
    add_key(ws, "olga", "operator", signer="operator")
    old = ws.principal("operator")
    rotate(ws, "operator", signer="olga")
    assert verify_release(ws, "prod").candidate.id == promoted.id
    found = ws.resolve(ws.release("prod").certificate, "certificate")
    late = ws.store.size() + 1
    with pytest.raises(Refused, match="no signature by a key that may sign this"):
        open_certificate(found.body["envelope"], {old.keyid: ws.principals()[old.keyid]}, late)


def test_of_a_revoked_operator_nothing_holds(ws, passed):
    add_key(ws, "olga", "operator", signer="operator")
    candidate = passed()
    approvals.approve(ws, candidate, reason="reviewed")
    done = promotion.promote(ws, candidate, "prod", actor="olga")
    principals.revoke(ws, "olga", reason="laptop stolen", signer="operator")
    with pytest.raises(Refused, match="revoked key"):
        verify_certificate(ws, done.certificate.id)
    again = promotion.promote(ws, candidate, "prod")
    assert again.certificate.id != done.certificate.id
    assert verify_release(ws, "prod").certificate.id == again.certificate.id


def test_an_approvers_replaced_key_counts_for_what_it_approved_before(ws, promoted):
    rotate(ws, "approver")
    assert verify_release(ws, "prod").candidate.id == promoted.id


def test_of_a_revoked_approver_nothing_counts_not_even_in_certificates(ws, promoted):
    add_key(ws, "anna", "approver", signer="operator")
    principals.revoke(ws, "approver", reason="left", signer="operator")
    with pytest.raises(Refused, match="no signature by a key that may sign this"):
        verify_release(ws, "prod")
    with pytest.raises(NotYet, match="0 of 1 approvals"):
        promotion.promote(ws, promoted, "prod")
    approvals.approve(ws, promoted, reason="reviewed again", actor="anna")
    promotion.promote(ws, promoted, "prod")
    assert verify_release(ws, "prod").candidate.id == promoted.id


def test_a_quorum_takes_as_many_people_as_it_says(ws, passed, monkeypatch):
    candidate = passed()
    monkeypatch.setitem(ws.settings.values, "approvals", "2")
    approvals.approve(ws, candidate, reason="reviewed")
    approvals.approve(ws, candidate, reason="reviewed twice")
    rotate(ws, "approver")
    approvals.approve(ws, candidate, reason="reviewed with a new key")
    with pytest.raises(NotYet, match="1 of 2 approvals"):
        promotion.promote(ws, candidate, "prod")
    add_key(ws, "anna", "approver", signer="operator")
    approvals.approve(ws, candidate, reason="me too", actor="anna")
    promotion.promote(ws, candidate, "prod")
    assert len(verify_release(ws, "prod").statement["predicate"]["approvers"]) == 2
    monkeypatch.setitem(ws.settings.values, "approvals", "3")
    with pytest.raises(Refused, match="2 of 3 approvals"):
        verify_release(ws, "prod")


def test_an_approval_can_be_withdrawn_until_it_is_used(ws, passed):
    candidate = passed()
    with pytest.raises(NotFound, match="given no approval"):
        approvals.withdraw(ws, candidate, reason="changed my mind")
    approvals.approve(ws, candidate, reason="reviewed")
    with pytest.raises(Refused, match="needs a reason"):
        approvals.withdraw(ws, candidate, reason=" ")
    with pytest.raises(Refused, match="may not approve"):
        approvals.withdraw(ws, candidate, reason="not mine", actor="operator")
    assert approvals.withdraw(ws, candidate, reason="changed my mind").principal == "approver"
    with pytest.raises(NotYet, match="0 of 1 approvals"):
        promotion.promote(ws, candidate, "prod")
    approvals.approve(ws, candidate, reason="and back")
    assert promotion.promote(ws, candidate, "prod").moved


def test_a_withdrawal_nobody_signed_stops_and_is_named(ws, passed):
    candidate = passed()
    approvals.approve(ws, candidate, reason="reviewed")
    decision = approvals.newest_decision(ws, candidate.id)
    body = {"candidate": candidate.id, "decision": decision.id, "reason": "x"}
    unsealed(ws, "approval.withdrawn", candidate.id, body, actor="approver")
    with pytest.raises(Tampered, match=r"`approval.withdrawn` of .* carries no signature"):
        promotion.promote(ws, candidate, "prod")


def test_an_approval_lasts_as_long_as_a_certificate(ws, passed, monkeypatch):
    candidate = passed()
    approvals.approve(ws, candidate, reason="reviewed")
    set_clock(monkeypatch, timedelta(days=91))
    with pytest.raises(NotYet, match="0 of 1 approvals"):
        promotion.promote(ws, candidate, "prod")


def test_who_trained_is_who_signed_the_run(ws, add_version, judge):
    from governance import candidates

    version = add_version(b"t", trainer="trainer")
    candidate = candidates.create(ws, version.id, actor="trainer")
    rotate(ws, "trainer")
    found = separation.trainers(ws, candidate)
    assert found.names == ("trainer",)
    assert found.keyids == {p.keyid for p in ws.principals().values() if p.name == "trainer"}
    assert len(found.keyids) == 2


def test_a_run_nobody_signed_cannot_be_approved(ws, passed, judge, model):
    """A free text as its trainer's name would let the trainer approve it."""
    from governance import candidates
    from registry.records import ModelVersion, Run

    (model / "model.safetensors").write_bytes(b"u" * 64)
    run = Run("pretrain", "sha256:r", {"name": "forged"}, [], None, "x", 1, 1, {}, {})
    body = {"kind": "run", "name": "", "number": 1, "body": plain(run), "parents": []}
    unsealed(ws, "asset.registered", run.id, body, actor="somebody")
    record = ModelVersion("u", ws.artifacts.add_tree(model).id, run.id, None, [], "MistralForCausalLM", 64, {})
    version = ws.register(record, actor="trainer", name="u", parents=[("run", run.id)])
    candidate = candidates.create(ws, version.id, actor="trainer")
    judge(candidate)
    with pytest.raises(Tampered, match="carries no signature"):
        approvals.approve(ws, candidate, reason="fine")


def test_a_clock_set_back_signs_nothing_and_judges_nothing(ws, promoted, passed, monkeypatch):
    other = passed(b"b")
    size = ws.store.size()
    set_clock(monkeypatch, timedelta(days=-400))
    for act in (
        lambda: verify_release(ws, "prod"),
        lambda: approvals.approve(ws, other, reason="reviewed"),
        lambda: promotion.revoke(ws, ws.release("prod").certificate, reason="x"),
        lambda: promotion.rollback(ws, "prod", to=promoted.body["version"], reason="x"),
    ):
        with pytest.raises(Refused, match="but the newest record is of"):
            act()
    assert ws.store.size() == size


def test_a_certificate_of_another_workspace_is_not_one_here(ws, promoted, fresh, tmp_path):
    """An alias cannot be pointed at a certificate that another workspace's operator signed."""
    from governance.setup import create_workspace
    from registry.records import Certificate

    elsewhere = create_workspace(tmp_path / "other")
    found = ws.get(ws.release("prod").certificate, Certificate)
    taken = elsewhere.register(found, actor="operator")
    with pytest.raises(Refused, match="no signature by a key that may sign this"):
        verify_certificate(elsewhere, taken.id)
    pointer = ws.pointer("prod").read_bytes()
    elsewhere.pointer("prod").write_bytes(pointer)
    with pytest.raises(Tampered, match="not what the journal records"):
        verify_release(elsewhere, "prod")
    elsewhere.close()


def test_a_pointer_file_of_another_alias_is_refused(ws, promoted):
    ws.pointer("canary").write_bytes(ws.pointer("prod").read_bytes())
    with pytest.raises(Tampered, match="`canary` is not what the journal records"):
        verify_release(ws, "canary")
    promotion.promote(ws, promoted, "canary")
    ws.pointer("canary").write_bytes(ws.pointer("prod").read_bytes())
    with pytest.raises(Tampered, match="`canary` is not what the journal records"):
        verify_release(ws, "canary")


def test_a_certificate_that_cites_other_results_is_refused(ws, passed):
    candidate = passed()
    approvals.approve(ws, candidate, reason="reviewed")
    decision = approvals.newest_decision(ws, candidate.id)
    from registry.attestation import STATEMENT_TYPE
    from registry.identity import sign_envelope
    from registry.records import Candidate, Certificate, canonical

    given = approvals.valid(ws, candidate, decision)
    statement = certificate.statement_of(ws, ws.get(candidate.id, Candidate), decision, given, quorum=1, days=1)
    statement["predicate"]["results"] = []
    envelope = sign_envelope(STATEMENT_TYPE, canonical(statement), ws.keys.load("operator"))
    record = Certificate(candidate.id, candidate.body["version"], decision.id, "2099", envelope)
    forged = ws.register(record, actor="operator")
    with pytest.raises(Tampered, match="cites other results"):
        verify_certificate(ws, forged.id)
    assert orjson.loads(orjson.dumps(statement))["predicate"]["decision"] == decision.id
