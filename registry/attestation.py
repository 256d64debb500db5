"""Verification of certificates, releases and evaluation permits: signature, role, content, expiry, revocation.

A key that was replaced keeps what it signed before that place of the journal. Of a revoked key nothing holds, whenever
it was signed: nobody can tell since when it was in other hands.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from registry import seals, withdrawals
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
        Tampered: the pointer file is not what the journal last recorded, or a move carries no operator's signature.
        Refused: the certificate does not hold; says why.
    """
    with ws.store.reading():
        return _verify_release(ws, alias)


def _verify_release(ws: Workspace, alias: str) -> VerifiedRelease:
    release = ws.release(alias)
    moves = seals.sealed(ws, "alias.moved", alias)
    if not moves or moves[-1].body["release"] != release.id or release.alias != alias:
        raise Tampered(
            f"pointer file of alias `{alias}` is not what the journal records",
            hint=f"after a crash: `hallmark release settle`; else `hallmark rollback {alias}` to a verified release",
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
    with ws.store.reading():
        return _verify_certificate(ws, ref)


def _verify_certificate(ws: Workspace, ref: str) -> tuple[Certificate, dict[str, Any], Candidate]:
    certificate = ws.get(ref, Certificate)
    principals = ws.principals()
    issued = seals.registration(ws, certificate.id)
    statement = open_certificate(certificate.envelope, principals, issued.seq)
    predicate = statement["predicate"]
    candidate = Candidate(**predicate["candidate"])
    if predicate["candidateDigest"] != digest_of({"kind": "candidate", "body": plain(candidate)}) or (
        certificate.candidate != candidate.id
    ):
        raise Tampered("certificate names another candidate than the one it describes", hint="restore it")
    if predicate["verdict"] != "PASS":
        raise Refused(f"certificate rests on the verdict {predicate['verdict']}", hint="only PASS may be certified")
    _check_subjects(ws, statement, candidate)
    withdrawals.refuse_tombstoned(ws, candidate.id, candidate.version)
    _check_evidence(ws, predicate, candidate.id)
    _check_approvals(ws, predicate, candidate.id, principals)
    if trusted_now(ws) >= datetime.fromisoformat(predicate["expires"]):
        raise Refused(f"certificate expired on {predicate['expires']}", hint="evaluate and promote again")
    for revoked in seals.sealed(ws, "certificate.revoked", certificate.id):
        raise Refused(
            f"certificate was revoked by `{revoked.principal.name}` on {revoked.ts[:19]}: {revoked.body['reason']}",
            hint="roll back to another release",
        )
    return certificate, statement, candidate


def holds(principal: Principal, seq: int) -> bool:
    """Say whether what a key signed at place `seq` of the journal holds now."""
    return not principal.revoked and principal.counts_at(seq)


def open_certificate(envelope: dict[str, Any], principals: dict[str, Principal], seq: int) -> dict[str, Any]:
    """Return the statement of a certificate's envelope, signed by an operator whose key held at place `seq`.

    Raises Refused, Tampered.
    """
    signers = {p.keyid: p.public for p in principals.values() if p.role == "operator" and holds(p, seq)}
    payload, _ = open_envelope(envelope, STATEMENT_TYPE, signers)
    statement: dict[str, Any] = orjson.loads(payload)
    if statement.get("_type") != STATEMENT or statement.get("predicateType") != CERTIFICATE_PREDICATE:
        raise Tampered("envelope holds no Hallmark certificate", hint="restore it from a copy")
    return statement


def verify_permit(ws: Workspace, permit_id: str) -> VerifiedPermit:
    """Return a permit that holds now. Raises NotFound, Refused (signature, role, expired), Tampered."""
    with ws.store.reading():
        return _verify_permit(ws, permit_id)


def _verify_permit(ws: Workspace, permit_id: str) -> VerifiedPermit:
    rows = ws.store.query(
        "SELECT seq, subject, body FROM event WHERE kind = 'permit.issued' AND starts_with(subject, ?)", [permit_id]
    )
    if len(rows) != 1:
        raise NotFound(f"no permit `{permit_id}`", hint="permits are issued by `hallmark eval run`")
    body = orjson.loads(rows[0]["body"])
    known = [p for p in ws.principals().values() if p.role in {"evaluator", "operator"}]
    signers = {p.keyid: p.public for p in known if holds(p, rows[0]["seq"])}
    payload, _ = open_envelope(body["envelope"], PERMIT_TYPE, signers)
    claim = orjson.loads(payload)
    if claim["id"] != rows[0]["subject"]:
        raise Tampered(f"permit `{permit_id}` was issued under another id", hint="issue a new one")
    if trusted_now(ws) >= datetime.fromisoformat(claim["expires"]):
        raise Refused(f"permit `{permit_id}` expired on {claim['expires']}", hint="issue a new one")
    candidate = ws.get(claim["candidate"], Candidate)
    return VerifiedPermit(claim["id"], candidate, claim["suite"], claim["evaluator"], claim["expires"])


def parts_of(candidate: Candidate) -> list[tuple[str, str]]:
    """Return the parts of a candidate whose files a certificate lists: (prefix of their names, manifest id)."""
    parts = [("weights", candidate.weights), ("bundle", candidate.bundle)]
    return parts if candidate.adapter == "none" else [*parts, ("adapter", candidate.adapter)]


def _check_subjects(ws: Workspace, statement: dict[str, Any], candidate: Candidate) -> None:
    """The files the statement lists are exactly those of the weights' and the bundle's manifests."""
    listed = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    recorded = {}
    for prefix, manifest in parts_of(candidate):
        for entry in ws.artifacts.manifest(manifest).entries:
            recorded[f"{prefix}/{entry.path}"] = entry.sha256.removeprefix("sha256:")
    if listed != recorded:
        names = sorted(name for name in listed.keys() | recorded.keys() if listed.get(name) != recorded.get(name))
        raise Tampered(f"certificate and store differ on `{names[0]}`", hint="restore the manifest from a copy")


def _check_evidence(ws: Workspace, predicate: dict[str, Any], candidate: str) -> None:
    """The decision and the results it rests on are sealed by evaluators, and say what the certificate says."""
    cited = [result["evalRun"] for result in predicate["results"]]
    found = seals.registrations(ws, list(dict.fromkeys([predicate["decision"], *cited])))
    registered = found[predicate["decision"]].body
    decision = registered["body"]
    if registered["kind"] != "decision" or digest_of({"kind": "decision", "body": decision}) != predicate["decision"]:
        raise Tampered("certificate rests on a decision that does not hash to its id", hint="restore the journal")
    if (decision["candidate"], decision["verdict"]) != (candidate, predicate["verdict"]):
        raise Tampered("certificate rests on a decision that says something else", hint="evaluate and promote again")
    if sorted(decision["eval_runs"]) != sorted(cited):
        raise Tampered("certificate cites other results than its decision", hint="evaluate and promote again")


def _check_approvals(
    ws: Workspace, predicate: dict[str, Any], candidate: str, principals: dict[str, Principal]
) -> None:
    """Enough approvers, each with a key of their own, signed this candidate and decision while their keys held."""
    approvers = {p.keyid: p for p in principals.values() if p.role == "approver"}
    signers = {keyid: p.public for keyid, p in approvers.items() if not p.revoked}
    approved_by = set()
    for envelope in predicate["approvals"]:
        payload, keyid = open_envelope(envelope, APPROVAL_TYPE, signers)
        claim = orjson.loads(payload)
        if claim["candidate"] != candidate or claim["decision"] != predicate["decision"]:
            raise Tampered("certificate carries an approval of something else", hint="approve and promote again")
        if approvers[keyid].active or holds(approvers[keyid], _place_of(ws, claim, envelope)):
            approved_by.add(keyid)
    needed = max(1, predicate["quorum"], int(ws.settings.number("approvals")))
    if len(approved_by) < needed:
        raise Refused(f"certificate has {len(approved_by)} of {needed} approvals", hint="approve and promote again")


def _place_of(ws: Workspace, claim: dict[str, Any], envelope: dict[str, Any]) -> int:
    """Return the place of the journal where an approval was given, -1 for one that never was."""
    rows = ws.store.query(
        "SELECT seq, envelope FROM approval WHERE candidate = ? AND decision = ? ORDER BY seq",
        [claim["candidate"], claim["decision"]],
    )
    return next((int(row["seq"]) for row in rows if orjson.loads(row["envelope"]) == envelope), -1)
