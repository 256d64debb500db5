"""Files encrypted to principals: a hold-out that an evaluator may read and a trainer may not.

A random key encrypts the data (ChaCha20-Poly1305) and is itself encrypted to each recipient by HPKE (RFC 9180, base
mode: X25519, HKDF-SHA256, ChaCha20-Poly1305). Where all roles run as one operating-system user and keys have no
passphrase, this is a speed bump and no wall: whoever can read `keys/` can open everything.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from registry import seals
from registry.errors import NotFound, Refused, SpecError, Tampered
from registry.identity import Principal, check_name, check_private, keyid_of
from registry.records import canonical
from registry.signers import from_base64

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import Suite

    from registry.workspace import Workspace

MAGIC = b"hallmark-sealed 1\n"
"""The first line of a sealed file; the number is the version of the format."""
SUFFIX = ".sealed"
CREATED = "sealing_key.created"
"""The event that binds a public sealing key (hex) to a principal; it counts with a seal by that principal's own key."""
READERS = frozenset({"evaluator", "auditor"})
"""Roles that a file may be sealed for."""
_LARGEST_HEADER = 1 << 20
_LARGEST = (1 << 31) - 64


def is_sealed(data: bytes) -> bool:
    """Return whether bytes are a sealed file (of any version)."""
    return data.startswith(MAGIC.split()[0])


def make_key(ws: Workspace, name: str, *, passphrase: bytes | None = None) -> str:
    """Make a principal's sealing key, `keys/<name>.x25519`, record its public half; return that in hex.

    A key that is there is used again. The event is signed by the principal's own key, which must open here.

    Args:
        ws: the workspace.
        name: a principal of a role in `READERS`.
        passphrase: encrypts a new key file and opens an old one; default the workspace's.

    Raises:
        Refused: the principal's role may not read hold-outs, or its key was revoked.
        NotFound: its signing key is not here.
        SpecError: a key does not open with the passphrase.
    """
    _reader(ws.principal(name))
    ws.keys.load(name, passphrase)
    secret = passphrase or ws.keys.passphrase
    path = key_file(ws, name)
    if not path.exists():
        _write(path, secret)
    public = _load(ws, name, secret).public_key().public_bytes_raw().hex()
    if _recorded(ws).get(name) != public:
        ws.record(CREATED, name, {"public": public, "keyid": keyid_of(public)}, actor=name)
    return public


def key_file(ws: Workspace, name: str) -> Path:
    """Return where a principal's sealing key lies, whether or not it is there."""
    return ws.keys.root / f"{check_name(name)}.x25519"


def seal(ws: Workspace, data: bytes, recipients: Sequence[str]) -> bytes:
    """Return data as a sealed file that each of the recipients can open.

    Raises:
        SpecError: no recipient, one named twice, or data of 2 GiB and more.
        UnknownName: no such principal.
        NotFound: a recipient without a sealing key.
        Refused: a recipient's role may not read hold-outs, or its key was revoked.
    """
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    if not recipients or len(set(recipients)) != len(recipients):
        raise SpecError("name each recipient once", hint="for example `--for evaluator`")
    if len(data) >= _LARGEST:
        raise SpecError(f"{len(data)} bytes are too many for one sealed file", hint="seal it in parts below 2 GiB")
    publics = {name: _public(ws, name) for name in recipients}
    key = ChaCha20Poly1305.generate_key()
    header = {
        "workspace": ws.settings.workspace_id,
        "recipients": [_wrapped(ws, name, public, key) for name, public in publics.items()],
    }
    opening = MAGIC + canonical(header) + b"\n"
    nonce = os.urandom(12)
    return opening + nonce + ChaCha20Poly1305(key).encrypt(nonce, data, opening)


