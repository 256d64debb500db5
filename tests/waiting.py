"""Waiting for what happens elsewhere: in another thread, in another process."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something holds; long, since on a crowded machine what takes a moment may take several."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
