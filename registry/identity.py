"""Who acts: named Ed25519 keys on disk, principals in the journal, DSSE signatures.

Separation of duties is by key: a principal has exactly one key and a set of roles, fixed when it is created.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import HallmarkError, NotFound, Refused, SpecError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ROLES = ("viewer", "trainer", "evaluator", "policy-author", "approver", "operator", "auditor", "agent")


@dataclass(frozen=True, slots=True)
class Principal:
    """A registered key holder. `public` is the raw Ed25519 key in hex, `keyid` its SHA-256 in hex."""

    name: str
    role: str
    keyid: str
    public: str
    revoked: bool = False


class Keys:
    """The private keys of a workspace, `<name>.pem`, PKCS 8, mode 0600, optionally encrypted with a passphrase."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, name: str, passphrase: bytes | None = None) -> Ed25519PublicKey:
        """Make a key; return its public half. Raises Refused when the name is taken, SpecError for a bad name."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if not name or not all(char.isalnum() or char in "-_." for char in name) or name.startswith("."):
            raise SpecError(f"`{name}` is not a principal's name", hint="use letters, digits, `-`, `_` and `.`")
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = Ed25519PrivateKey.generate()
        locking: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            locking = serialization.BestAvailableEncryption(passphrase)
        data = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locking)
        try:
            descriptor = os.open(self.root / f"{name}.pem", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise Refused(
                f"a key named `{name}` exists", hint="choose another name, or `hallmark key revoke`"
            ) from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return key.public_key()

    def load(self, name: str, passphrase: bytes | None = None) -> Ed25519PrivateKey:
        """Return a private key. Raises NotFound, Refused (readable by others), SpecError (passphrase)."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        path = self.root / f"{name}.pem"
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            raise NotFound(f"no key for `{name}` in `{self.root}`", hint=f"run `hallmark key create {name}`") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Refused(f"key file `{path}` can be read by others", hint=f"chmod 600 {path}")
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), passphrase)
        except (TypeError, ValueError):
            hint = "give the right --passphrase-file; a key made without one takes none"
            raise SpecError(f"the key of `{name}` does not open with this passphrase", hint=hint) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise SpecError(f"the key of `{name}` is not an Ed25519 key", hint="create it with `hallmark key create`")
        return key

    def names(self) -> list[str]:
        """Return the names that have a private key here."""
        return sorted(path.stem for path in self.root.glob("*.pem"))


def public_hex(key: Ed25519PublicKey) -> str:
    """Return the raw public key in hex."""
    return key.public_bytes_raw().hex()


def keyid_of(public: str) -> str:
    """Return the SHA-256, in hex, of a raw public key given in hex."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Return what a DSSE signature signs: `DSSEv1 len(type) type len(payload) payload` (DSSE protocol 1.0)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign_envelope(payload_type: str, payload: bytes, key: Ed25519PrivateKey) -> dict[str, Any]:
    """Return a DSSE envelope over `payload` with one signature."""
    import base64

    public = public_hex(key.public_key())
    signature = key.sign(pre_authentication(payload_type, payload))
    return {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": keyid_of(public), "sig": base64.b64encode(signature).decode()}],
    }


def open_envelope(envelope: dict[str, Any], payload_type: str, signers: dict[str, str]) -> tuple[bytes, str]:
    """Return (payload, keyid) of an envelope with a good signature by one of `signers` (keyid to public hex).

    Raises:
        Refused: wrong type, no known signer, or a signature that does not verify.
    """
    import base64
    import binascii

    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if envelope.get("payloadType") != payload_type:
        raise Refused(f"envelope is of type `{envelope.get('payloadType')}`", hint=f"expected `{payload_type}`")
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        for signature in envelope["signatures"]:
            public = signers.get(signature["keyid"])
            if public is None:
                continue
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
            key.verify(base64.b64decode(signature["sig"], validate=True), pre_authentication(payload_type, payload))
            return payload, str(signature["keyid"])
    except InvalidSignature:
        raise Refused("signature does not verify: the statement was altered", hint="restore it from a copy") from None
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise HallmarkError(f"malformed envelope: {error}", hint="restore it from a copy") from None
    raise Refused("no signature by a key that may sign this", hint="`hallmark key list` shows keys and roles")
