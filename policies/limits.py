"""How often: one token bucket for each caller, refilled evenly, a whole minute's worth deep."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from policies.authorize import Caller
from policies.refusal import Refusal

ATTRIBUTE = "requests_per_minute"
"""The caller's attribute that sets the limit; a caller without it has none."""


@dataclass(slots=True)
class Bucket:
    """Tokens left at a moment (seconds of a monotonic clock)."""

    rate: float
    depth: float
    tokens: float
    moment: float

    def take(self, now: float) -> float:
        """Take one token and return 0.0, or return the seconds until there is one."""
        self.tokens = min(self.depth, self.tokens + (now - self.moment) * self.rate)
        self.moment = now
        if self.tokens >= 1.0:
            self.tokens -= 1.0
            return 0.0
        return (1.0 - self.tokens) / self.rate if self.rate > 0 else math.inf


class Limits:
    """The buckets of this process, by caller name: a second key is no second budget."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}

    def take(self, caller: Caller) -> None:
        """Count one request; raises Refusal: 429 over the limit, 403 when the limit is not a number >= 0."""
        limit = caller.attributes.get(ATTRIBUTE)
        if limit is None:
            return
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit < math.inf:
            raise Refusal(403, "bad_limit", f"the attribute `{ATTRIBUTE}` of this caller is not a number")
        now = self._clock()
        bucket = self._buckets.get(caller.name)
        if bucket is None or bucket.depth != limit:
            bucket = self._buckets[caller.name] = Bucket(limit / 60.0, float(limit), float(limit), now)
        wait = bucket.take(now)
        if wait > 0:
            seconds = 3600 if wait == math.inf else max(1, math.ceil(wait))
            message = f"more than {limit:g} requests a minute"
            raise Refusal(429, "rate_limit_exceeded", message, retry_after=seconds)
