"""An engine at a URL: verified TLS, its key, and what it may send."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from policies.endpoint.address import Address
from policies.endpoint.upstream import Upstream, UpstreamBroken, UpstreamDown
from policies.engines.remote import RemoteEngine
from registry.errors import EngineFailure, NotFound, Refused, SpecError

KEY = "sk-of-this-test"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and self-signed certificate of 127.0.0.1 in one PEM file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "engine")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tls") / "engine.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


@contextmanager
def serving(certificate: Path | None = None, answer: Callable[[Any], None] | None = None) -> Iterator[tuple[str, list]]:
    """Yield the URL of a small HTTP server and the requests it saw; it asks for KEY."""
    seen: list[tuple[str, str | None, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            seen.append((self.path, self.headers.get("authorization"), body))
            if answer is not None:
                answer(self)
                return
            data = b'{"object":"list","data":[]}'
            self.send_response(200 if self.headers.get("authorization") == f"Bearer {KEY}" else 401)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _post(upstream: Upstream, limit: int = 10_000) -> tuple[int, bytes]:
    async def ask() -> tuple[int, bytes]:
        call = upstream.call("POST", "/v1/completions", b'{"a":1}')
        try:
            return await call.start(), await call.read(limit)
        finally:
            call.close()
            upstream.close()
            await asyncio.sleep(0.01)

    return asyncio.run(ask())


def test_an_engine_is_reached_through_verified_tls_with_its_key(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_KEY", KEY)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # never asked
    with serving(certificate) as (url, seen):
        engine = RemoteEngine(f"{url}/v1", "ENGINE_KEY", ca=certificate)
        engine.wait_ready(10)
        assert engine.alive()
        status, _ = _post(engine.upstream())
    assert status == 200
    assert seen[-1] == ("/v1/completions", f"Bearer {KEY}", b'{"a":1}')
    assert (engine.name, engine.surfaces) == ("remote", {"chat", "completions", "responses"})
    assert KEY not in engine.version
    assert not engine.alive()


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path) -> None:
    with serving(certificate) as (url, seen):
        with pytest.raises(UpstreamDown):
            _post(Upstream.to_url(url))
        assert not RemoteEngine(url).alive()
    assert seen == []


def test_a_name_that_the_certificate_does_not_hold_is_refused(certificate: Path) -> None:
    with serving(certificate) as (url, seen), pytest.raises(UpstreamDown):
        _post(Upstream.to_url(url.replace("127.0.0.1", "localhost"), ca=certificate))
    assert seen == []


def test_a_refused_key_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", "another")
    with serving() as (url, _), pytest.raises(EngineFailure, match="refuses the API key"):
        RemoteEngine(url, "ENGINE_KEY").wait_ready(10)
    with pytest.raises(EngineFailure, match="did not answer"):
        RemoteEngine("http://127.0.0.1:9").wait_ready(0.01)


def test_a_redirect_is_not_followed() -> None:
    def redirect(handler: Any) -> None:
        handler.send_response(307)
        handler.send_header("location", "http://127.0.0.1:9/elsewhere")
        handler.send_header("content-length", "0")
        handler.end_headers()

    with serving(answer=redirect) as (url, seen):
        assert _post(Upstream.to_url(url))[0] == 307
        assert not RemoteEngine(url).alive()
    assert len(seen) == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\n" + b"x-a: " + b"a" * 200_000,
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"a" * 20_000,
        b"\x16\x03\x01 not http at all",
    ],
    ids=["endless headers", "two lengths", "too long", "no http"],
)
def test_what_an_engine_may_not_send_breaks_the_call(raw: bytes) -> None:
    def answer(handler: Any) -> None:
        handler.wfile.write(raw)
        handler.wfile.flush()
        handler.close_connection = True

    with serving(answer=answer) as (url, _), pytest.raises(UpstreamBroken):
        _post(Upstream.to_url(url))


@pytest.mark.parametrize(
    ("url", "key", "error"),
    [
        ("ftp://host", "", SpecError), ("host:8000", "", SpecError), ("https://", "", SpecError),
        ("https://user@host", "", SpecError), ("https://host?x=1", "", SpecError),
        ("https://host:99999", "", SpecError),
        ("https://host/\r\nx: y", "", SpecError), ("https://host", "a\r\nx: y", SpecError),
        ("http://10.0.0.1", KEY, Refused),
    ],
)  # fmt: skip
def test_urls_and_keys_that_cannot_be_used_are_refused(url: str, key: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Upstream.to_url(url, api_key=key)


def test_paths_begin_after_the_prefix() -> None:
    address = Address.of("http://[::1]:8000/models/a/v1/", api_key=KEY)
    assert (address.host, address.port, address.prefix) == ("::1", 8000, "/models/a")
    assert address.headers() == "host: [::1]:8000\r\n"
    assert Address.of("https://host").headers() == "host: host\r\n"


def test_a_key_that_is_not_there_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINE_KEY", raising=False)
    with pytest.raises(NotFound, match="ENGINE_KEY"):
        RemoteEngine("https://host", "ENGINE_KEY")
    with pytest.raises(NotFound, match="no certificates"):
        RemoteEngine("https://host", ca=tmp_path / "absent.pem")
