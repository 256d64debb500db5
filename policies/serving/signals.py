"""What an operator says by signals: stop, stop now, look again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Signals:
    """SIGTERM and SIGINT end the start; after `hand_over` the first one calls `stop`, a second one `cut`.

    SIGHUP calls `look`; before `hand_over` it does nothing.
    """

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._cut: Callable[[], None] = _nothing
        self._look: Callable[[], None] = _nothing
        self._stopping = False
        self._before: dict[int, Any] = {}

    def hand_over(self, stop: Callable[[], None], cut: Callable[[], None], look: Callable[[], None]) -> None:
        """From now on signals call these."""
        self._stop, self._cut, self._look = stop, cut, look

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return kind is StopBeforeStart

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._look()
        elif self._stop is None:
            self._stop = self._cut = _nothing  # a second signal must not interrupt the cleaning up
            raise StopBeforeStart
        elif self._stopping:
            self._cut()
        else:
            self._stopping = True
            self._stop()


class StopBeforeStart(BaseException):
    """A signal came while the endpoint was starting: everything is undone, and serving ends without an error."""


def _nothing() -> None:
    """Do nothing."""
