"""Time that nobody can set: seconds since the machine started, sleep included, however the wall clock jumps."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def steady_now() -> float:
    """Return seconds of the machine's own clock; only differences mean anything."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def steady_until(moment: datetime) -> float:
    """Return the steady time at which `moment` comes, as the wall clock sees it now."""
    return steady_now() + (moment - datetime.now(UTC)).total_seconds()
