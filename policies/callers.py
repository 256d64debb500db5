"""Who calls: API keys `hk_<id>_<secret>`, of which only a keyed hash is ever stored.

The secret has 256 random bits, so a fast hash is enough; it is keyed by the key's id, so equal secrets would not show.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from policies.authorize import Caller
from policies.refusal import Refusal

log = logging.getLogger(__name__)

PERSON = b"hallmark-caller"


def create_key() -> tuple[str, str, str]:
    """Return (key, key_id, key_hash). The key is shown to its owner once; the other two are kept."""
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    return f"hk_{key_id}_{secret}", key_id, hash_secret(key_id, secret)


def hash_secret(key_id: str, secret: str) -> str:
    """Return `blake2b:<hex>` of a secret under its key id."""
    digest = hashlib.blake2b(secret.encode(), key=key_id.encode()[:64], person=PERSON, digest_size=32)
    return f"blake2b:{digest.hexdigest()}"


class Callers:
    """The callers by key id. `reload` reads them again; a failed read keeps the last table and says so."""

    def __init__(self, source: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        self._source = source
        self._table = self._read()

    def identify(self, authorization: bytes | None) -> Caller:
        """Return the caller of an `Authorization` header's value; raises Refusal 401, not saying what is wrong."""
        if not authorization:
            raise Refusal(401, "missing_api_key", "no API key: send `Authorization: Bearer hk_...`")
        try:
            scheme, _, token = authorization.decode("ascii").partition(" ")
        except UnicodeDecodeError:
            raise _wrong_key() from None
        prefix, _, rest = token.strip().partition("_")
        key_id, _, secret = rest.partition("_")
        if scheme.lower() != "bearer" or prefix != "hk" or not secret or len(token) > 256:
            raise _wrong_key()
        known = self._table.get(key_id)
        expected = known[1] if known else "blake2b:"
        if not hmac.compare_digest(hash_secret(key_id, secret), expected) or known is None:
            raise _wrong_key()
        return known[0]

    def reload(self) -> bool:
        """Read the callers again; return whether that worked."""
        try:
            self._table = self._read()
        except Exception:
            log.warning("cannot read the callers again; the last table stays in force", exc_info=True)
            return False
        return True

    def __len__(self) -> int:
        return len(self._table)

    def _read(self) -> dict[str, tuple[Caller, str]]:
        table = {}
        for row in self._source():
            caller = Caller(str(row["name"]), frozenset(row["groups"]), dict(row["attributes"]), str(row["key_id"]))
            table[caller.key_id] = (caller, str(row["key_hash"]))
        return table


def _wrong_key() -> Refusal:
    return Refusal(401, "invalid_api_key", "this API key is not valid here")
