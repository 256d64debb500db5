"""Signatures of events: who did it is decided by a key, not by a name written into the record.

A seal is a signature over the DSSE pre-authentication encoding of the event's content. Events that carry trust
(verdicts, results, revocations, callers, holds) count only with a seal by a principal whose role may do such a thing.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from registry.errors import HallmarkError, NotFound, Refused, Tampered
from registry.identity import pre_authentication
from registry.records import canonical
from registry.signers import from_base64, verify_signature

if TYPE_CHECKING:
    from registry.identity import Principal
    from registry.workspace import Workspace

SEAL_TYPE = "application/vnd.hallmark.event+json"
REGISTERED = "asset.registered"

_OPERATOR = frozenset({"operator"})
_JUDGING = frozenset({"operator", "auditor", "evaluator", "approver", "policy-author"})
_TRAINING = frozenset({"trainer", "agent", "operator"})
COUNTS: dict[str, frozenset[str]] = {
    "certificate.revoked": _OPERATOR,
    "caller.created": _OPERATOR,
    "caller.revoked": _OPERATOR,
    "alias.moved": _OPERATOR,
    "weights_key.created": _OPERATOR,
    "weights.signed": _OPERATOR,
    "policy.activated": frozenset({"policy-author", "operator"}),
    "policy.approved": frozenset({"approver"}),
    "approval.withdrawn": frozenset({"approver"}),
    "source.withdrawn": _OPERATOR,
    "asset.tombstoned": _OPERATOR,
    "hold.placed": frozenset({"operator", "auditor"}),
    "hold.lifted": _OPERATOR,
    "gate.looked": frozenset({"evaluator"}),
    "recertification.opened": _JUDGING,
    "recertification.closed": _JUDGING,
    "sealing_key.created": frozenset({"evaluator", "auditor"}),
    f"{REGISTERED}/eval_run": frozenset({"evaluator"}),
    f"{REGISTERED}/decision": frozenset({"evaluator"}),
    f"{REGISTERED}/certificate": _OPERATOR,
    f"{REGISTERED}/run": _TRAINING,
    f"{REGISTERED}/version": _TRAINING,
    f"{REGISTERED}/adapter": _TRAINING,
}
"""Whose seal counts, by kind of event, or by kind of registered asset. What is not listed needs none."""
VOID = frozenset(f"{REGISTERED}/{kind}" for kind in ("eval_run", "decision", "certificate"))
"""Evidence: revoking a key voids what it signed of these, not only what it would sign from then on."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An event whose seal was verified; `principal` is who sealed it, by key."""

    seq: int
    ts: str
    kind: str
    subject: str
    body: dict[str, Any]
    principal: Principal


def claim(workspace: str, kind: str, subject: str, body: Mapping[str, Any], actor: str, at: str) -> bytes:
    """Return what a seal signs, before its pre-authentication encoding: the RFC 8785 JSON of the event's content."""
    return canonical({"workspace": workspace, "kind": kind, "subject": subject, "body": body, "actor": actor, "at": at})


def seal(ws: Workspace, kind: str, subject: str, body: dict[str, Any], actor: str) -> dict[str, str] | None:
    """Return the actor's seal of an event, or None for an actor without a key here.

    Raises:
        NotFound: the kind counts only with a seal, and the key that would sign is not here.
        SpecError, Refused: the key does not open, or others can read it.
    """
    needed = kind in COUNTS
    if not ws.keys.holds(actor):
        if needed:
            raise NotFound(
                f"`{kind}` must be signed, and the key of `{actor}` is not here",
                hint=f"run this where `keys/{actor}.pem` lies, or name a signer in `[signers]` of hallmark.toml",
            )
        return None
    try:
        signer = ws.keys.load(actor)
    except HallmarkError:
        if needed or _counting(kind, body) in COUNTS:
            raise
        return None  # an encrypted key that nobody opened: this kind of event counts without a seal
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    content = claim(ws.settings.workspace_id, kind, subject, body, actor, at)
    signature = signer.sign(pre_authentication(SEAL_TYPE, content))
    return {"keyid": signer.keyid, "at": at, "sig": base64.b64encode(signature).decode()}


