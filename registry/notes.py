"""Signed notes as C2SP writes them (signed-note): a text, an empty line, and lines with Ed25519 signatures of the text.

Witnesses and clients of other transparency logs read and co-sign the same format.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from registry.errors import Refused, SpecError, Tampered
from registry.signers import Signer, from_base64, verify_signature

ED25519 = b"\x01"
"""Signature type byte of Ed25519 (C2SP signed-note, "Signature types")."""
MAX_NOTE = 1 << 20
MAX_SIGNATURES = 100
_LINE = re.compile(r"— (\S+) (\S+)")
_NAME = re.compile(r"[^\s+]+")


@dataclass(frozen=True, slots=True)
class Verifier:
    """A key that may sign notes: its name on signature lines and its 32 raw bytes in hex."""

    name: str
    public: str

    @property
    def key_hash(self) -> bytes:
        """First 4 bytes of SHA-256(name || 0x0A || 0x01 || public key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + bytes.fromhex(self.public)).digest()[:4]


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line, taken apart; nothing about it is verified."""

    name: str
    key_hash: bytes
    signature: bytes

    def line(self) -> str:
        """Return the line as it stands in a note."""
        import base64

        return f"— {self.name} {base64.b64encode(self.key_hash + self.signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note taken apart; `text` ends with a newline and is what the signatures sign."""

    text: str
    signatures: tuple[Signature, ...]


def sign(text: str, name: str, signer: Signer) -> str:
    """Return the note over `text` with one signature under a key name.

    Raises:
        SpecError: the key is not Ed25519, the name has a space or a plus, or the text cannot be in a note.
    """
    if signer.algorithm != "ed25519":
        raise SpecError(f"`{name}` signs with {signer.algorithm}", hint="a note is signed with an Ed25519 key")
    if not _NAME.fullmatch(name):
        raise SpecError(f"`{name}` cannot name a key on a note", hint="use no spaces and no `+`")
    _check_text(text)
    signature = Signature(name, Verifier(name, signer.public).key_hash, signer.sign(text.encode()))
    return text + "\n" + signature.line()


def parse(note: str | bytes) -> Note:
    """Return a note taken apart; signatures are not verified. Raises Tampered for anything but a well-formed note."""
    text = _decode(note)
    body, blank, tail = text.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise _malformed("it has no empty line with signature lines after it")
    body += "\n"
    _check_text(body)
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise _malformed(f"it carries more than {MAX_SIGNATURES} signatures")
    return Note(body, tuple(_signature(line) for line in lines))


def verify(note: str | bytes, verifiers: Iterable[Verifier]) -> tuple[Note, tuple[Verifier, ...]]:
    """Return a note and which known keys signed it, at least one. Signatures of unknown keys are ignored.

    Raises:
        Tampered: the note is malformed, or the signature of a known key does not verify.
        Refused: no known key signed it, or two known keys cannot be told apart.
    """
    known: dict[tuple[str, bytes], Verifier] = {}
    for verifier in verifiers:
        if known.setdefault((verifier.name, verifier.key_hash), verifier) != verifier:
            raise Refused(f"two keys of `{verifier.name}` have the same hash", hint="replace one of the keys")
    parsed, found = parse(note), []
    for signature in parsed.signatures:
        signer = known.get((signature.name, signature.key_hash))
        if signer is None or signer in found:
            continue
        if not verify_signature(signer.public, signature.signature, parsed.text.encode()):
            raise Tampered(f"the signature of `{signature.name}` does not verify: the note was altered",
                           hint="get the note again from where it is kept")  # fmt: skip
        found.append(signer)
    if not found:
        names = ", ".join(f"`{signature.name}`" for signature in parsed.signatures)
        raise Refused(f"no known key signed the note, only {names}", hint="operators and auditors sign checkpoints")
    return parsed, tuple(found)


def _decode(note: str | bytes) -> str:
    if len(note) > MAX_NOTE:
        raise _malformed(f"it is larger than {MAX_NOTE} bytes")
    try:
        return note.decode("utf-8") if isinstance(note, bytes) else note.encode("utf-8").decode("utf-8")
    except UnicodeError:
        raise _malformed("it is not UTF-8") from None


def _check_text(text: str) -> None:
    """A text ends with a newline and has no control characters but newlines."""
    if not text.endswith("\n") or text == "\n" or any(ord(char) < 0x20 and char != "\n" for char in text):
        raise _malformed("its text is empty, has control characters, or does not end with a newline")


def _signature(line: str) -> Signature:
    match = _LINE.fullmatch(line)
    if not match or not _NAME.fullmatch(match[1]):
        raise _malformed(f"`{line[:60]}` is not a signature line")
    try:
        data = from_base64(match[2])
    except ValueError:
        raise _malformed(f"the signature of `{match[1]}` is not base64") from None
    if len(data) < 5:
        raise _malformed(f"the signature of `{match[1]}` is too short")
    return Signature(match[1], data[:4], data[4:])


def _malformed(why: str) -> Tampered:
    return Tampered(f"malformed note: {why}", hint="get the note again from where it is kept")
