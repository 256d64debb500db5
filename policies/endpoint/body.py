"""The body of a request: read within its size, its time, and what all bodies together may hold; plain JSON only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from policies.endpoint.desk import Bounds
from policies.endpoint.head import Head
from policies.wire.depth import too_deep
from policies.wire.refusal import Refusal

Receive = Callable[[], Awaitable[dict[str, Any]]]


class BodyReader:
    """Reads bodies for one endpoint; `pending` counts the bytes of those that have not arrived in full."""

    def __init__(self, bounds: Bounds) -> None:
        self.pending = 0
        self._bounds = bounds

    async def read(self, head: Head, receive: Receive, *, arrived: bool = False) -> bytes:
        """Return the body; raises Refusal for what is too large, too slow, too deep, or not announced as JSON.

        `arrived` says that all of it is here, so that no time need be taken.
        """
        kind = head.content_type
        if kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
            raise Refusal(415, "unsupported_media_type", "send `Content-Type: application/json`")
        if head.content_encoding:
            raise Refusal(415, "unsupported_encoding", "compressed bodies are not accepted")
        if head.length > self._bounds.body_bytes:
            raise self._too_large()
        if arrived:
            body: bytes = (await receive()).get("body", b"")
            if len(body) > self._bounds.body_bytes:
                raise self._too_large()
        else:
            body = await self._collect(receive)
        if too_deep(body):
            raise Refusal(400, "too_deep", "the body is nested too deeply")
        return body

    async def _collect(self, receive: Receive) -> bytes:
        """Return a body that comes in pieces."""
        bounds, data = self._bounds, bytearray()
        more = True
        try:
            async with asyncio.timeout(bounds.body_s):
                while more and len(data) <= bounds.body_bytes:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "incomplete_body", "the connection closed before the body was complete")
                    piece, more = message.get("body", b""), message.get("more_body", False)
                    data += piece
                    self.pending += len(piece)
                    if self.pending > bounds.pending_bytes:
                        raise Refusal(503, "overloaded", "too many bodies at once", action="error", retry_after=1)
        except TimeoutError:
            raise Refusal(408, "body_too_slow", "the body did not arrive in time") from None
        finally:
            self.pending -= len(data)
        if len(data) > bounds.body_bytes:
            raise self._too_large()
        return bytes(data)

    def _too_large(self) -> Refusal:
        return Refusal(413, "body_too_large", f"the body is larger than {self._bounds.body_bytes} bytes")
