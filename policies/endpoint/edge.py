"""The open connections of a listener: how many there may be, and until when each may stay as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol


class Watched(Protocol):
    """A connection. `deadline` is of the event loop's clock."""

    deadline: float

    def time_out(self) -> None:
        """End it: it has outlived its deadline."""

    def abort(self) -> None:
        """End it at once."""


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """Limits of a listener's connections, in seconds, bytes and connections.

    `head_s` is for a whole request head, `idle_s` between requests, `stalled_s` for a caller who does not read,
    `linger_s` for one who is still sending when its answer is complete.
    `raw_bytes` is what a body may take on the wire, chunk framing included.
    """

    connections: int = 4096
    head_s: float = 10.0
    idle_s: float = 75.0
    stalled_s: float = 60.0
    handshake_s: float = 10.0
    linger_s: float = 5.0
    raw_bytes: int = 8 << 20


@dataclass(slots=True, eq=False)
class Edge:
    """The open connections of a listener. `quiet` are those that no request runs on, longest quiet first.

    Over the cap, whoever has been quiet longest goes. `refused` is told why a connection ended without a request.
    """

    limits: EdgeLimits = field(default_factory=EdgeLimits)
    refused: Callable[[str], None] = lambda reason: None
    now: float = 0.0
    open: set[Watched] = field(default_factory=set)
    quiet: dict[Watched, None] = field(default_factory=dict)

    def fit(self, most: int) -> None:
        """Lower the number of connections to what the process can hold."""
        self.limits = replace(self.limits, connections=max(1, min(self.limits.connections, most)))

    async def watch(self) -> None:
        """Close what has outlived its deadline, several times in the shortest limit, until cancelled."""
        limits = self.limits
        step = min(1.0, limits.head_s / 4, limits.idle_s / 4, limits.stalled_s / 4, limits.linger_s / 4)
        loop = asyncio.get_running_loop()
        while True:
            self.now = loop.time()
            for connection in [each for each in self.open if each.deadline < self.now]:
                connection.time_out()
            await asyncio.sleep(step)

    def admit(self, connection: Watched) -> bool:
        """Take a new connection in, at the cost of the longest quiet one if need be; return whether there is room."""
        if len(self.open) >= self.limits.connections:
            oldest = next(iter(self.quiet), None)
            if oldest is None:
                self.refused("full")
                return False
            self.refused("evicted")
            oldest.abort()
        self.open.add(connection)
        return True

    def forget(self, connection: Watched) -> None:
        """Let go of a connection that has closed."""
        self.open.discard(connection)
        self.quiet.pop(connection, None)
