"""Who acts: named keys, on disk or behind a program, principals in the journal, DSSE signatures.

Separation of duties is by key: a principal has one key at a time and one role, fixed when it is created.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import HallmarkError, NotFound, Refused, SpecError
from registry.signers import (
    ExternalSigner,
    KeySigner,
    Signer,
    algorithm_of,
    from_base64,
    generate,
    hex_of,
    keyid_of,
    verify_signature,
)

if TYPE_CHECKING:
    from registry.signers import PrivateKey, PublicKey

ROLES = ("viewer", "trainer", "evaluator", "policy-author", "approver", "operator", "auditor", "agent")
NEVER = (1 << 53) - 1
"""A place of the journal that no event reaches."""

__all__ = [
    "NEVER", "ROLES", "Keys", "Principal", "keyid_of", "open_envelope", "pre_authentication", "public_hex",
    "sign_envelope",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Principal:
    """A registered key and its holder. `public` is the raw key in hex, `keyid` its SHA-256 in hex.

    A rotated key stays listed with `retired`, the time of its rotation. `since` and `until` are places of the journal
    (`seq`): the key counts for events from the one that registered it up to the one that retired or revoked it.
    """

    name: str
    role: str
    keyid: str
    public: str
    revoked: bool = False
    retired: str = ""
    since: int = 0
    until: int = NEVER

    @property
    def algorithm(self) -> str:
        """`ed25519` or `p256`."""
        return algorithm_of(self.public)

    @property
    def active(self) -> bool:
        """Whether this key may sign now: neither revoked nor replaced by a newer one."""
        return not self.revoked and not self.retired

    def counts_at(self, seq: int) -> bool:
        """Return whether its signature counts in the event at place `seq` of the journal."""
        return self.since <= seq < self.until


class Keys:
    """The keys a workspace can sign with: files `<name>.pem` under `root`, and the programs of `[signers]`.

    Files are PKCS 8, mode 0600, optionally encrypted. `passphrase` opens encrypted files where a call names none.
    `registered` maps a name to the public key the journal vouches for; an external signer's answers must fit it.
    """

    def __init__(self, root: Path, commands: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.commands = dict(commands or {})
        self.passphrase: bytes | None = None
        self.registered: dict[str, str] = {}
        self._opened: dict[str, tuple[tuple[Any, ...], Signer]] = {}

    def create(self, name: str, passphrase: bytes | None = None, algorithm: str = "ed25519") -> Signer:
        """Make a key file; return its signer. Raises Refused (name taken), SpecError (bad name or key type)."""
        check_name(name)
        if name in self.commands:
            raise Refused(f"`{name}` has an external signer", hint="take it out of `[signers]`, or register its key")
        key = generate(algorithm)
        self._write(self.path(name), key, passphrase)
        return KeySigner(key)

    def load(self, name: str, passphrase: bytes | None = None) -> Signer:
        """Return the signer of a name: an external program where `[signers]` names one, else the key file.

        Raises:
            NotFound: there is neither.
            Refused: others can read the file, or it belongs to another user.
            SpecError: the passphrase does not open it.
        """
        if name in self.commands:
            known = self.registered.get(name, "")
            return ExternalSigner(name, self.commands[name], folder=self.root.parent, public=known)
        return self._read(self.path(name), name, passphrase)

    def names(self) -> list[str]:
        """Return the names that can sign here, by a file or an external signer."""
        return sorted({path.stem for path in self.root.glob("*.pem")} | set(self.commands))

    def holds(self, name: str) -> bool:
        """Return whether a name can sign here, by a file or an external signer."""
        return name in self.commands or (bool(name) and "/" not in name and self.path(name).exists())

    def encrypted(self, name: str) -> bool:
        """Return whether a name's key file wants a passphrase."""
        path = self.path(name)
        return path.is_file() and _is_encrypted(path.read_bytes())

    def path(self, name: str) -> Path:
        """Return where a name's key file lies, whether or not it is there."""
        return self.root / f"{name}.pem"

    # ---- rotation ----------------------------------------------------------------------------------------------

    def stage(self, name: str, passphrase: bytes | None = None, algorithm: str = "ed25519") -> Signer:
        """Make the key that will replace a name's, `<name>.pem.next`; one that a crash left there is taken up."""
        staged = self._staged(name)
        if staged.exists():
            return self._read(staged, name, passphrase)
        key = generate(algorithm)
        self._write(staged, key, passphrase)
        return KeySigner(key)

    def adopt(self, name: str) -> None:
        """Put the staged key in the place of a name's key file; the old one is kept as `<name>.<number>.retired`."""
        from registry.artifacts import sync_folder

        staged = self._staged(name)
        if staged.exists():
            self.retire(name)
            staged.rename(self.path(name))
            sync_folder(self.root)

    def retire(self, name: str) -> None:
        """Take a name's key file, where there is one, out of use: it becomes `<name>.<number>.retired`."""
        path = self.path(name)
        if path.exists():
            path.rename(self.root / f"{name}.{path.stat().st_mtime_ns}.retired")

    def _staged(self, name: str) -> Path:
        return self.root / f"{name}.pem.next"

    # ---- files -------------------------------------------------------------------------------------------------

    def _write(self, path: Path, key: PrivateKey, passphrase: bytes | None) -> None:
        from cryptography.hazmat.primitives import serialization

        locking: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            locking = serialization.BestAvailableEncryption(passphrase)
        data = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locking)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise Refused(
                f"a key named `{path.stem}` exists", hint="choose another name, or `hallmark key rotate`"
            ) from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path, name: str, passphrase: bytes | None) -> Signer:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"no key for `{name}` in `{self.root}`", hint=f"run `hallmark key create {name}`") from None
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            check_private(path, found)
            state = (found.st_ino, found.st_size, found.st_mtime_ns, passphrase or self.passphrase)
            known = self._opened.get(path.name)
            if known is not None and known[0] == state:
                return known[1]
            data = file.read()
        signer = KeySigner(self._open(data, name, passphrase))
        self._opened[path.name] = (state, signer)
        return signer

    def _open(self, data: bytes, name: str, passphrase: bytes | None) -> PrivateKey:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        secret = (passphrase or self.passphrase) if _is_encrypted(data) else None
        try:
            key = serialization.load_pem_private_key(data, secret)
        except (TypeError, ValueError, UnsupportedAlgorithm):
            hint = "give the right --passphrase-file"
            raise SpecError(f"the key of `{name}` does not open with this passphrase", hint=hint) from None
        if isinstance(key, Ed25519PrivateKey):
            return key
        if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
            return key
        raise SpecError(
            f"the key of `{name}` is neither Ed25519 nor P-256", hint="create it with `hallmark key create`"
        )


