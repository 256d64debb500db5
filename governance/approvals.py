"""Approvals: a signature over (candidate, decision) by a key that may approve and did not train it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from governance import roles
from registry.attestation import APPROVAL_TYPE
from registry.errors import NotYet, Refused
from registry.identity import open_envelope, sign_envelope
from registry.records import Asset, canonical
from registry.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Approval:
    """One valid approval."""

    principal: str
    keyid: str
    reason: str
    ts: str
    envelope: dict[str, Any]


def newest_decision(ws: Workspace, candidate: str) -> Asset:
    """Return the newest gate decision on a candidate. Raises NotYet when there is none."""
    rows = ws.store.query(
        "SELECT id FROM asset WHERE kind = 'decision' AND json_extract_string(body, '$.candidate') = ?"
        " ORDER BY seq DESC LIMIT 1",
        [candidate],
    )
    if not rows:
        raise NotYet(f"candidate `{candidate[:19]}` has no gate decision", hint="run `hallmark gate run` first")
    return ws.resolve(rows[0]["id"], "decision")


def trained_by(ws: Workspace, version: str) -> str:
    """Return who trained a model version: the owner of its run, else of the version itself."""
    asset = ws.resolve(version, "version")
    run = asset.body.get("run")
    return ws.resolve(run, "run").owner if run else asset.owner


def approve(
    ws: Workspace, candidate: Asset, *, reason: str, actor: str | None = None, passphrase: bytes | None = None
) -> Approval:
    """Sign and record an approval of a candidate's newest decision.

    Raises:
        Refused: the actor may not approve, trained it, or the verdict is not PASS; or no reason was given.
        NotYet: the gate has not judged it.
    """
    trainer = trained_by(ws, candidate.body["version"])
    principal = roles.require(ws, "approve", candidate.id, actor, trained_by=trainer)
    decision = newest_decision(ws, candidate.id)
    if decision.body["verdict"] != "PASS":
        raise Refused(
            f"the gate's verdict on this candidate is {decision.body['verdict']}: only PASS can be approved",
            hint=f"`hallmark gate show {decision.id[7:19]}` says why",
        )
    if not reason.strip():
        raise Refused("an approval needs a reason", hint="give one with `--reason`")
    claim = {"candidate": candidate.id, "decision": decision.id, "principal": principal.name, "reason": reason}
    envelope = sign_envelope(APPROVAL_TYPE, canonical(claim), ws.keys.load(principal.name, passphrase))
    body = {"candidate": candidate.id, "decision": decision.id, "keyid": principal.keyid, "reason": reason,
            "envelope": envelope}  # fmt: skip
    event = ws.record("approval.given", candidate.id, body, actor=principal.name)
    return Approval(principal.name, principal.keyid, reason, event.ts, envelope)


def valid(ws: Workspace, candidate: Asset, decision: Asset) -> list[Approval]:
    """Return the approvals of (candidate, decision) that hold, one per key."""
    trainer = trained_by(ws, candidate.body["version"])
    approvers = {p.keyid: p for p in ws.principals().values() if p.role == "approver" and not p.revoked}
    signers = {keyid: p.public for keyid, p in approvers.items() if p.name != trainer}
    rows = ws.store.query(
        "SELECT * FROM approval WHERE candidate = ? AND decision = ? ORDER BY seq", [candidate.id, decision.id]
    )
    found: dict[str, Approval] = {}
    for row in rows:
        envelope = orjson.loads(row["envelope"])
        try:
            payload, keyid = open_envelope(envelope, APPROVAL_TYPE, signers)
        except Refused:
            continue  # a signature that does not count: the quorum below says what is missing
        claim = orjson.loads(payload)
        if (claim["candidate"], claim["decision"]) == (candidate.id, decision.id):
            found[keyid] = Approval(approvers[keyid].name, keyid, claim["reason"], row["ts"], envelope)
    return list(found.values())
