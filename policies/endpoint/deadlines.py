"""Time limits of many running things with one timer: what began first is over first, so only the first is watched."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Expiring(Protocol):
    """Something whose time can be over."""

    def expire(self) -> None:
        """Take note that the time is over; may be called once only."""


class Deadlines:
    """Gives everything that begins the same number of seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: dict[Expiring, float] = {}  # in order of their deadlines
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, work: Expiring) -> None:
        """Have `work.expire` called in so many seconds, unless `end` comes first."""
        loop = asyncio.get_running_loop()
        self._running[work] = loop.time() + self._seconds
        if self._timer is None or self._loop is not loop:
            self._loop = loop
            self._timer = loop.call_later(self._seconds, self._sweep)

    def end(self, work: Expiring) -> None:
        """Let go of work that has ended."""
        self._running.pop(work, None)

    def _sweep(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        now = loop.time()
        while self._running:
            work = next(iter(self._running))
            if self._running[work] > now:
                self._timer = loop.call_at(self._running[work], self._sweep)
                return
            del self._running[work]
            work.expire()