def _is_encrypted(data: bytes) -> bool:
    return b"ENCRYPTED" in data[:64]


def check_name(name: str) -> str:
    """Return a principal's name. Raises SpecError for one that could be no file's name."""
    if not name or not all(char.isalnum() or char in "-_." for char in name) or name.startswith("."):
        raise SpecError(f"`{name}` is not a principal's name", hint="use letters, digits, `-`, `_` and `.`")
    return name


def check_private(path: Path, found: os.stat_result) -> None:
    """Check that a key file is its owner's alone. Raises Refused with the command that mends it."""
    if found.st_uid != os.geteuid():
        raise Refused(
            f"key file `{path}` belongs to another user (uid {found.st_uid})",
            hint="sign as its owner, or use an external signer",
        )
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Refused(f"key file `{path}` can be read by others", hint=f"chmod 600 {path}")


def public_hex(key: Signer | PublicKey) -> str:
    """Return a public key in hex: that of a signer, or of an object of `cryptography`."""
    public = getattr(key, "public", None)
    return public if isinstance(public, str) else hex_of(key)  # type: ignore[arg-type]


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Return what a DSSE signature signs: `DSSEv1 len(type) type len(payload) payload` (DSSE protocol 1.0)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign_envelope(payload_type: str, payload: bytes, signer: Signer) -> dict[str, Any]:
    """Return a DSSE envelope over `payload` with one signature. Raises what the signer raises."""
    signature = signer.sign(pre_authentication(payload_type, payload))
    return {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": signer.keyid, "sig": base64.b64encode(signature).decode()}],
    }


def open_envelope(envelope: Mapping[str, Any], payload_type: str, signers: Mapping[str, str]) -> tuple[bytes, str]:
    """Return (payload, keyid) of an envelope with a good signature by one of `signers` (keyid to public hex).

    Raises:
        Refused: wrong type, no known signer, or a signature that does not verify.
        HallmarkError: the envelope is malformed; base64 in another than its one spelling is.
    """
    if envelope.get("payloadType") != payload_type:
        raise Refused(f"envelope is of type `{envelope.get('payloadType')}`", hint=f"expected `{payload_type}`")
    try:
        payload = from_base64(envelope["payload"])
        for signature in envelope["signatures"]:
            public = signers.get(signature["keyid"])
            if public is None:
                continue
            if verify_signature(public, from_base64(signature["sig"]), pre_authentication(payload_type, payload)):
                return payload, str(signature["keyid"])
            raise Refused("signature does not verify: the statement was altered", hint="restore it from a copy")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HallmarkError(f"malformed envelope: {error}", hint="restore it from a copy") from None
    raise Refused("no signature by a key that may sign this", hint="`hallmark key list` shows keys and roles")
