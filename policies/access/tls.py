"""The endpoint's TLS: version, ciphers, and whose client certificates are asked for."""

from __future__ import annotations

import ssl
from pathlib import Path

from registry.errors import NotFound, SpecError

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has no others."""


def server_context(cert: Path, key: Path, client_ca: Path | None = None, *, required: bool = False) -> ssl.SSLContext:
    """Return a context for the listener: TLS 1.2 or later, HTTP/1.1.

    With `client_ca` (PEM of the authorities) callers may present a certificate, or must when it is `required`; one
    that no authority there signed, or that is not for client authentication, ends the handshake. The files are read
    now: `renew` takes up new ones.

    Raises:
        NotFound: a file is not there.
        SpecError: a file is not what it should be, or key and certificate do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    renew(context, cert, key)
    if client_ca is not None:
        if not client_ca.is_file():
            raise NotFound(f"no file `{client_ca}`", hint="see `client_ca` in `[tls]` of hallmark.toml")
        try:
            context.load_verify_locations(client_ca)
        except (ssl.SSLError, OSError) as error:
            raise SpecError(f"not certificates: {error}", file=str(client_ca), hint="write them as PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def renew(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Let a context show a renewed certificate from the next connection on. Raises as `server_context` does."""
    for path in (cert, key):
        if not path.is_file():
            raise NotFound(f"no file `{path}`", hint="see `[tls]` of hallmark.toml")
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise SpecError(
            f"certificate and key cannot be used: {error}", file=str(cert), hint="PEM of the chain, and of its own key"
        ) from None


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted")