def sealed(ws: Workspace, kind: str, subject: str | None = None) -> list[Sealed]:
    """Return the events of a kind (and subject), oldest first, every one with a seal that counts.

    Raises:
        Tampered: one of them has no seal, one that does not verify, or one that another event carries too.
        Refused: it is sealed by a key whose role does not count, or that was revoked.
    """
    where, params = ("AND subject = ?", [kind, subject]) if subject is not None else ("", [kind])
    rows = ws.store.query(f"SELECT * FROM event WHERE kind = ? {where} ORDER BY seq", params)  # noqa: S608 (our own text)
    if not rows:
        return []
    principals = ws.principals()
    found = [_check(ws, row, principals) for row in rows]
    seen: set[str] = set()
    for row in rows:
        signature = orjson.loads(row["sig"])["sig"]
        if signature in seen:
            raise Tampered(_name(row) + " repeats the signature of an earlier one", hint="see `hallmark log verify`")
        seen.add(signature)
    return found


def registration(ws: Workspace, ident: str) -> Sealed:
    """Return the sealed event that registered an asset. Raises NotFound, Tampered, Refused as `sealed` does."""
    return registrations(ws, [ident])[ident]


def registrations(ws: Workspace, idents: Sequence[str]) -> dict[str, Sealed]:
    """Return, by asset id, the sealed event that registered each. Raises as `registration` does."""
    rows = ws.store.query(
        "SELECT * FROM event WHERE kind = ? AND list_contains(?, subject) ORDER BY seq", [REGISTERED, list(idents)]
    )
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["subject"], row)
    missing = [ident for ident in idents if ident not in first]
    if missing:
        raise NotFound(f"no asset `{missing[0]}`", hint="was it registered in this workspace?")
    principals = ws.principals()
    return {ident: _check(ws, first[ident], principals) for ident in idents}


def _check(ws: Workspace, row: dict[str, Any], principals: dict[str, Principal]) -> Sealed:
    """Return one event with its verified seal."""
    body = orjson.loads(row["body"])
    mark = orjson.loads(row["sig"]) if row["sig"] else None
    if mark is None:
        cure = "release 0.1 signed none: do it again" if row["v"] == 1 else "restore the journal from a copy"
        raise Tampered(f"{_name(row)} carries no signature", hint=cure)
    principal = principals.get(mark["keyid"])
    if principal is None or principal.name != row["actor"]:
        raise Tampered(f"{_name(row)} is not signed by `{row['actor']}`", hint="see `hallmark log verify`")
    content = claim(ws.settings.workspace_id, row["kind"], row["subject"], body, row["actor"], mark["at"])
    try:
        signature = from_base64(mark["sig"])  # one spelling only: a second one would pass for another signature
    except ValueError:
        signature = b""
    if not verify_signature(principal.public, signature, pre_authentication(SEAL_TYPE, content)):
        raise Tampered(f"{_name(row)} is not what `{row['actor']}` signed", hint="see `hallmark log verify`")
    _check_standing(row, body, principal)
    return Sealed(row["seq"], row["ts"], row["kind"], row["subject"], body, principal)


def _check_standing(row: dict[str, Any], body: dict[str, Any], principal: Principal) -> None:
    """The signer's role counts for this kind, and its key was good when it signed."""
    counting = COUNTS.get(_counting(row["kind"], body))
    if counting is not None and principal.role not in counting:
        raise Refused(
            f"{_name(row)} is signed by `{principal.name}` ({principal.role}), which does not count",
            hint="roles that count: " + ", ".join(sorted(counting)),
        )
    if principal.revoked and _counting(row["kind"], body) in VOID:
        raise Refused(f"{_name(row)} is signed by a revoked key", hint="do it again with a key that holds")
    if not principal.counts_at(row["seq"]):
        raise Refused(
            f"{_name(row)} is signed by a key that did not count then",
            hint="it was revoked or replaced before; do it again with a key that holds",
        )


def _counting(kind: str, body: Mapping[str, Any]) -> str:
    return f"{kind}/{body.get('kind')}" if kind == REGISTERED else kind


def _name(row: dict[str, Any]) -> str:
    return f"event {row['seq']} (`{row['kind']}` of `{str(row['subject'])[:32]}`)"
