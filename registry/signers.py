"""Signatures: Ed25519 and ECDSA over P-256, by a key in this process or by a program that keeps the key elsewhere.

A public key is written in hex: 32 raw bytes for Ed25519, the 33 bytes of the compressed point for P-256. An ECDSA
signature is DER over SHA-256 with the smaller of its two equal values of s, so that one signature has one spelling.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from registry.errors import HallmarkError, Refused, SpecError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    PublicKey = Ed25519PublicKey | EllipticCurvePublicKey
    PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey

ALGORITHMS = ("ed25519", "p256")
DEADLINE_S = 30.0
"""Seconds an external signer may take for one answer."""
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Order n of the group of P-256 (FIPS 186-5 / SP 800-186, section 3.2.1.3)."""


class Signer(Protocol):
    """What can sign for one principal. `sign` raises Refused or HallmarkError where it cannot."""

    @property
    def public(self) -> str:
        """The public key in hex."""

    @property
    def keyid(self) -> str:
        """SHA-256 of the public key's bytes, in hex."""

    @property
    def algorithm(self) -> str:
        """`ed25519` or `p256`."""

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data`: 64 raw bytes for Ed25519, DER for P-256."""

    def public_key(self) -> PublicKey:
        """Return the public key as an object of `cryptography`."""


class KeySigner:
    """A signer whose private key is in this process."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self.public = hex_of(key.public_key())
        self.keyid = keyid_of(self.public)
        self.algorithm = algorithm_of(self.public)

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data`."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(data)
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256

        return with_low_s(self._key.sign(data, ECDSA(SHA256())))

    def public_key(self) -> PublicKey:
        """Return the public key as an object of `cryptography`."""
        return self._key.public_key()


class ExternalSigner:
    """A signer that is another program: a smart card's tool, a cloud key's client, a script around openssl.

    `COMMAND public` prints the public key as PEM. `COMMAND sign` reads the exact bytes on stdin and prints the base64
    of their signature: 64 raw bytes for Ed25519, DER over SHA-256 for P-256. Another exit code than 0 refuses, and what
    the program wrote on stderr is shown. It runs in the workspace's folder, without a shell, for `deadline` seconds at
    most. `public` is the registered key; without it the program is asked, and its answer is believed.
    """

    def __init__(
        self, name: str, command: str, *, folder: Path, public: str = "", deadline: float = DEADLINE_S
    ) -> None:
        self.name, self.command, self.folder, self.deadline = name, command, folder, deadline
        self._public = public

    @property
    def public(self) -> str:
        """The registered public key in hex, or else the one that the program names."""
        if not self._public:
            self._public = self.ask_public()
        return self._public

    @property
    def keyid(self) -> str:
        """SHA-256 of the public key's bytes, in hex."""
        return keyid_of(self.public)

    @property
    def algorithm(self) -> str:
        """`ed25519` or `p256`."""
        return algorithm_of(self.public)

    def ask_public(self) -> str:
        """Ask the program for its public key. Raises Refused, HallmarkError, SpecError (no such key)."""
        return public_from_pem(self._call("public", b""))

    def sign(self, data: bytes) -> bytes:
        """Return the program's signature, once it verified against the public key.

        Raises:
            Refused: the program refused, or signed with another key or other bytes.
            HallmarkError: it does not start, answers no base64, or takes too long.
        """
        answer = self._call("sign", data)
        try:
            signature = from_base64("".join(answer.decode(errors="replace").split()))
        except ValueError:
            raise HallmarkError(
                f"signer of `{self.name}` answered no base64", hint=f"`{self.command} sign` prints a base64 signature"
            ) from None
        if self.algorithm == "p256":
            signature = with_low_s(signature)
        if not verify_signature(self.public, signature, data):
            raise Refused(
                f"signer of `{self.name}` returned a signature that its registered key does not verify",
                hint=f"`{self.command}` holds another key: see `hallmark key show {self.name}`",
            )
        return signature

    def public_key(self) -> PublicKey:
        """Return the public key as an object of `cryptography`."""
        return key_of(self.public)

    def _call(self, verb: str, data: bytes) -> bytes:
        try:
            words = shlex.split(self.command) or ["(no command)"]
            done = subprocess.run(
                [*words, verb], input=data, capture_output=True, cwd=self.folder,
                timeout=self.deadline, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise HallmarkError(
                f"signer of `{self.name}` did not answer `{verb}` within {self.deadline:g} s",
                hint="confirm the touch or PIN it waits for, or mend its command in hallmark.toml",
            ) from None
        except (OSError, ValueError) as error:
            raise HallmarkError(
                f"signer of `{self.name}` does not start: {error}", hint="mend its command under `[signers]`"
            ) from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip() or "it gave no reason"
            raise Refused(
                f"signer of `{self.name}` refused to {verb} (exit {done.returncode}): {said[:400]}",
                hint=f"it is `{self.command}` under `[signers]` of hallmark.toml",
            )
        return done.stdout


def from_base64(text: str) -> bytes:
    """Return the bytes of a base64 text (RFC 4648, section 4). Raises ValueError for any but their one spelling."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not the canonical base64 of its bytes")
    return data


def generate(algorithm: str = "ed25519") -> PrivateKey:
    """Return a new private key. Raises SpecError for an algorithm that is not one of ALGORITHMS."""
    if algorithm == "ed25519":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.generate()
    if algorithm == "p256":
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

        return generate_private_key(SECP256R1())
    raise SpecError(f"unknown key type `{algorithm}`", hint="types: " + ", ".join(ALGORITHMS))


def verify_signature(public: str, signature: bytes, data: bytes) -> bool:
    """Return whether `signature` is one of `data` by a public key in hex; False for anything malformed."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key = key_of(public)
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, data)
            return True
        key.verify(signature, data, ECDSA(SHA256()))
        return with_low_s(signature) == signature
    except (InvalidSignature, SpecError, ValueError):
        return False


