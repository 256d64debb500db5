"""Evaluation permits: a signed, expiring leave to serve one uncertified candidate on loopback for its evaluation."""

from __future__ import annotations

import secrets
from datetime import timedelta

from governance import roles
from registry.attestation import PERMIT_TYPE
from registry.clock import trusted_now
from registry.identity import sign_envelope
from registry.records import canonical
from registry.workspace import Workspace


def issue(
    ws: Workspace, candidate: str, suite: str, *, actor: str, minutes: float = 60, passphrase: bytes | None = None
) -> str:
    """Return the id of a new permit, signed by the evaluator. It never satisfies an alias.

    Raises Refused when `actor` may not evaluate.
    """
    principal = roles.require(ws, "evaluate", candidate, actor)
    permit = secrets.token_hex(12)
    expires = (trusted_now(ws) + timedelta(minutes=minutes)).isoformat(timespec="seconds")
    claim = {"id": permit, "candidate": candidate, "suite": suite, "evaluator": principal.name, "expires": expires}
    envelope = sign_envelope(PERMIT_TYPE, canonical(claim), ws.keys.load(principal.name, passphrase))
    ws.record("permit.issued", permit, {**claim, "envelope": envelope}, actor=principal.name)
    return permit
