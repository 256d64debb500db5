"""The head of a request: the headers that the endpoint reads, each checked, and framing that only confuses refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from policies.wire.refusal import Refusal

NOTHING: Mapping[str, Any] = {}
_FACT = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Head:
    """What the endpoint reads of a request's head; raises Refusal 400 for a repeated or malformed one of them.

    `length` is the announced length of the body, -1 for one in chunks, 0 for none. `certificate` is the verified
    client certificate in PEM, `` without one.
    """

    __slots__ = (
        "authorization", "content_encoding", "content_type", "data_class", "host", "length", "purpose", "traceparent",
    )  # fmt: skip

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self.authorization: bytes | None = None
        self.content_type, self.content_encoding, self.length = b"", b"", 0
        self.host: bytes | None = None
        self.purpose = self.data_class = self.traceparent = ""
        for name, value in pairs:
            read = _READERS.get(name)
            if read is not None:
                read(self, value)


def _authorization(head: Head, value: bytes) -> None:
    if head.authorization is not None:
        raise Refusal(400, "repeated_header", "more than one Authorization header")
    head.authorization = value


def _content_type(head: Head, value: bytes) -> None:
    if head.content_type:
        raise Refusal(400, "repeated_header", "more than one Content-Type header")
    head.content_type = value


def _content_encoding(head: Head, value: bytes) -> None:
    head.content_encoding = value


def _content_length(head: Head, value: bytes) -> None:
    if head.length or not value.isdigit():
        raise Refusal(400, "bad_framing", "the length of the body is not clear")
    head.length = int(value)


def _transfer_encoding(head: Head, value: bytes) -> None:
    if head.length or value.lower() != b"chunked":
        raise Refusal(400, "bad_framing", "the length of the body is not clear")
    head.length = -1


def _host(head: Head, value: bytes) -> None:
    if head.host is not None:
        raise Refusal(400, "repeated_header", "more than one Host header")
    head.host = value


def _purpose(head: Head, value: bytes) -> None:
    head.purpose = _fact(head.purpose, value, "X-Hallmark-Purpose")


def _data_class(head: Head, value: bytes) -> None:
    head.data_class = _fact(head.data_class, value, "X-Hallmark-Data-Class")


def _fact(before: str, value: bytes, name: str) -> str:
    if before:
        raise Refusal(400, "repeated_header", f"more than one {name} header")
    if not value:
        return ""
    if not _FACT.fullmatch(value):
        raise Refusal(400, "invalid_header", f"{name} takes at most 64 of A-Z a-z 0-9 _ . -")
    return value.decode("ascii")


def _traceparent(head: Head, value: bytes) -> None:
    text = value.decode("latin-1")  # what is no trace context is ignored, as W3C Trace Context has it
    head.traceparent = text if _TRACEPARENT.fullmatch(text) else ""


_READERS = {
    b"authorization": _authorization,
    b"content-encoding": _content_encoding,
    b"content-length": _content_length,
    b"content-type": _content_type,
    b"host": _host,
    b"traceparent": _traceparent,
    b"transfer-encoding": _transfer_encoding,
    b"x-hallmark-data-class": _data_class,
    b"x-hallmark-purpose": _purpose,
}


def client_certificate(scope: Mapping[str, Any]) -> str:
    """Return the PEM of the verified certificate that the client showed in the TLS handshake, or ``."""
    tls = scope.get("extensions", NOTHING).get("tls")
    chain = tls.get("client_cert_chain") if tls else None
    return str(chain[0]) if chain else ""


def check_framing(scope: Mapping[str, Any], head: Head) -> None:
    """Refuse requests that two readers could take for different ones; raises Refusal 400.

    The parser has refused malformed lines, lengths and chunks before this. RFC 9112, 3.2 and 6.1.
    """
    if head.length < 0 and scope["http_version"] != "1.1":
        raise Refusal(400, "bad_framing", "a body in chunks needs HTTP/1.1")
    if head.host is None and scope["http_version"] == "1.1":
        raise Refusal(400, "missing_host", "HTTP/1.1 needs a Host header")
