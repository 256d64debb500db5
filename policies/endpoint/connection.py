"""One connection of a caller: uvicorn's HTTP protocol, with the time and size limits that it lacks.

A connection that sends its head too slowly, sits idle too long, or does not take its answer is closed; a head has at
most `HEAD_BYTES`; a few requests may be sent ahead. What the parser cannot read is answered once and ends it. A
caller who is answered while still sending may go on for a moment, unheard: cut off at once, it might never read why.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import Callable
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from policies.endpoint.edge import Edge

log = logging.getLogger(__name__)

HEAD_BYTES = 32 * 1024
MOST_HEADERS = 100
LINGER_BYTES = 64 << 20
"""What a caller may still send after its answer."""
MOST_AHEAD = 8
"""Requests that a connection may send before the first is answered."""
REASONS = {400: "Bad Request", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}


class Exchanged(RequestResponseCycle):  # type: ignore[misc]
    """One request and its answer: as uvicorn's, but head and first piece leave in one write.

    Names and values of headers are this endpoint's own, so they are not searched for line breaks again.
    """

    _head: bytes = b""

    async def send(self, message: dict[str, Any]) -> None:
        """Take an ASGI message of the answer."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self.response_started, self.waiting_for_100_continue = True, False
            self._head = self._begin(message)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self.scope["method"] == "HEAD":
            body = b""
        elif self.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        head, self._head = self._head, b""
        self.transport.write(head + body if head else body)
        if more:
            return
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            connection = self.scope["extensions"]["hallmark.connection"]
            connection.linger() if self.more_body else self.transport.close()
        self.on_response()

    def _begin(self, message: dict[str, Any]) -> bytes:
        """Return the head of the answer; a body of unknown length is sent in chunks."""
        lines = [STATUS_LINE[message["status"]]]
        self.chunked_encoding = True
        closing = False
        for name, value in (*self.default_headers, *message["headers"]):
            if name == b"content-length":
                self.chunked_encoding = False
            elif name == b"connection":
                closing = True
            lines.append(b"%b: %b\r\n" % (name, value))
        if closing:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"transfer-encoding: chunked\r\n\r\n" if self.chunked_encoding else b"\r\n")
        return b"".join(lines)


