"""A certificate that no longer holds is never shown as valid: forged, revoked, expired."""

from __future__ import annotations

import base64
from typing import Any

import orjson

from registry.identity import Principal, keyid_of, public_hex, sign_envelope
from registry.records import canonical
from reports import decoding, probes, statements
from reports.facts import Evidence, Filed


def filed(world: Any, **changes: Any) -> Filed:
    body = {**world.certificate.body, **changes}
    return Filed("sha256:" + "1" * 64, "certificate", "", 1, "operator", "2026-01-01T00:00:00+00:00", body,
                 (Evidence("asset", "sha256:" + "1" * 64, "certificate"),))  # fmt: skip


def state(world: Any, found: Any) -> str:
    from registry.records import plain

    return str(statements._certificate({"certificates": [plain(found)]})["state"])


def test_a_good_certificate_is_valid(world: Any) -> None:
    found = decoding.certificate(filed(world), None, "2026-01-01T00:00:00+00:00", world.ws.principals())
    assert (found.signature, state(world, found)) == ("good", "valid")


def test_a_changed_payload_is_broken(world: Any) -> None:
    envelope = world.certificate.body["envelope"]
    statement = orjson.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"]["verdict"] = "FAIL"
    forged = {**envelope, "payload": base64.b64encode(canonical(statement)).decode()}
    found = decoding.certificate(filed(world, envelope=forged), None, "2026-01-01", world.ws.principals())
    assert "does not verify" in found.signature
    assert state(world, found) == "broken"


def test_a_trainers_signature_does_not_count(world: Any) -> None:
    envelope = world.certificate.body["envelope"]
    payload = base64.b64decode(envelope["payload"])
    signed = sign_envelope(envelope["payloadType"], payload, world.ws.keys.load("tina"))
    found = decoding.certificate(filed(world, envelope=signed), None, "2026-01-01", world.ws.principals())
    assert state(world, found) == "broken"
    assert found.signer == "tina"


def test_expired_and_revoked(world: Any) -> None:
    late = decoding.certificate(filed(world), None, "2100-01-01T00:00:00+00:00", world.ws.principals())
    assert state(world, late) == "expired"
    event = {"body": b'{"reason": "leaked data"}', "hash": "ab" * 32, "kind": "certificate.revoked", "seq": 9}
    revoked = decoding.certificate(filed(world), event, "2026-01-01T00:00:00+00:00", world.ws.principals())
    assert (state(world, revoked), revoked.revoked) == ("revoked", "leaked data")
    assert revoked.evidence[-1].seq == 9


def test_an_approval_by_an_unknown_key_is_not_good(world: Any) -> None:
    row = world.ws.store.query("SELECT p.*, 'ff' AS hash FROM approval p ORDER BY seq DESC LIMIT 1")[0]
    assert decoding.approval(row, world.ws.principals()).signature == "good"
    assert decoding.approval(row, {}).signature != "good"
    stranger = public_hex(world.ws.keys.load("tina").public_key())
    impostor = {row["keyid"]: Principal("ada", "approver", keyid_of(stranger), stranger)}
    assert decoding.approval(row, impostor).signature != "good"


def test_garbage_envelopes_give_empty_statements() -> None:
    for envelope in (None, {}, {"payload": "%%%"}, {"payload": "bm90IGpzb24="}, {"payload": 7, "signatures": "x"}):
        assert decoding.payload(envelope) == {}
        assert decoding.keys(envelope) == ()


def test_an_uncertified_version_is_not_certified() -> None:
    doc = {"headline": {"certificate": {"state": "none"}}, "certificates": []}
    assert probes.PROBES["certified"](doc).state == "no"
