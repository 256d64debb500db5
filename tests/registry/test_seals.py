"""Seals: an event counts by the key that signed it, and nothing about it can be changed, moved or repeated."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import principals, seals
from registry.errors import NotFound, Refused, SpecError, Tampered
from registry.records import GateDecision, ModelVersion
from registry.workspace import Workspace

REASON = {"reason": "leaks"}


@pytest.fixture
def ws(tmp_path):
    ws = Workspace.create(tmp_path / "ws")
    for name in ("trainer", "evaluator"):
        ws.add_principal(name, name, ws.keys.create(name).public, signer="operator")
    return ws


def forge(ws, *, kind="certificate.revoked", subject="c", body=REASON, actor="operator", sig=None):
    """Append an event as somebody would who can write the journal but does not use `record`."""
    return ws.journal.append([(kind, subject, body, actor, sig)])[0]


def decision(mark="a"):
    return GateDecision(mark, None, "sha256:s", "PASS", False, "fixed", 0.05, [], [], {"kpis": []})


def test_a_sealed_event_names_its_signer(ws):
    ws.record("certificate.revoked", "c", REASON, actor="operator")
    (found,) = seals.sealed(ws, "certificate.revoked")
    assert (found.subject, found.body, found.principal.name, found.principal.role) == (
        "c", REASON, "operator", "operator",
    )  # fmt: skip
    assert seals.sealed(ws, "certificate.revoked", "other") == []


def test_an_unsigned_event_of_a_kind_that_counts_is_tampering(ws):
    forge(ws)
    with pytest.raises(Tampered, match=r"event \d+ \(`certificate.revoked` of `c`\) carries no signature"):
        seals.sealed(ws, "certificate.revoked")


def test_a_role_that_does_not_count_is_refused(ws):
    ws.record("certificate.revoked", "c", REASON, actor="trainer")
    with pytest.raises(Refused, match="signed by `trainer`"):
        seals.sealed(ws, "certificate.revoked")


def test_a_signature_repeated_is_tampering(ws):
    event = ws.record("certificate.revoked", "c", REASON, actor="operator")
    forge(ws, sig=event.sig)
    with pytest.raises(Tampered, match="repeats"):
        seals.sealed(ws, "certificate.revoked")


def test_a_signature_of_another_workspace_is_of_no_use(ws, tmp_path):
    other = Workspace.create(tmp_path / "other")
    event = other.record("certificate.revoked", "c", REASON, actor="operator")
    forge(ws, sig=event.sig)
    with pytest.raises(Tampered, match="not signed by `operator`"):
        seals.sealed(ws, "certificate.revoked")


@pytest.mark.parametrize(
    "changed",
    [{"subject": "d"}, {"body": {"reason": "other"}}, {"kind": "caller.revoked"}, {"actor": "evaluator"}],
)
def test_nothing_of_a_sealed_event_can_be_changed(ws, changed):
    sig = seals.seal(ws, "certificate.revoked", "c", REASON, "operator")
    forge(ws, sig=sig, **changed)
    with pytest.raises(Tampered):
        seals.sealed(ws, changed.get("kind", "certificate.revoked"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_altered_signature_counts(tmp_path_factory, data):
    ws = Workspace.create(tmp_path_factory.mktemp("w") / "ws")
    sig = seals.seal(ws, "certificate.revoked", "c", REASON, "operator")
    place = data.draw(st.integers(0, len(sig["sig"]) - 3))
    other = data.draw(st.sampled_from("ABCDwxyz0189+/").filter(lambda char: char != sig["sig"][place]))
    sig["sig"] = sig["sig"][:place] + other + sig["sig"][place + 1 :]
    forge(ws, sig=sig)
    with pytest.raises(Tampered):
        seals.sealed(ws, "certificate.revoked")


def test_writing_what_must_be_signed_needs_the_key(ws):
    with pytest.raises(NotFound, match="must be signed, and the key of `nobody` is not here"):
        ws.record("certificate.revoked", "c", REASON, actor="nobody")
    ws.record("gateway.decision", "r", {"action": "allow"}, actor="endpoint")
    assert ws.store.query("SELECT sig FROM event WHERE kind = 'gateway.decision'") == [{"sig": None}]


def test_verdicts_count_by_the_evaluators_key_alone(ws):
    asset = ws.register(decision(), actor="evaluator")
    assert seals.registration(ws, asset.id).principal.name == "evaluator"
    forged = ws.register(decision("b"), actor="trainer")
    with pytest.raises(Refused, match="does not count"):
        seals.registration(ws, forged.id)
    unsigned = ws.register(decision("c"), actor="somebody")
    with pytest.raises(Tampered, match="carries no signature"):
        seals.registration(ws, unsigned.id)


def test_who_trained_is_who_signed(ws):
    record = ModelVersion("m", "sha256:m", None, None, [], "Mistral", 1, {})
    body = {"kind": "version", "name": "m", "number": 1, "body": {}, "parents": []}
    honest = ws.register(record, actor="trainer", name="m")
    assert seals.registration(ws, honest.id).principal.name == "trainer"
    sig = seals.seal(ws, "asset.registered", "x", body, "trainer")
    forge(ws, kind="asset.registered", subject="x", body=body, actor="evaluator", sig=sig)
    with pytest.raises(Tampered, match="not signed by `evaluator`"):
        seals.registration(ws, "x")


def test_an_encrypted_key_seals_when_it_is_opened(ws):
    ws.add_principal("second", "evaluator", ws.keys.create("second", b"secret").public, signer="operator")
    assert ws.record("run.started", "r", {}, actor="second").sig is None
    with pytest.raises(SpecError, match="does not open"):
        ws.register(decision("d"), actor="second")
    ws.keys.passphrase = b"secret"
    asset = ws.register(decision("d"), actor="second")
    assert seals.registration(ws, asset.id).principal.name == "second"


def test_revocation_voids_evidence_and_keeps_history(ws):
    asset = ws.register(decision(), actor="evaluator")
    assert orjson.loads(ws.store.query("SELECT sig FROM event WHERE subject = ?", [asset.id])[0]["sig"])
    model = ws.register(ModelVersion("m", "sha256:m", None, None, [], "Mistral", 1, {}), actor="trainer", name="m")
    for name in ("evaluator", "trainer"):
        principals.revoke(ws, name, reason="left", signer="operator")
    with pytest.raises(Refused, match="revoked key"):
        seals.registration(ws, asset.id)
    assert seals.registration(ws, model.id).principal.name == "trainer"
    later = ws.register(ModelVersion("n", "sha256:n", None, None, [], "Mistral", 1, {}), actor="trainer", name="n")
    with pytest.raises(Refused, match="did not count then"):
        seals.registration(ws, later.id)


def test_rotation_ends_the_old_key_from_its_place_on(ws):
    old = ws.keys.load("evaluator")
    before = ws.register(decision("a"), actor="evaluator")
    staged = ws.keys.stage("evaluator")
    principals.rotate(ws, "evaluator", staged.public, signer="operator")
    assert seals.registration(ws, before.id).principal.keyid == old.keyid
    late = ws.register(decision("b"), actor="evaluator")  # the key file is the old one until it is adopted
    with pytest.raises(Refused, match="did not count then"):
        seals.registration(ws, late.id)
    ws.keys.adopt("evaluator")
    after = ws.register(decision("c"), actor="evaluator")
    assert seals.registration(ws, after.id).principal.keyid == staged.keyid
