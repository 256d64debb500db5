"""Verification of certificates, releases and evaluation permits: signature, role, content, expiry, revocation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from registry.clock import trusted_now
from registry.errors import NotFound, Refused, Tampered
from registry.identity import Principal, open_envelope
from registry.records import Candidate, Certificate, Release, digest_of, plain
from registry.workspace import Workspace

STATEMENT_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
CERTIFICATE_PREDICATE = "urn:hallmark:certificate:v1"
APPROVAL_TYPE = "application/vnd.hallmark.approval+json"
PERMIT_TYPE = "application/vnd.hallmark.permit+json"


@dataclass(frozen=True, slots=True)
class VerifiedRelease:
    """A release whose certificate holds: the pointer, the certificate, its statement and the whole candidate."""

    release: Release
    certificate: Certificate
    statement: dict[str, Any]
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class VerifiedPermit:
    """A permit that holds now: loopback only, until `expires` (UTC, ISO 8601)."""

    id: str
    candidate: Candidate
    suite: str
    evaluator: str
    expires: str


def verify_release(ws: Workspace, alias: str) -> VerifiedRelease:
    """Return the verified release of an alias.

    Raises:
        NotFound: no such alias.
        Tampered: the pointer file is not what the journal last recorded.
        Refused: the certificate does not hold; says why.
    """
    release = ws.release(alias)
    history = ws.store.query("SELECT release FROM alias_history WHERE alias = ? ORDER BY seq DESC LIMIT 1", [alias])
    if not history or history[0]["release"] != release.id or release.alias != alias:
        raise Tampered(
            f"pointer file of alias `{alias}` is not what the journal records",
            hint=f"run `hallmark rollback {alias}` to point at a verified release",
        )
    certificate, statement, candidate = verify_certificate(ws, release.certificate)
    if (release.candidate, release.version) != (candidate.id, candidate.version):
        raise Tampered(f"alias `{alias}` names another candidate than its certificate", hint="roll back")
    return VerifiedRelease(release, certificate, statement, candidate)


def verify_certificate(ws: Workspace, ref: str) -> tuple[Certificate, dict[str, Any], Candidate]:
    """Return (certificate, statement, candidate) of a certificate that holds now.

    Raises:
        Refused: bad signature, signer that is no operator, verdict not PASS, approval missing, expired or revoked.
        Tampered: its parts do not belong together.
    """
    certificate = ws.get(ref, Certificate)
    principals = ws.principals()
    statement = open_certificate(certificate.envelope, principals)
    predicate = statement["predicate"]
    candidate = Candidate(**predicate["candidate"])
    if predicate["candidateDigest"] != digest_of({"kind": "candidate", "body": plain(candidate)}) or (
        certificate.candidate != candidate.id
    ):
        raise Tampered("certificate names another candidate than the one it describes", hint="restore it")
    if predicate["verdict"] != "PASS":
        raise Refused(f"certificate rests on the verdict {predicate['verdict']}", hint="only PASS may be certified")
    _check_subjects(ws, statement, candidate)
    _check_approvals(predicate, candidate.id, principals)
    if trusted_now(ws) >= datetime.fromisoformat(predicate["expires"]):
        raise Refused(f"certificate expired on {predicate['expires']}", hint="evaluate and promote again")
    revoked = ws.store.query(
        "SELECT ts, actor, body FROM event WHERE kind = 'certificate.revoked' AND subject = ?", [certificate.id]
    )
    if revoked:
        reason = orjson.loads(revoked[0]["body"])["reason"]
        raise Refused(
            f"certificate was revoked by `{revoked[0]['actor']}` on {revoked[0]['ts'][:19]}: {reason}",
            hint="roll back to another release",
        )
    return certificate, statement, candidate


def open_certificate(envelope: dict[str, Any], principals: dict[str, Principal]) -> dict[str, Any]:
    """Return the statement of a certificate's envelope, signed by an operator. Raises Refused, Tampered."""
    signers = {p.keyid: p.public for p in principals.values() if p.role == "operator" and not p.revoked}
    payload, _ = open_envelope(envelope, STATEMENT_TYPE, signers)
    statement: dict[str, Any] = orjson.loads(payload)
    if statement.get("_type") != STATEMENT or statement.get("predicateType") != CERTIFICATE_PREDICATE:
        raise Tampered("envelope holds no Hallmark certificate", hint="restore it from a copy")
    return statement


def verify_permit(ws: Workspace, permit_id: str) -> VerifiedPermit:
    """Return a permit that holds now. Raises NotFound, Refused (signature, role, expired), Tampered."""
    rows = ws.store.query(
        "SELECT subject, body FROM event WHERE kind = 'permit.issued' AND starts_with(subject, ?)", [permit_id]
    )
    if len(rows) != 1:
        raise NotFound(f"no permit `{permit_id}`", hint="permits are issued by `hallmark eval run`")
    body = orjson.loads(rows[0]["body"])
    signers = {
        p.keyid: p.public for p in ws.principals().values() if p.role in {"evaluator", "operator"} and not p.revoked
    }
    payload, _ = open_envelope(body["envelope"], PERMIT_TYPE, signers)
    claim = orjson.loads(payload)
    if claim["id"] != rows[0]["subject"]:
        raise Tampered(f"permit `{permit_id}` was issued under another id", hint="issue a new one")
    if trusted_now(ws) >= datetime.fromisoformat(claim["expires"]):
        raise Refused(f"permit `{permit_id}` expired on {claim['expires']}", hint="issue a new one")
    candidate = ws.get(claim["candidate"], Candidate)
    return VerifiedPermit(claim["id"], candidate, claim["suite"], claim["evaluator"], claim["expires"])


def _check_subjects(ws: Workspace, statement: dict[str, Any], candidate: Candidate) -> None:
    """The files the statement lists are exactly those of the weights' and the bundle's manifests."""
    listed = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    recorded = {}
    for prefix, manifest in (("weights", candidate.weights), ("bundle", candidate.bundle)):
        for entry in ws.artifacts.manifest(manifest).entries:
            recorded[f"{prefix}/{entry.path}"] = entry.sha256.removeprefix("sha256:")
    if listed != recorded:
        names = sorted(name for name in listed.keys() | recorded.keys() if listed.get(name) != recorded.get(name))
        raise Tampered(f"certificate and store differ on `{names[0]}`", hint="restore the manifest from a copy")


def _check_approvals(predicate: dict[str, Any], candidate: str, principals: dict[str, Principal]) -> None:
    signers = {p.keyid: p.public for p in principals.values() if p.role == "approver"}
    approved_by = set()
    for envelope in predicate["approvals"]:
        payload, keyid = open_envelope(envelope, APPROVAL_TYPE, signers)
        claim = orjson.loads(payload)
        if claim["candidate"] != candidate or claim["decision"] != predicate["decision"]:
            raise Tampered("certificate carries an approval of something else", hint="approve and promote again")
        approved_by.add(keyid)
    if len(approved_by) < predicate["quorum"] or predicate["quorum"] < 1:
        raise Refused(
            f"certificate has {len(approved_by)} of {predicate['quorum']} approvals", hint="approve and promote again"
        )
