"""A file lock between processes that is fair: whoever waits goes before whoever comes back for more."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from registry.errors import HallmarkError, Locked

SHORTEST_S, NEXT_S, LATER_S = 0.0002, 0.001, 0.005
"""How long a waiter sleeps between two tries: at first, and at most, as the next in the queue or as a later one."""


class FileLock:
    """Exclusive over `path`; `wait` is how many seconds to wait for it. The kernel lets go when a process dies.

    Waiters queue for a second file, so the holder, when it comes back, finds one of them before it in the queue.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def acquire(self, wait: float) -> int:
        """Return a descriptor that holds the lock until it is closed. Raises Locked, naming the process in the way."""
        deadline = time.monotonic() + wait
        queue = self._flock(self.path.with_name(f"{self.path.name}.queue"), deadline, LATER_S)
        try:
            descriptor = self._flock(self.path, deadline, NEXT_S)
        finally:
            os.close(queue)
        os.pwrite(descriptor, b"%-12d" % os.getpid(), 0)  # always as long: cutting a file waits for the disk
        return descriptor

    def _flock(self, path: Path, deadline: float, longest: float) -> int:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise HallmarkError(
                f"cannot lock the store: {error.strerror}", hint=f"make `{path.parent}` writable, or free its disk"
            ) from error
        pause = SHORTEST_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise self._locked() from None
                time.sleep(pause)
                pause = min(longest, pause * 1.25)
            else:
                return descriptor

    def _locked(self) -> Locked:
        try:
            holder = self.path.read_text(encoding="utf-8").strip() or "unknown"
        except OSError:
            holder = "unknown"
        return Locked(
            f"the store is locked by another process (pid {holder})",
            hint="wait for it to finish, or end it; nothing was changed",
        )
