"""Who calls, by signed token: a JWT of a configured issuer, verified once and then remembered until it ends.

Algorithms, audience and issuer are pinned; the header of a token chooses a key id among the issuer's keys and nothing
else. Whatever is wrong with a token, the answer is the same.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policies.access.authorize import Caller
from policies.access.jwks import KeySource, PublicKey, strict_json
from policies.wire.refusal import Refusal

log = logging.getLogger(__name__)

PREFIX = "token"
"""Names of token callers are `token:<issuer>:<subject>`; no caller of a key can be named so."""
MOST_BYTES, MOST_SUBJECT, MOST_GROUPS, MOST_KID = 8192, 200, 256, 256
MOST_REMEMBERED = 16_384
HEADER = frozenset({"alg", "kid", "typ", "cty", "x5t", "x5t#S256"})
"""What a header may hold: no `crit`, no key and no place of one (`jwk`, `jku`, `x5u`, `x5c`)."""
TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens count here, and how their claims become a caller. `claims` are attribute to claim.

    Without `groups` each group is named `<group_prefix><group>`; with it only those count that it maps.
    """

    name: str
    issuer: str
    audiences: frozenset[str]
    algorithms: frozenset[str]
    keys: KeySource
    name_claim: str = "sub"
    groups_claim: str = "groups"
    group_prefix: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    claims: Mapping[str, str] = field(default_factory=dict)
    max_age_s: float = 86_400.0
    leeway_s: float = 30.0


@dataclass(frozen=True, slots=True)
class _Verified:
    caller: Caller
    until: float
    certificate: str
    keys: KeySource
    version: int


@dataclass(frozen=True, slots=True)
class _Parsed:
    issuer: Issuer
    algorithm: str
    kid: str
    claims: Mapping[str, Any]


