"""Who calls, by client certificate: TLS has verified its chain; here it is named, bound and looked up as revoked."""

from __future__ import annotations

import base64
import hashlib
import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.access.authorize import Caller
from policies.wire.refusal import Refusal
from registry.errors import NotFound, SpecError

if TYPE_CHECKING:
    from cryptography import x509

log = logging.getLogger(__name__)

PREFIX = "cert"
"""Names of certificate callers are `cert:<kind>:<name>`, such as `cert:uri:spiffe://corp/billing`."""
KINDS = ("uri", "dns", "cn")
MOST_REMEMBERED, MOST_NAME = 4096, 200


@dataclass(frozen=True, slots=True)
class Naming:
    """How a certificate becomes a caller. `kinds` are looked for in order; with none it only binds keys and tokens.

    `groups` is the part of the subject that names groups: `ou`, `o`, or empty.
    """

    kinds: Sequence[str] = KINDS
    groups: str = ""
    group_prefix: str = f"{PREFIX}:"
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is known of a certificate. `caller` is None when it names nobody, `thumbprint` is its `x5t#S256`."""

    caller: Caller | None
    thumbprint: str
    serial: int
    begins: float
    ends: float


class Certificates:
    """Reads the certificates that callers present; `refresh` reads the revocation list again."""

    def __init__(
        self, naming: Naming, *, crl: Path | None = None, client_ca: Path | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """Raises NotFound or SpecError when the revocation list is none, or is not signed by the authority."""
        self._naming, self._crl, self._ca, self._wall = naming, crl, client_ca, wall
        self._known: dict[str, Certificate] = {}
        self._revoked: frozenset[int] = frozenset()
        self._current_until = float("inf")
        self.refresh()

    def check(self, pem: str) -> Certificate:
        """Return a presented certificate; raises Refusal 401 when it is revoked, ended or cannot be read."""
        found = self._known.get(pem)
        if found is None:
            try:
                found = self._read(pem)
            except ValueError:
                raise wrong_certificate() from None
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[pem] = found
        now = self._wall()
        if found.serial in self._revoked or not found.begins <= now <= found.ends or now > self._current_until:
            raise wrong_certificate()
        return found

    def refresh(self) -> None:
        """Read the revocation list again. Raises NotFound or SpecError; the last one stays in force then."""
        if self._crl is None:
            return
        revoked, until = read_crl(self._crl, self._ca)
        self._revoked, self._current_until = revoked, until

    def _read(self, pem: str) -> Certificate:
        from cryptography import x509

        certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
        return Certificate(
            self._caller(certificate),
            thumbprint(pem),
            certificate.serial_number,
            certificate.not_valid_before_utc.timestamp(),
            certificate.not_valid_after_utc.timestamp(),
        )

    def _caller(self, certificate: x509.Certificate) -> Caller | None:
        """Return the caller by the first kind of name that it has; several names of that kind name nobody."""
        from cryptography.x509.oid import NameOID

        naming = self._naming
        parts = {"ou": NameOID.ORGANIZATIONAL_UNIT_NAME, "o": NameOID.ORGANIZATION_NAME}
        for kind in naming.kinds:
            names = _names(certificate, kind)
            if not names:
                continue
            if len(names) > 1 or len(names[0]) > MOST_NAME or not names[0].isprintable():
                return None
            listed = certificate.subject.get_attributes_for_oid(parts[naming.groups]) if naming.groups else []
            groups = frozenset(naming.group_prefix + str(each.value) for each in listed)
            return Caller(f"{PREFIX}:{kind}:{names[0]}", groups, dict(naming.attributes), PREFIX)
        return None


def thumbprint(pem: str) -> str:
    """Return the SHA-256 of a certificate as RFC 8705 spells it (`x5t#S256`). Raises ValueError."""
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.strip() + "\n")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def wrong_certificate() -> Refusal:
    """Return the refusal of a client certificate, whatever is wrong with it."""
    return Refusal(401, "invalid_certificate", "this client certificate is not valid here")


def read_crl(path: Path, client_ca: Path | None) -> tuple[frozenset[int], float]:
    """Return the revoked serial numbers of a list (PEM), and until when the list is current.

    Raises NotFound, or SpecError when it is no list, or no authority in `client_ca` signed it.
    """
    from cryptography import x509

    try:
        crl = x509.load_pem_x509_crl(path.read_bytes())
        authorities = x509.load_pem_x509_certificates(client_ca.read_bytes()) if client_ca is not None else []
    except FileNotFoundError as error:
        raise NotFound(f"no file `{error.filename}`", hint="see `[tls]` of hallmark.toml") from None
    except (ValueError, OSError) as error:
        raise SpecError(f"not a revocation list: {error}", file=str(path), hint="write it as PEM") from None
    signers = [each for each in authorities if each.subject == crl.issuer]
    if not any(_signed(crl, each) for each in signers):
        raise SpecError("no authority in `client_ca` signed the revocation list", file=str(path), hint="check both")
    until = crl.next_update_utc
    return frozenset(each.serial_number for each in crl), until.timestamp() if until else float("inf")


def _signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except TypeError:
        return False


def _names(certificate: x509.Certificate, kind: str) -> list[str]:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    if kind == "cn":
        return [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    wanted = x509.UniformResourceIdentifier if kind == "uri" else x509.DNSName
    return list(names.get_values_for_type(wanted))
