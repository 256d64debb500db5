"""One exchange with an engine over HTTP/1.1: keep-alive, streaming, and closing aborts generation.

One `Call` is one exchange. `close` may be called at any time and from any task: an unfinished exchange drops its
connection, which is how the engine learns that nobody wants the rest. Whatever an engine sends is bounded.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from policies.wire.failures import CallClosed, UpstreamBroken, UpstreamDown

READ_AHEAD = 256 * 1024
"""Bytes buffered for a slow caller before reading from the engine pauses."""
LARGEST_HEAD = 64 * 1024
"""Bytes that may come before the headers of an answer are complete."""


class Owner(Protocol):
    """Who opened a connection, and takes it back."""

    def request(self, method: str, path: str, body: bytes) -> bytes:
        """Return the bytes of a request."""

    def keep(self, connection: Connection) -> None:
        """Take a connection back after a finished exchange."""

    def discard(self, connection: Connection) -> None:
        """Forget a connection that was lost."""


class Source(Protocol):
    """Where calls get their connections: one engine, or a pool of replicas. `moves` bounds how often one is resent."""

    moves: int

    async def connect(self) -> Connection:
        """Return a connection that carries no exchange; raises UpstreamDown."""


class Connection(asyncio.Protocol):
    """One socket to an engine; carries one exchange at a time. `lent` while a call has it."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.transport: asyncio.Transport | None = None
        self.call: Call | None = None
        self.parser = httptools.HttpResponseParser(self)
        self.used = False
        self.lent = False
        self._head = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the open socket."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the call, and the owner, that the socket is gone."""
        self.transport = None
        self.owner.discard(self)
        if self.call is not None:
            self.call.fail(UpstreamDown("the engine closed the connection"))
            self.call = None

    def data_received(self, data: bytes) -> None:
        """Parse what the engine sent; what is not HTTP ends the connection."""
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(str(error))
            return
        if self.call is not None and not self.call.status:
            self._head += len(data)
            if self._head > LARGEST_HEAD:
                self._break(f"the engine's headers are larger than {LARGEST_HEAD} bytes")

    def _break(self, why: str) -> None:
        if self.call is not None:
            self.call.fail(UpstreamBroken(why))
            self.call = None
        self.drop()

    def on_message_begin(self) -> None:
        """Drop an answer without a question."""
        if self.call is None:  # bytes nobody asked for: the next answer could not be trusted
            self.drop()

    def on_headers_complete(self) -> None:
        """Pass the status on."""
        self._head = 0
        if self.call is not None:
            self.call.begin(self.parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        if self.call is not None:
            self.call.feed(data)

    def on_message_complete(self) -> None:
        """End the call and go back to the owner."""
        call, self.call = self.call, None
        self.used = True
        if self.parser.should_keep_alive():
            self.resume()
            self.owner.keep(self)
        else:
            self.drop()
        if call is not None:
            call.end()

    def drop(self) -> None:
        """Close the socket at once."""
        if self.transport is not None:
            self.transport.abort()

    def pause(self) -> None:
        """Stop reading until the caller has caught up."""
        if self.transport is not None:
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.transport is not None and not self.transport.is_reading():
            self.transport.resume_reading()


class Call:
    """One exchange with the engine: `start`, then `chunk` until it returns `b""`, or `read` for all of it."""

    def __init__(self, source: Source, method: str, path: str, body: bytes) -> None:
        self._source, self._method, self._path, self._body = source, method, path, body
        self._connection: Connection | None = None
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._paused = False
        self.status = 0
        self.done = False

    async def start(self) -> int:
        """Send the request and return the answer's status code.

        Raises:
            UpstreamDown: no engine listens, or it hung up.
            UpstreamBroken: the answer is not HTTP.
            CallClosed: `close` was called meanwhile.
        """
        moves = self._source.moves
        while True:
            connection = await self._source.connect()
            if self._error is not None:
                connection.owner.keep(connection)
                raise self._error
            reused = connection.used
            self._connection, connection.call = connection, self
            if connection.transport is None:
                self._error = UpstreamDown("the engine closed the connection")
            else:
                connection.transport.write(connection.owner.request(self._method, self._path, self._body))
            try:
                while not self.status:
                    await self._arrival()
                    if self._error is not None and not self._buffer:
                        raise self._error
            except UpstreamDown:
                # An idle connection may have been let go just now: a fresh one decides. A replica that died before it
                # answered is replaced by another, but not for ever: the request itself may be what kills engines.
                if self.status or not (reused or moves):
                    raise
                moves -= not reused
                self._error = None
                continue
            return self.status

    async def chunk(self) -> bytes:
        """Return all bytes of the body that have arrived, waiting for at least one; `b""` at the end."""
        buffer = self._buffer
        while not buffer:
            if self.done:
                return b""
            if self._error is not None:
                raise self._error
            await self._arrival()
        data = buffer.pop() if len(buffer) == 1 else b"".join(buffer)
        buffer.clear()
        self._buffered = 0
        if self._paused and self._connection is not None:
            self._paused = False
            if not self.done:
                self._connection.resume()
        return data

    async def read(self, limit: int) -> bytes:
        """Return the whole body; raises UpstreamBroken past `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        while data := await self.chunk():
            size += len(data)
            if size > limit:
                self.close()
                raise UpstreamBroken(f"the engine's answer is larger than {limit} bytes")
            parts.append(data)
        return b"".join(parts)

    async def drain(self) -> None:
        """Read to the end of the body, so that the connection can be used again."""
        while await self.chunk():
            pass

    def close(self) -> None:
        """Give up an unfinished exchange and drop its connection; does nothing to a finished one."""
        if self.done:
            return
        connection, self._connection = self._connection, None
        self.fail(CallClosed("closed by the gateway"))
        if connection is not None:
            connection.call = None
            connection.drop()

    def _arrival(self) -> asyncio.Future[None]:
        """Return what to await until something arrives, or goes wrong."""
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        return waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def begin(self, status: int) -> None:
        """Take the status line (called by the connection)."""
        self.status = status
        self._wake()

    def feed(self, data: bytes) -> None:
        """Take a piece of the body (called by the connection)."""
        self._buffer.append(data)
        self._buffered += len(data)
        if self._buffered > READ_AHEAD and not self._paused and self._connection is not None:
            self._paused = True
            self._connection.pause()
        self._wake()

    def end(self) -> None:
        """Take the end of the body (called by the connection)."""
        self.done = True
        self._connection = None
        self._wake()

    def fail(self, error: Exception) -> None:
        """Take a failure (called by the connection, or by `close`)."""
        self._error = error
        self._wake()
