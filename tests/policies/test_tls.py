"""TLS of the endpoint and client certificates, against an authority that the tests make."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from policies.access.callers import Callers
from policies.access.certificates import Certificates, Naming, thumbprint
from policies.access.tls import renew, server_context
from policies.wire.refusal import Refusal
from registry.errors import NotFound, SpecError
from tests.policies.running import Running, gateway_running
from tests.waiting import until

DAY = datetime.timedelta(days=1)
START = datetime.datetime.now(datetime.UTC).replace(microsecond=0)


@dataclass
class Issued:
    """A certificate with its key, as PEM files."""

    cert: Path
    key: Path

    @property
    def pem(self) -> str:
        return self.cert.read_text()

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.cert.read_bytes()).serial_number


class Authority:
    """An authority that signs certificates and revocation lists."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self.name, self.name, self.key, START - DAY, START + 30 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.file = folder / "ca.pem"
        self.file.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, label: str, subject: dict[str, list[str]] | None = None, **options: Any) -> Issued:
        """Return a certificate; options: `names` (subject alternatives), `days` (of life), `server`."""
        key = ec.generate_private_key(ec.SECP256R1())
        parts = {"cn": NameOID.COMMON_NAME, "ou": NameOID.ORGANIZATIONAL_UNIT_NAME, "o": NameOID.ORGANIZATION_NAME}
        named = [x509.NameAttribute(parts[kind], text) for kind, texts in (subject or {}).items() for text in texts]
        ends = START + options.get("days", 20) * DAY
        builder = _builder(x509.Name(named), self.name, key, min(START, ends) - DAY, ends)
        use = ExtendedKeyUsageOID.SERVER_AUTH if options.get("server") else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        if options.get("names"):
            builder = builder.add_extension(x509.SubjectAlternativeName(options["names"]), critical=False)
        made = Issued(self.folder / f"{label}.pem", self.folder / f"{label}.key")
        made.cert.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return made

    def revoke(self, *serials: int, days: float = 7) -> Path:
        """Write a revocation list; return where."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name)
        builder = builder.last_update(START - 10 * DAY).next_update(START + days * DAY)
        for serial in serials:
            row = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(START - DAY).build()
            builder = builder.add_revoked_certificate(row)
        file = self.folder / "crl.pem"
        file.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return file


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, start: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:  # fmt: skip
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def test_a_certificate_names_its_caller_by_the_first_kind_of_name_it_has(authority: Authority) -> None:
    known = Certificates(Naming(groups="ou", attributes={"tokens_per_day": 9}))
    billing = authority.issue("billing", {"cn": ["x"], "ou": ["ops", "all"]}, names=[uri("spiffe://corp/billing")])
    found = known.check(billing.pem)
    assert found.caller is not None
    assert (found.caller.name, found.caller.attributes) == ("cert:uri:spiffe://corp/billing", {"tokens_per_day": 9})
    assert found.caller.groups == {"cert:ops", "cert:all"}
    named = {
        "cert:dns:a.corp": authority.issue("dns", {"cn": ["x"]}, names=[x509.DNSName("a.corp")]),
        "cert:cn:ada": authority.issue("cn", {"cn": ["ada"]}),
    }
    for name, issued in named.items():
        caller = known.check(issued.pem).caller
        assert caller is not None
        assert caller.name == name


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        ({"o": ["corp"]}, []),
        ({"cn": ["ada", "root"]}, []),
        ({"cn": ["ada"]}, [uri("a:b"), uri("a:c")]),
        ({"cn": ["a\nb"]}, []),
    ],
)
def test_a_certificate_without_one_name_names_nobody(
    authority: Authority, subject: dict[str, list[str]], names: list[x509.GeneralName]
) -> None:
    issued = authority.issue("nobody", subject, names=names)
    callers = Callers(list, certificates=Certificates(Naming()))
    assert refused(callers, None, issued.pem) == 401
    assert Certificates(Naming(kinds=())).check(issued.pem).caller is None


def refused(callers: Callers, authorization: bytes | None, pem: str) -> int:
    with pytest.raises(Refusal) as caught:
        callers.identify(authorization, pem)
    return caught.value.status


def test_revoked_and_ended_certificates_are_refused(authority: Authority) -> None:
    good, bad, old = (authority.issue(name, {"cn": [name]}) for name in ("good", "bad", "old"))
    crl = authority.revoke(old.serial)
    known = Certificates(Naming(), crl=crl, client_ca=authority.file)
    callers = Callers(list, certificates=known)
    assert callers.identify(None, bad.pem)
    assert refused(callers, None, old.pem) == 401
    authority.revoke(old.serial, bad.serial)
    assert callers.reload()
    assert refused(callers, None, bad.pem) == 401
    assert callers.identify(None, good.pem)
    assert refused(callers, None, authority.issue("late", {"cn": ["late"]}, days=-1).pem) == 401
    assert refused(callers, None, "no certificate") == 401
    authority.revoke(days=-1)  # a list that has ended revokes everything
    assert callers.reload()
    assert refused(callers, None, good.pem) == 401


def test_a_list_of_somebody_else_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "test authority").revoke(1)
    with pytest.raises(SpecError, match="no authority"):
        Certificates(Naming(), crl=other, client_ca=authority.file)
    with pytest.raises(SpecError, match="not a revocation list"):
        Certificates(Naming(), crl=authority.file, client_ca=authority.file)
    with pytest.raises(NotFound):
        Certificates(Naming(), crl=tmp_path / "none", client_ca=authority.file)


def test_a_context_needs_files_that_fit(authority: Authority, tmp_path: Path) -> None:
    one, two = authority.issue("one", server=True), authority.issue("two", server=True)
    context = server_context(one.cert, one.key)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE
    renew(context, two.cert, two.key)
    assert server_context(one.cert, one.key, authority.file).verify_mode == ssl.CERT_OPTIONAL
    assert server_context(one.cert, one.key, authority.file, required=True).verify_mode == ssl.CERT_REQUIRED
    for cert, key, ca in ((one.cert, two.key, None), (one.key, one.key, None), (one.cert, one.key, one.key)):
        with pytest.raises(SpecError):
            server_context(cert, key, ca)
    with pytest.raises(NotFound):
        server_context(one.cert, tmp_path / "none")
    with pytest.raises(NotFound):
        server_context(one.cert, one.key, tmp_path / "none")


def test_an_encrypted_key_is_refused_without_asking_anybody(authority: Authority) -> None:
    issued = authority.issue("encrypted", server=True)
    key = serialization.load_pem_private_key(issued.key.read_bytes(), None)
    encrypted = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encrypted)
    issued.key.write_bytes(pem)
    with pytest.raises(SpecError):
        server_context(issued.cert, issued.key)


# ---- over real connections -----------------------------------------------------------------------------------------


@dataclass
class Secure:
    """A gateway behind TLS with the certificates of its callers."""

    running: Running
    authority: Authority
    revoked: list[str]
    certs: dict[str, Issued] = field(default_factory=dict)

    def get(self, cert: str = "", key: str = "") -> int:
        """Return the status of a request with a client certificate, a key, both or neither."""
        context = ssl.create_default_context(cafile=str(self.authority.file))
        if cert:
            context.load_cert_chain(self.certs[cert].cert, self.certs[cert].key)
        headers = {"Authorization": f"Bearer {self.running.keys[key]}"} if key else {}
        with httpx.Client(verify=context) as client:
            return client.get(f"{self.running.url}/v1/models", headers=headers).status_code


@pytest.fixture(scope="module")
def secure(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("secure")
    server = authority.issue("server", server=True, names=[x509.DNSName("127.0.0.1"), _loopback()])
    stranger = Authority(folder / "stranger")
    certs = {
        "ada": authority.issue("ada", {"cn": ["ada"], "ou": ["members"]}),
        "eve": authority.issue("eve", {"cn": ["eve"], "ou": ["members"]}),
        "gone": authority.issue("gone", {"cn": ["gone"], "ou": ["members"]}),
        "ended": authority.issue("ended", {"cn": ["ended"], "ou": ["members"]}, days=-1),
        "for servers": authority.issue("wrong-use", {"cn": ["ada"], "ou": ["members"]}, server=True),
        "forged": stranger.issue("forged", {"cn": ["ada"], "ou": ["members"]}),
    }
    revoked = ["cert:cn:eve"]

    def callers(rows: list[dict[str, Any]]) -> Callers:
        rows[1]["certificate"] = thumbprint(certs["ada"].pem)  # the operator's key is bound to it
        naming = Naming(groups="ou", group_prefix="")
        known = Certificates(naming, crl=authority.revoke(certs["gone"].serial), client_ca=authority.file)
        return Callers(lambda: rows, certificates=known, revoked=lambda: revoked)

    tls = server_context(server.cert, server.key, authority.file)
    with gateway_running(folder / "gateway", callers=callers, tls=tls) as running:
        yield Secure(running, authority, revoked, certs)


def _loopback() -> x509.GeneralName:
    import ipaddress

    return x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


def test_a_certificate_alone_is_an_identity(secure: Secure) -> None:
    assert secure.get("ada") == 200
    until(lambda: "cert:cn:ada" in [each["principal"] for each in secure.running.log.of("gateway.decision")])


def test_a_key_alone_is_one_too_unless_it_is_bound(secure: Secure) -> None:
    assert secure.get(key="mia") == 200
    assert secure.get("ada", key="mia") == 200
    assert secure.get(key="otto") == 401
    assert secure.get("eve", key="otto") == 401
    assert secure.get("ada", key="otto") == 200


def test_nothing_at_all_a_revoked_caller_and_a_revoked_certificate_are_refused(secure: Secure) -> None:
    assert [secure.get(), secure.get("eve"), secure.get("gone"), secure.get("gone", key="mia")] == [401] * 4


@pytest.mark.parametrize("cert", ["ended", "for servers", "forged"])
def test_certificates_that_do_not_hold_end_the_handshake(secure: Secure, cert: str) -> None:
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError)):
        secure.get(cert)


def test_plain_http_and_old_tls_get_nothing(secure: Secure) -> None:
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        httpx.get(secure.running.url.replace("https:", "http:") + "/health")
    context = ssl.create_default_context(cafile=str(secure.authority.file))
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES256-SHA256:@SECLEVEL=0")
    with pytest.raises(httpx.ConnectError):
        httpx.get(secure.running.url + "/health", verify=context)
