"""Callers of the endpoint and revocation of keys: an API key is shown once, only its keyed hash is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from registry import principals
from registry.errors import Refused, SpecError, UnknownName
from registry.workspace import Workspace


def create(
    ws: Workspace, name: str, groups: Sequence[str], *, actor: str, attributes: Mapping[str, Any] | None = None,
    certificate: str = "",
) -> str:  # fmt: skip
    """Register a caller; return its API key. With `certificate` (PEM) the key counts only over that certificate.

    Raises:
        Refused: the name is taken.
        SpecError: only a token or a certificate gives such a name, a limit is not a number, or it is no certificate.
    """
    from policies.access.callers import RESERVED, create_key

    if not name or name.startswith(RESERVED):
        raise SpecError(f"no key can be named `{name}`", hint=f"names with {' or '.join(RESERVED)} are of others")
    if any(caller["name"] == name for caller in ws.callers()):
        raise Refused(f"a caller named `{name}` exists", hint="revoke it first, or choose another name")
    token, key_id, key_hash = create_key()
    body = {"groups": sorted(groups), "attributes": dict(attributes or {}), "key_id": key_id, "key_hash": key_hash}
    if certificate:
        body["certificate"] = _thumbprint(certificate)
    ws.record("caller.created", name, body, actor=actor)
    return token


def _thumbprint(pem: str) -> str:
    """Return the thumbprint of a certificate. Raises SpecError when the text is none, or several."""
    from cryptography import x509

    from policies.access.certificates import thumbprint

    try:
        x509.load_pem_x509_certificate(pem.encode())
        return thumbprint(pem)
    except ValueError:
        raise SpecError("not a certificate", hint="write one, and nothing else, as PEM") from None


def attributes_of(pairs: Sequence[str], limits: Mapping[str, float | None]) -> dict[str, Any]:
    """Return a caller's attributes from `NAME=VALUE` texts, repeated names as lists, and its limits.

    Raises SpecError for a text of another form, and for one that names a limit.
    """
    from policies.access.limits import ATTRIBUTES

    found: dict[str, Any] = {}
    for pair in pairs:
        name, mark, value = pair.partition("=")
        if not name or not mark:
            raise SpecError(f"expected NAME=VALUE, found `{pair}`", hint="for example `--attribute purpose=research`")
        if name in ATTRIBUTES:
            raise SpecError(f"`{name}` is a limit", hint="it has an option of its own")
        found.setdefault(name, []).append(value)
    single = {name: values[0] if len(values) == 1 else values for name, values in found.items()}
    return single | {name: value for name, value in limits.items() if value is not None}


def revoke(ws: Workspace, name: str, *, reason: str, actor: str, passphrase: bytes | None = None) -> str:
    """Revoke a caller or a principal; return which it was (`caller`, `principal`). The actor, an operator, signs it.

    A caller whom a token or a certificate names (`token:<issuer>:<subject>`, `cert:<kind>:<name>`) is refused from
    then on, whatever it presents.

    Raises:
        UnknownName: there is neither.
        Refused: it is the root key, whose holder all trust here starts from, the last operator, or revoked already.
    """
    from policies.access.callers import RESERVED

    callers = {caller["name"] for caller in ws.callers()}
    if name in callers or name.startswith(RESERVED):
        ws.record("caller.revoked", name, {"reason": reason}, actor=actor)
        return "caller"
    known = {p.name for p in ws.principals().values()}
    if name not in known:
        raise UnknownName("key", name, callers | known)
    principals.revoke(ws, name, reason=reason, signer=actor, passphrase=passphrase)
    return "principal"
