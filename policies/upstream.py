"""A lean HTTP/1.1 client for the engine behind a Unix socket: keep-alive, streaming, and closing aborts generation.

One `Call` is one exchange. `close` may be called at any time and from any task: an unfinished exchange drops its
connection, which is how the engine learns that nobody wants the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import cast

import httptools

READ_AHEAD = 256 * 1024
"""Bytes buffered for a slow caller before reading from the engine pauses."""


class UpstreamDown(Exception):
    """The engine cannot be reached, or dropped the connection."""


class UpstreamBroken(Exception):
    """The engine answered something that is not HTTP."""


class CallClosed(Exception):
    """The exchange was closed on our side while somebody waited for it."""


class _Connection(asyncio.Protocol):
    """One socket to the engine; carries one exchange at a time."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.transport: asyncio.Transport | None = None
        self.call: Call | None = None
        self.parser = httptools.HttpResponseParser(self)
        self.used = False
        self.complete = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.upstream.discard(self)
        if self.call is not None:
            self.call.fail(UpstreamDown("the engine closed the connection"))
            self.call = None

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self.call is not None:
                self.call.fail(UpstreamBroken(str(error)))
                self.call = None
            self.drop()

    def on_message_begin(self) -> None:
        if self.call is None:  # bytes nobody asked for: the next answer could not be trusted
            self.drop()

    def on_headers_complete(self) -> None:
        if self.call is not None:
            self.call.begin(self.parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        if self.call is not None:
            self.call.feed(data)

    def on_message_complete(self) -> None:
        call, self.call = self.call, None
        self.used = True
        if self.parser.should_keep_alive():
            self.resume()
            self.upstream.keep(self)
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

    def __init__(self, upstream: Upstream, head: bytes, body: bytes) -> None:
        self._upstream = upstream
        self._request = head + body
        self._connection: _Connection | None = None
        self._buffer: deque[bytes] = deque()
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
        while True:
            connection = await self._upstream.connect()
            if self._error is not None:
                self._upstream.keep(connection)
                raise self._error
            reused = connection.used
            self._connection, connection.call = connection, self
            if connection.transport is None:
                self._error = UpstreamDown("the engine closed the connection")
            else:
                connection.transport.write(self._request)
            try:
                while not self.status:
                    await self._wait()
            except UpstreamDown:
                if not reused or self.status:
                    raise
                self._error = None  # the engine let an idle connection go just now: a fresh one decides
                continue
            return self.status

    async def chunk(self) -> bytes:
        """Return all bytes of the body that have arrived, waiting for at least one; `b""` at the end."""
        while not self._buffer:
            if self.done:
                return b""
            await self._wait()
        data = self._buffer.popleft() if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
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

    def close(self) -> None:
        """Give up an unfinished exchange and drop its connection; does nothing to a finished one."""
        if self.done:
            return
        connection, self._connection = self._connection, None
        self.fail(CallClosed("closed by the gateway"))
        if connection is not None:
            connection.call = None
            connection.drop()

    async def _wait(self) -> None:
        self._check()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        self._check()

    def _check(self) -> None:
        """Raise what went wrong, once everything that arrived before it was read."""
        if self._error is not None and not self._buffer:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

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


class Upstream:
    """The engine at a Unix socket; keeps up to `idle` connections open between exchanges."""

    def __init__(self, uds: Path, *, idle: int = 128, connect_seconds: float = 5.0) -> None:
        self._path = str(uds)
        self._idle: deque[_Connection] = deque()
        self._limit = idle
        self._connect_seconds = connect_seconds

    def call(self, method: str, path: str, body: bytes = b"") -> Call:
        """Return an exchange that has not started yet."""
        head = f"{method} {path} HTTP/1.1\r\nhost: engine\r\n"
        if method == "POST":
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return Call(self, (head + "\r\n").encode("ascii"), body)

    async def connect(self) -> _Connection:
        """Return an idle connection, else a new one; raises UpstreamDown."""
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_unix_connection(lambda: _Connection(self), self._path)
        except (OSError, TimeoutError) as error:
            raise UpstreamDown(f"no engine listens: {error}") from error
        return connection

    def keep(self, connection: _Connection) -> None:
        """Take a connection back after a finished exchange."""
        if len(self._idle) < self._limit:
            self._idle.append(connection)
        else:
            connection.drop()

    def discard(self, connection: _Connection) -> None:
        """Forget a connection that was lost."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Drop the idle connections."""
        while self._idle:
            self._idle.pop().drop()