def open_sealed(ws: Workspace, data: bytes, principal: str | None = None) -> bytes:
    """Return what a sealed file holds.

    Args:
        ws: the workspace.
        data: the file's bytes.
        principal: who opens it; default the workspace's acting evaluator.

    Raises:
        Refused: the file is not sealed for this principal, its role may not read hold-outs, or others can read its key.
        NotFound: its sealing key is not here.
        SpecError: no sealed file, one of another version, or a key that does not open with the passphrase.
        Tampered: a byte of the file differs from what was sealed.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    name = principal or ws.settings["principal"] or ws.settings.principals.get("evaluator")
    if not name:
        raise SpecError("no principal acts as `evaluator` here", hint="name one with `--as`")
    _reader(ws.principal(name))
    opening, rest = _split(data)
    entry = _entry(opening, name)
    key = _unwrapped(ws, name, entry)
    try:
        return ChaCha20Poly1305(key).decrypt(rest[:12], rest[12:], opening)
    except (InvalidTag, ValueError):
        raise _tampered() from None


def recipients_of(data: bytes) -> tuple[str, ...]:
    """Return whom a sealed file is for, by its own word: names are proved only by opening. Raises as `open_sealed`."""
    return tuple(str(entry["name"]) for entry in _header(_split(data)[0])["recipients"])


def _reader(principal: Principal) -> None:
    if principal.role not in READERS:
        raise Refused(
            f"`{principal.name}` ({principal.role}) may not read hold-outs",
            hint="roles that may: " + ", ".join(sorted(READERS)),
        )


def _recorded(ws: Workspace) -> dict[str, str]:
    """Return the newest public sealing key of each principal that signed for its own."""
    found = {}
    for event in seals.sealed(ws, CREATED):
        if event.principal.name == event.subject and event.body["keyid"] == keyid_of(event.body["public"]):
            found[event.subject] = str(event.body["public"])
    return found


def _public(ws: Workspace, name: str) -> str:
    _reader(ws.principal(name))
    public = _recorded(ws).get(name)
    if public is None:
        raise NotFound(f"`{name}` has no sealing key", hint=f"`{name}` makes one: `hallmark suite key --as {name}`")
    return public


def _cipher() -> Suite:
    from cryptography.hazmat.primitives import hpke

    return hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


def _context(workspace: str, name: str, keyid: str) -> bytes:
    """Return what a wrapped key is bound to: a key taken to another file's header or recipient does not open."""
    return MAGIC + canonical({"workspace": workspace, "name": name, "keyid": keyid})


def _wrapped(ws: Workspace, name: str, public: str, key: bytes) -> dict[str, str]:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    keyid = keyid_of(public)
    context = _context(ws.settings.workspace_id, name, keyid)
    box = _cipher().encrypt(key, X25519PublicKey.from_public_bytes(bytes.fromhex(public)), context)
    return {"name": name, "keyid": keyid, "key": base64.b64encode(box).decode()}


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Return the clear opening (magic and header lines, as they stand) and the rest."""
    if not data.startswith(MAGIC):
        if is_sealed(data):
            raise SpecError("a sealed file of another version", hint="seal it again with `hallmark suite seal`")
        raise SpecError("not a sealed file", hint="`hallmark suite seal FILE --for PRINCIPAL` makes one")
    end = data.find(b"\n", len(MAGIC), _LARGEST_HEADER)
    if end < 0:
        raise _tampered()
    return data[: end + 1], data[end + 1 :]


def _header(opening: bytes) -> dict[str, Any]:
    try:
        header = orjson.loads(opening[len(MAGIC) :])
        known = isinstance(header, dict) and all(
            isinstance(entry[field], str) for entry in header["recipients"] for field in ("name", "keyid", "key")
        )
    except (orjson.JSONDecodeError, KeyError, TypeError):
        known = False
    if not known:
        raise _tampered()
    return dict(header)


def _entry(opening: bytes, name: str) -> Mapping[str, str]:
    header = _header(opening)
    for entry in header["recipients"]:
        if entry["name"] == name:
            return {**entry, "workspace": str(header.get("workspace"))}
    names = ", ".join(f"`{entry['name'][:64]}`" for entry in header["recipients"]) or "nobody"
    raise Refused(f"this file is not sealed for `{name}`", hint=f"it is for {names}: one of them opens it with `--as`")


def _unwrapped(ws: Workspace, name: str, entry: Mapping[str, str]) -> bytes:
    from cryptography.exceptions import InvalidTag

    private = _load(ws, name, ws.keys.passphrase)
    if keyid_of(private.public_key().public_bytes_raw().hex()) != entry["keyid"]:
        raise Refused(f"this file is sealed for another key of `{name}`", hint="seal it again, for the present key")
    try:
        box = from_base64(entry["key"])
        return _cipher().decrypt(box, private, _context(entry["workspace"], name, entry["keyid"]))
    except (InvalidTag, ValueError):
        raise _tampered() from None


def _write(path: Path, passphrase: bytes | None) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    locking: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        locking = serialization.BestAvailableEncryption(passphrase)
    data = X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locking
    )
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(part, path)  # never over a key that another process made meanwhile
    except FileExistsError:
        pass
    finally:
        part.unlink()


def _load(ws: Workspace, name: str, passphrase: bytes | None) -> X25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = key_file(ws, name)
    try:
        with path.open("rb") as file:
            check_private(path, os.fstat(file.fileno()))
            data = file.read()
    except FileNotFoundError:
        raise NotFound(
            f"the sealing key of `{name}` is not here", hint=f"it is `keys/{path.name}`, made by `hallmark suite key`"
        ) from None
    try:
        key = load_pem_private_key(data, passphrase if b"ENCRYPTED" in data[:64] else None)
    except (TypeError, ValueError):
        hint = "give the right --passphrase-file"
        raise SpecError(f"the sealing key of `{name}` does not open with this passphrase", hint=hint) from None
    if not isinstance(key, X25519PrivateKey):
        raise SpecError(f"`{path}` holds no X25519 key", hint="make it with `hallmark suite key`")
    return key


def _tampered() -> Tampered:
    return Tampered("the sealed file was altered, or is cut short", hint="restore it from a copy, or seal it again")