class Tokens:
    """The tokens of all configured issuers. All but `refresh` is called from the thread of the event loop."""

    def __init__(
        self, issuers: Sequence[Issuer], *, wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self._wall, self._clock = wall, clock
        self._start = wall() - clock()
        self._salt = secrets.token_bytes(16)
        self._verified: dict[bytes, _Verified] = {}
        self._seeking: dict[str, asyncio.Future[bool]] = {}

    def identify(self, token: bytes, thumbprint: str) -> Caller | Awaitable[Caller]:
        """Return the caller a token names; an Awaitable when its key must be fetched first.

        `thumbprint` is the `x5t#S256` of the verified client certificate, or ``. Raises Refusal: 401, not saying
        what is wrong; 503 when the issuer's keys cannot be had.
        """
        if len(token) > MOST_BYTES:
            raise wrong_token()
        digest = hashlib.blake2b(token, digest_size=16, salt=self._salt).digest()
        known = self._verified.get(digest)
        if known is not None:
            if known.until > self._now() and known.version == known.keys.version and known.keys.usable:
                return _bound(known, thumbprint)
            del self._verified[digest]
        parsed = self._parse(token)
        seeking = parsed.issuer.name in self._seeking or parsed.issuer.keys.may_seek
        found = self._key(parsed)  # asked for after that: a fetch that ended just now has brought it
        if found is not None:
            return self._verify(token, digest, parsed, found, thumbprint)
        if not seeking:
            raise _unknown(parsed)
        return self._sought(token, digest, parsed, thumbprint)

    def refresh(self) -> bool:
        """Read again the keys whose time has come; blocks. Return whether every issuer has usable keys."""
        return all([issuer.keys.refresh() for issuer in self._issuers.values()])

    # ---- verifying -------------------------------------------------------------------------------------------------

    def _parse(self, token: bytes) -> _Parsed:
        """Read a token's parts without trusting them; raises Refusal."""
        try:
            head, body, _ = token.split(b".")
            header, claims = strict_json(_decoded(head)), strict_json(_decoded(body))
            issuer = self._issuers[claims["iss"]]
            algorithm, kid, kind = header["alg"], header["kid"], header.get("typ", "JWT")
            if not header.keys() <= HEADER or algorithm not in issuer.algorithms or kind.lower() not in TYPES:
                raise wrong_token()
            if not isinstance(kid, str) or not 0 < len(kid) <= MOST_KID:
                raise wrong_token()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise wrong_token() from None
        return _Parsed(issuer, algorithm, kid, claims)

    async def _sought(self, token: bytes, digest: bytes, parsed: _Parsed, thumbprint: str) -> Caller:
        """Fetch the issuer's keys once for all who wait for them, then verify."""
        name, keys = parsed.issuer.name, parsed.issuer.keys
        fetching = self._seeking.get(name)
        if fetching is None and keys.may_seek:
            fetching = asyncio.ensure_future(asyncio.to_thread(keys.seek))
            self._seeking[name] = fetching
            fetching.add_done_callback(lambda _: self._seeking.pop(name, None))
        if fetching is not None:
            await asyncio.shield(fetching)
        found = self._key(parsed)
        if found is None:
            raise _unknown(parsed)
        return self._verify(token, digest, parsed, found, thumbprint)

    def _key(self, parsed: _Parsed) -> tuple[PublicKey, int] | None:
        """Return a token's key with the version of its set, read first: a set that changes meanwhile is no danger."""
        version = parsed.issuer.keys.version
        key = parsed.issuer.keys.find(parsed.kid)
        return None if key is None else (key, version)

    def _verify(
        self, token: bytes, digest: bytes, parsed: _Parsed, found: tuple[PublicKey, int], thumbprint: str
    ) -> Caller:
        """Verify signature and claims, and remember; raises Refusal."""
        from joserfc.errors import JoseError

        (key, version), issuer, claims, now = found, parsed.issuer, parsed.claims, self._now()
        try:
            if not key.fits(parsed.algorithm) or not _signed(token, parsed.algorithm, key):
                raise wrong_token()
            until = _lifetime(issuer, claims, now)
            caller = _caller(issuer, claims, parsed.kid)
            verified = _Verified(caller, until, _confirmation(claims), issuer.keys, version)
        except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.info("a token of `%s` is refused: %s", issuer.name, type(error).__name__)
            raise wrong_token() from None
        if len(self._verified) >= MOST_REMEMBERED:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = verified
        return _bound(verified, thumbprint)

    def _now(self) -> float:
        """Return the time by which tokens end: a wall clock that is set back during the run revives none."""
        return max(self._wall(), self._start + self._clock())


def wrong_token() -> Refusal:
    """Return the refusal of a token, whatever is wrong with it."""
    return Refusal(401, "invalid_token", "this token is not valid here")


def keys_down() -> Refusal:
    """Return the refusal while the keys of an issuer cannot be had."""
    return Refusal(503, "identity_unavailable", "tokens cannot be verified now", action="error", retry_after=10)


def _unknown(parsed: _Parsed) -> Refusal:
    return wrong_token() if parsed.issuer.keys.usable else keys_down()


def _signed(token: bytes, algorithm: str, key: PublicKey) -> bool:
    """Say whether a token carries a key's signature by an algorithm; the header was read by us, and is not again."""
    from joserfc.jws import JWSRegistry

    content, _, signature = token.rpartition(b".")
    return bool(JWSRegistry.algorithms[algorithm].verify(content, _decoded(signature), key.key))


def _bound(verified: _Verified, thumbprint: str) -> Caller:
    """Return the caller, of a token that is bound to a certificate only over that certificate (RFC 8705, 3)."""
    if verified.certificate and verified.certificate != thumbprint:
        raise wrong_token()
    return verified.caller


def _decoded(part: bytes) -> bytes:
    """Return base64url without padding, decoded; raises ValueError for anything that has another spelling."""
    data = base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part:
        raise ValueError("not canonical base64url")
    return data


def _lifetime(issuer: Issuer, claims: Mapping[str, Any], now: float) -> float:
    """Return when a token ends; raises ValueError when it has ended, has not begun, or is for somebody else."""
    audience = claims["aud"]
    audiences = [audience] if isinstance(audience, str) else list(audience)
    if issuer.audiences.isdisjoint(each for each in audiences if isinstance(each, str)):
        raise ValueError("another audience")
    issued, leeway = _moment(claims, "iat"), issuer.leeway_s
    begins = _moment(claims, "nbf") if "nbf" in claims else issued
    until = min(_moment(claims, "exp"), issued + issuer.max_age_s) + leeway
    if until <= now or begins > now + leeway or issued > now + leeway:
        raise ValueError("ended, or not begun")
    return until


def _moment(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise ValueError("not a moment")
    return float(value)


def _confirmation(claims: Mapping[str, Any]) -> str:
    """Return the thumbprint a token is bound to, or ``; raises ValueError for a proof that is not checked here."""
    if "cnf" not in claims:
        return ""
    found = claims["cnf"].get("x5t#S256")
    if not isinstance(found, str) or not found or len(claims["cnf"]) != 1:
        raise ValueError("bound to something else than a certificate")
    return found


def _caller(issuer: Issuer, claims: Mapping[str, Any], kid: str) -> Caller:
    subject = _claim(claims, issuer.name_claim)
    if not isinstance(subject, str) or not 0 < len(subject) <= MOST_SUBJECT or not subject.isprintable():
        raise ValueError("no subject")
    given = _claim(claims, issuer.groups_claim)
    names = given.split() if isinstance(given, str) else given or []
    if len(names) > MOST_GROUPS or not all(isinstance(each, str) and each.isprintable() for each in names):
        raise ValueError("no groups")
    if issuer.groups:
        groups = frozenset(issuer.groups[each] for each in names if each in issuer.groups)
    else:
        groups = frozenset(issuer.group_prefix + each for each in names)
    found = {attribute: _claim(claims, claim) for attribute, claim in issuer.claims.items()}
    attributes = {name: value for name, value in found.items() if value is not None} | dict(issuer.attributes)
    caller = Caller(f"{PREFIX}:{issuer.name}:{subject}", groups, attributes, f"{PREFIX}:{kid}")
    if not caller.fingerprint:
        raise ValueError("no attributes")
    return caller


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """Return a claim by name, or by a dotted path where no claim has that very name; None without one."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
