"""Who calls: by API key `hk_<id>_<secret>`, of which only a keyed hash is ever stored, by token, or by certificate.

The secret has 256 random bits, so a fast hash is enough; it is keyed by the key's id, so equal secrets would not show.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from policies.access import certificates, tokens
from policies.access.authorize import Caller
from policies.access.certificates import Certificate, Certificates, wrong_certificate
from policies.access.tokens import Tokens, wrong_token
from policies.wire.refusal import Refusal

log = logging.getLogger(__name__)

PERSON = b"hallmark-caller"
RESERVED = (f"{tokens.PREFIX}:", f"{certificates.PREFIX}:")
"""Names that only a token or a certificate gives."""
KEPT_SECONDS = 60.0
"""How long the last table counts when callers cannot be read again: so long a revoked key may live."""


def create_key() -> tuple[str, str, str]:
    """Return (key, key_id, key_hash). The key is shown to its owner once; the other two are kept."""
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    return f"hk_{key_id}_{secret}", key_id, hash_secret(key_id, secret)


def hash_secret(key_id: str, secret: str) -> str:
    """Return `blake2b:<hex>` of a secret under its key id."""
    digest = hashlib.blake2b(secret.encode(), key=key_id.encode()[:64], person=PERSON, digest_size=32)
    return f"blake2b:{digest.hexdigest()}"


class Callers:
    """The callers by key id, and whoever tokens and certificates name. `reload` reads again what they are judged by.

    When callers cannot be read again the last table stays in force for `KEPT_SECONDS`, then nobody is known.
    """

    def __init__(
        self, source: Callable[[], Sequence[Mapping[str, Any]]], *, tokens: Tokens | None = None,
        certificates: Certificates | None = None, revoked: Callable[[], Collection[str]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Read once. `source` gives caller records, `revoked` the names of token and certificate callers sent away."""
        self._source, self._revocations, self._clock = source, revoked, clock
        self._tokens, self._certificates = tokens, certificates
        self._rows: Sequence[Mapping[str, Any]] = ()
        self._table: dict[str, tuple[Caller, str, str]] = {}
        self._revoked: frozenset[str] = frozenset()
        self._unread_since: float | None = None
        self._read()
        if tokens is not None:
            tokens.refresh()

    def identify(self, authorization: bytes | None, certificate: str = "") -> Caller | Awaitable[Caller]:
        """Return the caller of an `Authorization` header's value, or without one of a verified certificate (PEM).

        An Awaitable comes only when the key of a token must be fetched first. Raises Refusal: 401, not saying what is
        wrong; 503 when it cannot be known.
        """
        since = self._unread_since
        if since is not None and self._clock() - since > KEPT_SECONDS:
            raise Refusal(503, "identity_unavailable", "callers cannot be read now", action="error", retry_after=5)
        shown = self._certificates.check(certificate) if certificate and self._certificates is not None else None
        if not authorization:
            return self._by_certificate(shown)
        scheme, _, token = authorization.partition(b" ")
        token = token.strip()
        if scheme.lower() != b"bearer":
            raise _wrong_key()
        if token.count(b".") == 2 and self._tokens is not None:
            found = self._tokens.identify(token, shown.thumbprint if shown is not None else "")
            return self._standing(found) if isinstance(found, Caller) else self._awaited(found)
        return self._by_key(token, shown)

    def reload(self) -> bool:
        """Read again callers, revocations, and keys of issuers whose time has come; blocks. Return whether that worked.

        Keys of issuers that cannot be had are not counted: each has its own time to live.
        """
        worked = self._reread()
        if self._tokens is not None:
            self._tokens.refresh()
        return worked

    def __len__(self) -> int:
        return len(self._table)

    # ---- the three ways --------------------------------------------------------------------------------------------

    def _by_key(self, token: bytes, shown: Certificate | None) -> Caller:
        prefix, _, rest = token.partition(b"_")
        if prefix != b"hk" or len(token) > 256 or not token.isascii():
            raise _wrong_key()
        key_id, _, secret = rest.decode("ascii").partition("_")
        known = self._table.get(key_id)
        expected = known[1] if known else "blake2b:"
        if not secret or not hmac.compare_digest(hash_secret(key_id, secret), expected) or known is None:
            raise _wrong_key()
        if known[2] and (shown is None or shown.thumbprint != known[2]):
            raise _wrong_key()
        return known[0]

    def _by_certificate(self, shown: Certificate | None) -> Caller:
        if shown is None:
            raise Refusal(401, "missing_api_key", "no API key: send `Authorization: Bearer hk_...`")
        if shown.caller is None or shown.caller.name in self._revoked:
            raise wrong_certificate()
        return shown.caller

    def _standing(self, caller: Caller) -> Caller:
        if caller.name in self._revoked:
            raise wrong_token()
        return caller

    async def _awaited(self, caller: Awaitable[Caller]) -> Caller:
        return self._standing(await caller)

    # ---- reading ---------------------------------------------------------------------------------------------------

    def _reread(self) -> bool:
        if self._unread_since is None:
            self._unread_since = self._clock()
        try:
            self._read()
            if self._certificates is not None:
                self._certificates.refresh()
        except Exception:
            log.warning("cannot read the callers again; the last table stays in force for a while", exc_info=True)
            return False
        self._unread_since = None
        return True

    def _read(self) -> None:
        rows, revoked = self._source(), frozenset(self._revocations())
        if rows != self._rows:
            table: dict[str, tuple[Caller, str, str]] = {}
            for row in rows:
                name = str(row["name"])
                if name.startswith(RESERVED):
                    log.error("a key of `%s` is left out: only a token or a certificate gives such a name", name)
                    continue
                caller = Caller(name, frozenset(row["groups"]), dict(row["attributes"]), str(row["key_id"]))
                table[caller.key_id] = (caller, str(row["key_hash"]), str(row.get("certificate", "")))
            self._table, self._rows = table, [dict(row) for row in rows]
        self._revoked = revoked


def _wrong_key() -> Refusal:
    return Refusal(401, "invalid_api_key", "this API key is not valid here")
