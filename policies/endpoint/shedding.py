"""How many requests run at once: so many run, a few wait for their turn a short while, the rest come back later."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import suppress

from policies.wire.refusal import Refusal

SMOOTHING = 0.05
"""Weight of the newest request in the mean duration that `Retry-After` is told from."""


class Turnstile:
    """Lets requests through in the order they came. `running` of them are inside, `waiting` in line."""

    def __init__(self, running: int, waiting: int, wait_s: float) -> None:
        self.most_running, self.most_waiting, self.wait_s = running, waiting, wait_s
        self.running = 0
        self.shed = 0
        self._line: deque[asyncio.Future[None]] = deque()
        self._mean_s = 1.0

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    def enter(self) -> asyncio.Future[None] | None:
        """Take a place inside and return None, or return what to give to `wait`.

        Raises:
            Refusal: 503 with Retry-After when the line is full.
        """
        if self.running < self.most_running and not self._line:
            self.running += 1
            return None
        if len(self._line) >= self.most_waiting:
            raise self._full()
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        return turn

    async def wait(self, turn: asyncio.Future[None]) -> None:
        """Return once it is this one's turn, with a place inside; raises Refusal 503 when that takes too long."""
        try:
            async with asyncio.timeout(self.wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave()  # the turn came in the same moment: it goes to the next
            else:
                with suppress(ValueError):  # whoever left a place may have passed over it already
                    self._line.remove(turn)
            if isinstance(error, TimeoutError):
                raise self._full() from None
            raise

    def leave(self, seconds: float | None = None) -> None:
        """Give a place back; `seconds` is how long it was used."""
        if seconds is not None:
            self._mean_s += SMOOTHING * (seconds - self._mean_s)
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)  # the place changes hands
                return
        self.running -= 1

    def _full(self) -> Refusal:
        self.shed += 1
        ahead = (len(self._line) + 1) / self.most_running
        seconds = min(60, max(1, math.ceil(ahead * self._mean_s)))
        return Refusal(503, "overloaded", "too many requests at once", action="error", retry_after=seconds)
