"""Approvals: a signature over (candidate, decision) by a key that may approve and is not its trainer's.

An approval counts for the decision it was given for, no later one, and for as many days as a certificate lasts. Until
a certificate is issued its giver can withdraw it; afterwards an operator revokes the certificate. What a key approved
before it was replaced counts; of a revoked key nothing does, certificates that were issued on it included.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from governance import roles, separation
from registry import seals
from registry.attestation import APPROVAL_TYPE, holds
from registry.clock import trusted_now
from registry.errors import NotFound, NotYet, Refused
from registry.identity import open_envelope, sign_envelope
from registry.records import Asset, canonical
from registry.workspace import Workspace

WITHDRAWN = "approval.withdrawn"


@dataclass(frozen=True, slots=True)
class Approval:
    """One valid approval."""

    principal: str
    keyid: str
    reason: str
    ts: str
    envelope: dict[str, Any]


def quorum(ws: Workspace) -> int:
    """Return how many approvals a certificate needs: the setting `approvals`, at least one."""
    return max(1, int(ws.settings.number("approvals")))


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


def approve(
    ws: Workspace, candidate: Asset, *, reason: str, actor: str | None = None, passphrase: bytes | None = None
) -> Approval:
    """Sign and record an approval of a candidate's newest decision.

    Raises:
        Refused: the actor may not approve, trained it, or the verdict is not PASS; or no reason was given.
        NotYet: the gate has not judged it.
    """
    with ws.store.reading():
        return _approve(ws, candidate, reason=reason, actor=actor, passphrase=passphrase)


def _approve(ws: Workspace, candidate: Asset, *, reason: str, actor: str | None, passphrase: bytes | None) -> Approval:
    name = roles.acting(ws, "approve", actor)
    trained = separation.trainers(ws, candidate)
    own = ws.principal(name).keyid in trained.keyids
    trainer = name if own else next(iter(trained.names), "")
    principal = roles.require(ws, "approve", candidate.id, name, trained_by=trainer)
    decision = newest_decision(ws, candidate.id)
    if decision.body["verdict"] != "PASS":
        raise Refused(
            f"the gate's verdict on this candidate is {decision.body['verdict']}: only PASS can be approved",
            hint=f"`hallmark gate show {decision.id[7:19]}` says why",
        )
    if not reason.strip():
        raise Refused("an approval needs a reason", hint="give one with `--reason`")
    trusted_now(ws)  # a clock that runs behind signs nothing
    claim = {"candidate": candidate.id, "decision": decision.id, "principal": principal.name, "reason": reason}
    envelope = sign_envelope(APPROVAL_TYPE, canonical(claim), ws.keys.load(principal.name, passphrase))
    body = {"candidate": candidate.id, "decision": decision.id, "keyid": principal.keyid, "reason": reason,
            "envelope": envelope}  # fmt: skip
    event = ws.record("approval.given", candidate.id, body, actor=principal.name)
    return Approval(principal.name, principal.keyid, reason, event.ts, envelope)


def withdraw(ws: Workspace, candidate: Asset, *, reason: str, actor: str | None = None) -> Approval:
    """Take back the approval that the actor gave of a candidate's newest decision; return it.

    Raises:
        Refused: the actor may not approve, or no reason was given.
        NotFound: the actor has given no approval that counts.
    """
    principal = roles.require(ws, "approve", candidate.id, actor)
    if not reason.strip():
        raise Refused("a withdrawal needs a reason", hint="give one with `--reason`")
    decision = newest_decision(ws, candidate.id)
    given = [approval for approval in valid(ws, candidate, decision) if approval.principal == principal.name]
    if not given:
        raise NotFound(
            f"`{principal.name}` has given no approval of this candidate that counts",
            hint="`hallmark report dossier` lists approvals",
        )
    body = {"candidate": candidate.id, "decision": decision.id, "reason": reason}
    ws.record(WITHDRAWN, candidate.id, body, actor=principal.name)
    return given[-1]


def valid(ws: Workspace, candidate: Asset, decision: Asset) -> list[Approval]:
    """Return the approvals of (candidate, decision) that count now, one per principal."""
    with ws.store.reading():
        return _valid(ws, candidate, decision)


def _valid(ws: Workspace, candidate: Asset, decision: Asset) -> list[Approval]:
    trained = separation.trainers(ws, candidate)
    approvers = {p.keyid: p for p in ws.principals().values() if p.role == "approver" and p.keyid not in trained.keyids}
    signers = {keyid: p.public for keyid, p in approvers.items()}
    oldest = trusted_now(ws) - timedelta(days=ws.settings.number("certificate_days"))
    withdrawn = _withdrawn(ws, candidate, decision)
    rows = ws.store.query(
        "SELECT * FROM approval WHERE candidate = ? AND decision = ? ORDER BY seq", [candidate.id, decision.id]
    )
    found: dict[str, Approval] = {}
    for row in rows:
        envelope = orjson.loads(row["envelope"])
        try:
            payload, keyid = open_envelope(envelope, APPROVAL_TYPE, signers)
        except Refused:
            continue  # a signature that does not count: the quorum says what is missing
        claim, giver = orjson.loads(payload), approvers[keyid]
        if (claim["candidate"], claim["decision"]) != (candidate.id, decision.id) or not holds(giver, row["seq"]):
            continue
        if datetime.fromisoformat(row["ts"]) > oldest and withdrawn.get(giver.name, -1) < row["seq"]:
            found[giver.name] = Approval(giver.name, keyid, claim["reason"], row["ts"], envelope)
    return list(found.values())


def _withdrawn(ws: Workspace, candidate: Asset, decision: Asset) -> dict[str, int]:
    """Return the place of each principal's newest withdrawal."""
    taken = seals.sealed(ws, WITHDRAWN, candidate.id)
    return {found.principal.name: found.seq for found in taken if found.body["decision"] == decision.id}
