"""The public keys of a token issuer: a JWK set from a file or over HTTP, refreshed in the background.

Nothing in a token says where its key is found: only the issuer's entry in hallmark.toml does.
"""

from __future__ import annotations

import http.client
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from registry.errors import SpecError

log = logging.getLogger(__name__)

DISCOVERY = "/.well-known/openid-configuration"
FETCH_SECONDS, FETCH_BYTES, MOST_KEYS = 5.0, 256 * 1024, 64
SEEK_SECONDS = 10.0
"""Between two fetches, whoever asks: tokens with made-up key ids cause no more than that."""
CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}
ALGORITHMS = (*(f"{kind}{bits}" for kind in ("RS", "PS") for bits in (256, 384, 512)), *CURVES)
"""Signatures that a public key verifies; nothing else is ever accepted."""
PARAMETERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies; `algorithm` is empty where the set does not pin one. `shape` is `RSA` or the curve."""

    key: Any
    shape: str
    algorithm: str

    def fits(self, algorithm: str) -> bool:
        """Say whether a token signed with this algorithm may be verified by this key."""
        return self.shape == CURVES.get(algorithm, "RSA") and self.algorithm in ("", algorithm)


class KeySource:
    """Keys by id. `refresh` blocks, so it runs in a thread; `find` never does.

    The last good set counts for `keep_s` seconds after it was read; then there are no keys.
    """

    def __init__(
        self, read: Callable[[], bytes], *, refresh_s: float, keep_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._read, self._refresh_s, self._keep_s, self._clock = read, refresh_s, keep_s, clock
        self._keys: Mapping[str, PublicKey] = {}
        self._good = self._tried = -float("inf")
        self._lock = threading.Lock()
        self.version = 0
        """Rises when the keys change: what older keys verified is verified again."""

    @property
    def usable(self) -> bool:
        """Whether there is a set that is not too old."""
        return bool(self._keys) and self._clock() - self._good <= self._keep_s

    @property
    def may_seek(self) -> bool:
        """Whether `seek` may bring a key that is not known: a fetch is under way, or one out of turn is allowed now."""
        return self._lock.locked() or self._clock() - self._tried >= SEEK_SECONDS

    def find(self, kid: str) -> PublicKey | None:
        """Return a key of the set in force."""
        return self._keys.get(kid) if self.usable else None

    def refresh(self) -> bool:
        """Read the set again when its time has come; return whether the set in force is good.

        A set that cannot be read or has no usable key leaves the last good one in force.
        """
        with self._lock:
            return self._fetch(self._refresh_s if self.usable else SEEK_SECONDS)

    def seek(self) -> bool:
        """Wait for the fetch that is under way, else fetch out of turn where that is allowed; return as `refresh`."""
        with self._lock:
            return self._fetch(SEEK_SECONDS)

    def _fetch(self, pause_s: float) -> bool:
        """Read the set, unless the last try was less than so many seconds ago."""
        moment = self._clock()
        if moment - self._tried < pause_s:
            return self.usable
        self._tried = moment
        try:
            keys = read_keys(self._read())
        except Exception as error:  # noqa: BLE001 - whatever the issuer sends, the last good set stays
            log.warning("cannot read an issuer's keys: %s", error)
            return self.usable
        if {kid: _told(key) for kid, key in keys.items()} != {k: _told(v) for k, v in self._keys.items()}:
            self._keys = keys
            self.version += 1
        self._good = moment
        return True


def of_file(path: Path) -> Callable[[], bytes]:
    """Return a reader of a JWK set that lies in a file."""

    def read() -> bytes:
        with path.open("rb") as file:
            return file.read(FETCH_BYTES + 1)

    return read


def of_url(url: str, ca: Path | None = None) -> Callable[[], bytes]:
    """Return a reader of a JWK set over HTTP. Raises SpecError for a URL that is not to be trusted."""
    check_url(url)
    return lambda: fetch(url, ca)


def of_issuer(issuer: str, ca: Path | None = None) -> Callable[[], bytes]:
    """Return a reader that asks the issuer's discovery document (OpenID Connect Discovery 1.0, 4) where its keys are.

    Raises SpecError as `of_url` does.
    """
    check_url(issuer)

    def read() -> bytes:
        document = strict_json(fetch(issuer.rstrip("/") + DISCOVERY, ca))
        if not isinstance(document, dict) or document.get("issuer") != issuer:
            raise ValueError("the discovery document is another issuer's")
        url = str(document.get("jwks_uri", ""))
        check_url(url)
        return fetch(url, ca)

    return read


def check_url(url: str) -> None:
    """Raise SpecError unless a URL is https, or plain http on this machine."""
    try:
        parts = urlsplit(url)
        secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        ok = secure and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        ok = False
    if not ok or not url.isascii() or not url.isprintable() or " " in url:
        raise SpecError("keys are fetched by https, or by http on this machine only", hint="write `https://...`")


def fetch(url: str, ca: Path | None = None) -> bytes:
    """Return what a URL answers with status 200; follows nothing, waits and reads no more than the bounds above.

    Raises ValueError or OSError.
    """
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=FETCH_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=FETCH_SECONDS)
    watch = threading.Timer(FETCH_SECONDS, _cut, [connection])
    watch.daemon = True
    watch.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Accept": "application/json", "User-Agent": "hallmark"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        data = answer.read(FETCH_BYTES + 1)
    except http.client.HTTPException as error:
        raise ValueError(f"no proper answer: {type(error).__name__}") from None
    finally:
        watch.cancel()
        connection.close()
    if len(data) > FETCH_BYTES:
        raise ValueError("the answer is too large")
    return data


def read_keys(data: bytes) -> dict[str, PublicKey]:
    """Return the public signature keys of a JWK set (RFC 7517) by key id.

    Left out: keys without an id or with one that another has too, symmetric and private keys, keys for encryption,
    RSA below 2048 bits. Raises ValueError when the set is not one, or nothing is left of it.
    """
    if len(data) > FETCH_BYTES:
        raise ValueError("the set is too large")
    document = strict_json(data)
    rows = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(rows, list) or len(rows) > MOST_KEYS:
        raise ValueError("not a JWK set of at most 64 keys")
    ids = [row.get("kid") for row in rows if isinstance(row, dict)]
    keys = {}
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("kid"), str) and ids.count(row["kid"]) == 1:
            key = _public_key(row)
            if key is not None:
                keys[row["kid"]] = key
    if not keys:
        raise ValueError("the set has no usable key")
    return keys


def strict_json(data: bytes) -> Any:
    """Return JSON in which no object names a member twice. Raises ValueError."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _public_key(row: Mapping[str, Any]) -> PublicKey | None:
    """Return a usable key, or None; only the parameters of a public key are looked at."""
    from joserfc.errors import JoseError
    from joserfc.jwk import import_key

    kind, operations = str(row.get("kty")), row.get("key_ops", ["verify"])
    if kind not in PARAMETERS or "d" in row or row.get("use", "sig") != "sig" or "verify" not in operations:
        return None
    algorithm = row.get("alg", "")
    if algorithm and algorithm not in ALGORITHMS:
        return None
    try:
        key = import_key({"kty": kind, **{name: row[name] for name in PARAMETERS[kind]}})
        size = getattr(key.raw_value, "key_size", 0)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        log.warning("a key of an issuer is not usable: %s", type(error).__name__)
        return None
    if kind == "RSA" and size < 2048:
        return None
    return PublicKey(key, "RSA" if kind == "RSA" else str(row["crv"]), algorithm)


def _told(key: PublicKey) -> tuple[str, str, str]:
    return json.dumps(key.key.as_dict(), sort_keys=True, default=str), key.shape, key.algorithm


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is named twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _cut(connection: http.client.HTTPConnection) -> None:
    """End a fetch that takes too long, however slowly it drips."""
    sock = connection.sock
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