def with_low_s(signature: bytes) -> bytes:
    """Return a DER signature with the smaller of the two values of s that verify; anything else comes back as it is."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

    try:
        r, s = decode_dss_signature(signature)
    except ValueError:
        return signature
    return encode_dss_signature(r, min(s, P256_ORDER - s)) if 0 < s < P256_ORDER else signature


def key_of(public: str) -> PublicKey:
    """Return the public key that a hex text spells. Raises SpecError where it spells none."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        raw = bytes.fromhex(public)
        if algorithm_of(public) == "ed25519":
            return Ed25519PublicKey.from_public_bytes(raw)
        return EllipticCurvePublicKey.from_encoded_point(SECP256R1(), raw)
    except ValueError:
        raise SpecError(f"`{public[:70]}` is not a public key", hint="it is no point of its curve") from None


def hex_of(key: PublicKey) -> str:
    """Return a public key in hex."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if isinstance(key, Ed25519PublicKey):
        return key.public_bytes_raw().hex()
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint).hex()


def algorithm_of(public: str) -> str:
    """Return `ed25519` or `p256` for a public key in hex. Raises SpecError for another length or first byte."""
    if len(public) == 64:
        return "ed25519"
    if len(public) == 66 and public[:2] in {"02", "03"}:
        return "p256"
    raise SpecError(f"`{public[:70]}` is not a public key", hint="Ed25519: 64 hex digits; P-256: 66, from 02 or 03")


def keyid_of(public: str) -> str:
    """Return the SHA-256, in hex, of a public key given in hex."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()


def public_pem(public: str) -> str:
    """Return a public key in hex as PEM (SubjectPublicKeyInfo, RFC 5280). Raises SpecError."""
    from cryptography.hazmat.primitives import serialization

    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return key_of(public).public_bytes(serialization.Encoding.PEM, kind).decode()


def public_from_pem(data: bytes) -> str:
    """Return the public key of a PEM text in hex. Raises SpecError: a private key, no PEM, or another kind of key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if b"PRIVATE KEY" in data:
        raise SpecError("this is a private key", hint="give the public half: `openssl pkey -in KEY -pubout`")
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise SpecError("not a public key in PEM", hint="`openssl pkey -in KEY -pubout` writes one") from None
    if isinstance(key, Ed25519PublicKey) or (
        isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    ):
        return hex_of(key)
    raise SpecError("the key is neither Ed25519 nor P-256", hint="types: " + ", ".join(ALGORITHMS))