class Connection(HttpToolsProtocol):  # type: ignore[misc]
    """The server's side of one connection; in a request's scope as the extension `hallmark.connection`."""

    edge: Edge

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.deadline = math.inf
        self._extensions: dict[str, Any] = {"hallmark.connection": self}
        self._leave: Callable[[], None] | None = None
        self._heading = self._receiving = self._ended = False
        self._raw = self._fresh = 0

    # ---- what the application may ask --------------------------------------------------------------------------

    @property
    def arrived(self) -> bool:
        """Whether the body of the request that runs now is here in full."""
        return not self.cycle.more_body

    def watch(self, leave: Callable[[], None]) -> None:
        """Have `leave` called when the caller hangs up."""
        if self.transport.is_closing():
            leave()
            return
        self._leave = leave
        self.flow.resume_reading()  # it is reading that notices

    def unwatch(self) -> None:
        """Call nobody any more."""
        self._leave = None

    # ---- what the transport says -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take the connection in, if there is room."""
        super().connection_made(transport)
        edge = self.edge
        if not edge.admit(self):
            self._answer(503, "overloaded", "too many connections")
            return
        chain = _client_chain(transport)
        if chain:
            self._extensions["tls"] = {"client_cert_chain": chain}
        edge.quiet[self] = None
        self.deadline = edge.now + edge.limits.head_s

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever watches."""
        super().connection_lost(exc)
        self.edge.forget(self)
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def data_received(self, data: bytes) -> None:
        """Parse, within the limits of heads and bodies; what comes after the end is dropped."""
        if self._ended:
            self._raw += len(data)
            if self._raw > LINGER_BYTES:
                self.abort()
            return
        if not (self._heading or self._receiving):
            self._fresh = len(data)  # the next message begins with this data
        self._raw += len(data)
        super().data_received(data)
        if self._heading:
            if self._raw > HEAD_BYTES:
                self._refuse(431, "head_too_large", "the head of the request is too large", "head")
            elif self.deadline == math.inf:
                self.deadline = self.edge.now + self.edge.limits.head_s
        elif self._receiving and self._raw > self.edge.limits.raw_bytes:
            self.edge.refused("body")
            self.abort()

    def pause_writing(self) -> None:
        """Give the caller so long to read."""
        super().pause_writing()
        self.deadline = self.edge.now + self.edge.limits.stalled_s

    def resume_writing(self) -> None:
        """Go on: the caller has read."""
        super().resume_writing()
        self.deadline = math.inf

    # ---- what the parser says ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._heading, self._raw, self._fresh = True, self._fresh, 0
        self.scope["extensions"] = self._extensions

    def on_headers_complete(self) -> None:
        """Refuse a head that is none for this endpoint, else have the application answer."""
        self._heading, self._receiving = False, True
        if len(self.headers) > MOST_HEADERS or not self.url.startswith(b"/") or len(self.pipeline) >= MOST_AHEAD:
            raise ValueError("a request that is not read")  # the parser stops and says so
        self.deadline = math.inf
        self.edge.quiet.pop(self, None)
        super().on_headers_complete()
        self.cycle.__class__ = Exchanged  # its task has not begun
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # no other protocol is spoken here, and the parser reads no further

    def on_message_complete(self) -> None:
        """Note the end of a body."""
        self._receiving = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Take the next request that was sent ahead, or wait for one; as uvicorn does, without a timer each time."""
        edge = self.edge
        self._leave = None
        self.server_state.total_requests += 1
        if self._ended:
            return
        if self.transport.is_closing():
            self.deadline = edge.now + edge.limits.stalled_s
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, application = self.pipeline.pop()
            self._start_asgi_task(cycle, application)
        elif not self._heading:
            edge.quiet[self] = None
            self.deadline = edge.now + edge.limits.idle_s

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser cannot read."""
        self._refuse(400, "malformed_request", "the request cannot be read", "malformed")

    # ---- ends ---------------------------------------------------------------------------------------------------

    def linger(self) -> None:
        """Hear no more, and close once the caller does, or after `linger_s`."""
        self._ended, self._raw = True, 0
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.deadline = self.edge.now + self.edge.limits.linger_s

    def time_out(self) -> None:
        """End a connection that has outlived its deadline."""
        if not self._ended:
            self.edge.refused("idle" if self in self.edge.quiet else "stalled")
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._ended = True
        self.edge.forget(self)
        self.deadline = math.inf
        self.transport.abort()

    def _refuse(self, status: int, code: str, message: str, reason: str) -> None:
        """Answer what is no request, unless another answer is under way, and close."""
        self.edge.refused(reason)
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.abort()
        else:
            self._answer(status, code, message)

    def _answer(self, status: int, code: str, message: str) -> None:
        self._ended = True
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        body = msgspec.json.encode({"error": error if status < 500 else {**error, "type": "service_unavailable_error"}})
        head = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        )
        if status >= 500:
            head += "retry-after: 5\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        if self in self.edge.open:
            self.linger()
        else:
            self.transport.close()


def _client_chain(transport: asyncio.Transport) -> list[str]:
    """Return the verified client certificate in PEM, as the ASGI TLS extension has it."""
    tls = transport.get_extra_info("ssl_object")
    shown = tls.getpeercert(binary_form=True) if tls is not None else None
    return [ssl.DER_cert_to_PEM_cert(shown)] if shown else []


def connection_kind(edge: Edge) -> type[Connection]:
    """Return the protocol class for one listener's connections."""
    return type("Connection", (Connection,), {"edge": edge})
