"""Callers of the endpoint and revocation of keys: an API key is shown once, only its keyed hash is kept."""

from __future__ import annotations

from collections.abc import Sequence

from registry import principals
from registry.errors import Refused, UnknownName
from registry.workspace import Workspace


def create(ws: Workspace, name: str, groups: Sequence[str], *, rate: float | None = None, actor: str) -> str:
    """Register a caller; return its API key. `rate` is in requests a minute. Raises Refused when the name is taken."""
    from policies.callers import create_key

    if any(caller["name"] == name for caller in ws.callers()):
        raise Refused(f"a caller named `{name}` exists", hint="revoke it first, or choose another name")
    token, key_id, key_hash = create_key()
    body = {
        "groups": sorted(groups),
        "attributes": {"requests_per_minute": rate} if rate else {},
        "key_id": key_id,
        "key_hash": key_hash,
    }
    ws.record("caller.created", name, body, actor=actor)
    return token


def revoke(ws: Workspace, name: str, *, reason: str, actor: str, passphrase: bytes | None = None) -> str:
    """Revoke a caller or a principal; return which it was (`caller`, `principal`). The actor, an operator, signs it.

    Raises:
        UnknownName: there is neither.
        Refused: it is the root key, whose holder all trust here starts from, the last operator, or revoked already.
    """
    callers = {caller["name"] for caller in ws.callers()}
    if name in callers:
        ws.record("caller.revoked", name, {"reason": reason}, actor=actor)
        return "caller"
    known = {p.name for p in ws.principals().values()}
    if name not in known:
        raise UnknownName("key", name, callers | known)
    principals.revoke(ws, name, reason=reason, signer=actor, passphrase=passphrase)
    return "principal"
