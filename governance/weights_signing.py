"""OpenSSF model signing of weights: outsiders verify a folder with `model_signing verify key`, without Hallmark.

The signature is made from the digests of our manifest, so that gigabytes are neither read nor copied again; promotion
and `hallmark verify` hash the bytes. The P-256 key is the workspace's own, its public half bound by an operator's seal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from governance import roles
from registry import seals
from registry.attestation import verify_certificate
from registry.errors import NotFound, Refused, Tampered
from registry.identity import Principal
from registry.records import Manifest
from registry.signers import Signer, keyid_of, public_pem
from registry.workspace import Workspace

KEY = "weights-signing"
CREATED, SIGNED = "weights_key.created", "weights.signed"


@dataclass(frozen=True, slots=True)
class SignedWeights:
    """A model signature: `signature` is the digest of the stored Sigstore bundle, `public` the key in hex."""

    certificate: str
    manifest: str
    signature: str
    public: str

    @property
    def public_pem(self) -> str:
        """The public key as PEM, as `model_signing` reads it."""
        return public_pem(self.public)


def sign(ws: Workspace, ref: str, actor: str | None = None, *, passphrase: bytes | None = None) -> SignedWeights:
    """Sign the weights of a certificate that holds; return the signature, an earlier one by the same key if there is.

    Raises:
        Refused: the actor may not, or the certificate does not hold.
        NotFound: no such certificate.
        SpecError: a key does not open with this passphrase.
    """
    certificate, _, candidate = verify_certificate(ws, ref)
    principal = roles.require(ws, "sign-weights", certificate.id, actor)
    signer = _key(ws, principal, passphrase)
    existing = newest(ws, certificate.id)
    if existing and existing.public == signer.public:
        return existing
    name = ws.resolve(candidate.version, "version").name
    data = signature_of(ws.artifacts.manifest(candidate.weights), name, ws.keys.root / f"{KEY}.pem",
                        passphrase or ws.keys.passphrase)  # fmt: skip
    digest = ws.artifacts.add_bytes(data, "application/vnd.dev.sigstore.bundle+json")
    body = {"certificate": certificate.id, "manifest": candidate.weights, "signature": digest, "public": signer.public}
    ws.record(SIGNED, certificate.id, body, actor=principal.name)
    return SignedWeights(**body)


def newest(ws: Workspace, certificate: str) -> SignedWeights | None:
    """Return the newest model signature of a certificate's weights. Raises Tampered, Refused for a forged record."""
    found = [event for event in seals.sealed(ws, SIGNED, certificate) if _by_operator(event)]
    if not found:
        return None
    signed = SignedWeights(**{name: found[-1].body[name] for name in SignedWeights.__slots__})
    if signed.public not in {event.body["public"] for event in seals.sealed(ws, CREATED) if _by_operator(event)}:
        raise Tampered("the weights are signed by a key that no operator bound", hint="sign them again")
    return signed


def check(ws: Workspace, signed: SignedWeights) -> None:
    """Verify a stored model signature against the manifest it is of. Raises Tampered, NotFound."""
    from model_signing._signing.sign_ec_key import Verifier  # the public interface only takes folders to hash
    from model_signing._signing.sign_sigstore_pb import Signature

    folder = ws.work("weights-signatures")
    signature, public = folder / f"{signed.signature[7:39]}.json", folder / f"{keyid_of(signed.public)[:32]}.pem"
    signature.write_bytes(ws.artifacts.read_bytes(signed.signature))
    public.write_text(signed.public_pem, encoding="utf-8")
    try:
        found = Verifier(public).verify(Signature.read(signature))
    except Exception as error:  # noqa: BLE001 (whatever it does not take is no signature)
        raise Tampered(f"the model signature does not verify: {error}", hint="sign the weights again") from None
    mine = {
        entry.path: entry.sha256.removeprefix("sha256:") for entry in ws.artifacts.manifest(signed.manifest).entries
    }
    if mine != {item.identifier: item.digest.digest_hex for item in found.resource_descriptors()}:
        raise Tampered("the model signature is of other files than the manifest", hint="sign the weights again")


def signature_of(manifest: Manifest, name: str, key: Path, passphrase: bytes | None = None) -> bytes:
    """Return the OpenSSF model signature (a Sigstore bundle, JSON) of a manifest's files, by a P-256 key in PEM.

    It is of the method `files` with SHA-256 and without exceptions: a folder with one file more does not verify.
    """
    from model_signing import manifest as listing
    from model_signing._hashing.hashing import Digest
    from model_signing._signing.sign_ec_key import Signer as ModelSigner
    from model_signing._signing.signing import Payload

    items = [
        listing.FileManifestItem(
            path=PurePosixPath(entry.path), digest=Digest("sha256", bytes.fromhex(entry.sha256.removeprefix("sha256:")))
        )
        for entry in manifest.entries
    ]
    files = listing._FileSerialization("sha256")
    payload = Payload(listing.Manifest(name, items, files))
    signed: Any = ModelSigner(key, passphrase).sign(payload)  # type: ignore[arg-type]
    return str(signed.bundle.to_json()).encode()


def _key(ws: Workspace, operator: Principal, passphrase: bytes | None) -> Signer:
    """Return the workspace's key for weights, made and bound by an operator where it is not yet."""
    if KEY not in ws.keys.names():
        ws.keys.create(KEY, passphrase or ws.keys.passphrase, "p256")
    signer = ws.keys.load(KEY, passphrase)
    if signer.algorithm != "p256":
        raise Refused("the key for weights is not P-256", hint=f"move `keys/{KEY}.pem` away: a new one is made")
    bound = {event.body["public"] for event in seals.sealed(ws, CREATED) if _by_operator(event)}
    if signer.public not in bound:
        body = {"public": signer.public, "keyid": signer.keyid, "algorithm": signer.algorithm}
        ws.record(CREATED, signer.keyid, body, actor=operator.name)
    return signer


def _by_operator(event: seals.Sealed) -> bool:
    return event.principal.role == "operator"


def show(ws: Workspace, ref: str) -> dict[str, Any]:
    """Return a certificate's model signature as plain data: the Sigstore bundle and the public key. Raises NotFound."""
    signed = newest(ws, ws.resolve(ref, "certificate").id)
    if signed is None:
        raise NotFound("the weights of this certificate are not signed", hint="`hallmark certificate sign-weights`")
    return {"bundle": orjson.loads(ws.artifacts.read_bytes(signed.signature)), "public_key": signed.public_pem}
