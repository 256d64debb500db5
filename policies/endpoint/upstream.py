"""The engines behind a gateway: one at a Unix socket or an address, or a pool of replicas; each makes calls."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from policies.endpoint.address import Address
from policies.endpoint.call import Call, Connection
from policies.wire.failures import CallClosed, UpstreamBroken, UpstreamDown

__all__ = ["Call", "CallClosed", "Pool", "Upstream", "UpstreamBroken", "UpstreamDown"]
REST_SECONDS = 1.0
"""How long a replica that could not be reached is asked last."""


class Upstream:
    """One engine, at a Unix socket or an address; keeps up to `idle` connections open between exchanges.

    `busy` counts the connections that calls have now.
    """

    moves = 0

    def __init__(self, uds: Path | None, *, idle: int = 128, connect_seconds: float = 5.0) -> None:
        self.name = "" if uds is None else str(uds)
        """Where the engine is: the socket's path, or `host:port`."""
        self._address: Address | None = None
        self._tls: ssl.SSLContext | None = None
        self._headers = "host: engine\r\n"
        self._prefix = ""
        self._idle: deque[Connection] = deque()
        self._limit = idle
        self._connect_seconds = connect_seconds
        self.busy = 0

    @classmethod
    def to_url(cls, url: str, *, api_key: str = "", ca: Path | None = None, idle: int = 128) -> Upstream:
        """Return the client of an engine at `http[s]://host[:port][/prefix]`; a closing `/v1` is dropped.

        Certificates are verified (against `ca`, or the system's), no proxy is asked, redirects are answers like any
        other. `api_key` is sent as a bearer token. Raises SpecError or Refused (`policies.endpoint.address`).
        """
        made = cls(None, idle=idle, connect_seconds=15.0)
        made._address = address = Address.of(url, api_key=api_key)
        made.name = f"{address.host}:{address.port}"
        made._tls = address.tls(ca)
        made._prefix, made._headers = address.prefix, address.headers(api_key)
        return made

    def call(self, method: str, path: str, body: bytes = b"") -> Call:
        """Return an exchange that has not started yet."""
        return Call(self, method, path, body)

    def request(self, method: str, path: str, body: bytes) -> bytes:
        """Return the bytes of a request to this engine."""
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._headers}"
        if method == "POST":
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return (head + "\r\n").encode("ascii") + body

    async def connect(self) -> Connection:
        """Return an idle connection, else a new one; raises UpstreamDown."""
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                connection.lent = True
                self.busy += 1
                return connection
        self.busy += 1  # from now on, so that a pool sees it while the connection is being made
        try:
            async with asyncio.timeout(self._connect_seconds):
                connection = await self._open()
        except (OSError, TimeoutError) as error:
            self.busy -= 1
            raise UpstreamDown(f"no engine listens: {error}") from error
        except BaseException:
            self.busy -= 1
            raise
        connection.lent = True
        return connection

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        address = self._address
        if address is None:
            return (await loop.create_unix_connection(lambda: Connection(self), self.name))[1]
        name = address.host if self._tls is not None else None
        made = loop.create_connection(
            lambda: Connection(self), address.host, address.port, ssl=self._tls, server_hostname=name
        )
        return (await made)[1]

    def keep(self, connection: Connection) -> None:
        """Take a connection back after a finished exchange."""
        self._return(connection)
        if len(self._idle) < self._limit:
            self._idle.append(connection)
        else:
            connection.drop()

    def discard(self, connection: Connection) -> None:
        """Forget a connection that was lost."""
        if connection.lent:
            self._return(connection)
        elif connection in self._idle:
            self._idle.remove(connection)

    def _return(self, connection: Connection) -> None:
        if connection.lent:
            connection.lent = False
            self.busy -= 1

    def close(self) -> None:
        """Drop the idle connections."""
        while self._idle:
            self._idle.pop().drop()


@dataclass(slots=True)
class _Replica:
    """An engine of a pool. `healthy` is what the supervisor says; until `rested` it is asked last."""

    upstream: Upstream
    healthy: bool = True
    rested: float = 0.0


class Pool:
    """Several engines with the same model: every call goes to the least busy one that is well.

    A replica that nobody listens at is passed over at once, and for `REST_SECONDS` only asked when no other is left. A
    call whose replica died before it answered is sent to another, once: one request must not end every engine.
    """

    moves = 1

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        if not upstreams:
            raise ValueError("a pool has at least one engine")
        self._replicas = [_Replica(one) for one in upstreams]

    @property
    def busy(self) -> int:
        """Return how many connections calls have now."""
        return sum(one.upstream.busy for one in self._replicas)

    @property
    def healthy(self) -> int:
        """Return how many replicas the supervisor calls healthy."""
        return sum(one.healthy for one in self._replicas)

    def mark(self, name: Path | str, healthy: bool) -> None:
        """Say whether the replica at a socket (or `host:port`) may be used; KeyError when there is none."""
        found = [one for one in self._replicas if one.upstream.name == str(name)]
        if not found:
            raise KeyError(str(name))
        found[0].healthy, found[0].rested = healthy, 0.0
        if not healthy:
            found[0].upstream.close()

    def call(self, method: str, path: str, body: bytes = b"") -> Call:
        """Return an exchange that has not started yet."""
        return Call(self, method, path, body)

    async def connect(self) -> Connection:
        """Return a connection to the least busy replica that can be reached; raises UpstreamDown when none can."""
        now = time.monotonic()
        open_to = [one for one in self._replicas if one.healthy]
        lost: UpstreamDown | None = None
        while open_to:
            chosen = min(open_to, key=lambda one: (one.rested > now, one.upstream.busy))
            open_to.remove(chosen)
            try:
                return await chosen.upstream.connect()
            except UpstreamDown as error:
                chosen.rested = now + REST_SECONDS
                lost = error
        raise lost or UpstreamDown("no engine is healthy")

    def close(self) -> None:
        """Drop the idle connections."""
        for one in self._replicas:
            one.upstream.close()
