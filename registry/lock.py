"""A file lock between processes that is fair: whoever waits goes before whoever comes back for more."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

from registry.errors import HallmarkError, Locked


class FileLock:
    """Exclusive over `path`; `wait` is how many seconds to wait for it. The kernel lets go when a process dies.

    Waiters queue for a second file, so the holder, when it comes back, finds one of them before it in the queue.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def acquire(self, wait: float) -> int:
        """Return a descriptor that holds the lock until it is closed. Raises Locked, naming the process in the way."""
        deadline = time.monotonic() + wait
        queue = self._flock(self.path.with_name(f"{self.path.name}.queue"), deadline)
        try:
            descriptor = self._flock(self.path, deadline)
        finally:
            os.close(queue)
        os.pwrite(descriptor, b"%-12d" % os.getpid(), 0)  # always as long: cutting a file waits for the disk
        return descriptor

    def _flock(self, path: Path, deadline: float) -> int:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise HallmarkError(
                f"cannot lock the store: {error.strerror}", hint=f"make `{path.parent}` writable, or free its disk"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _gained(descriptor, deadline - time.monotonic()):
                raise self._locked() from None
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


def _gained(descriptor: int, seconds: float) -> bool:
    """Wait in the kernel's own queue, which polling would lose its place in; say whether the lock came in time.

    The wait has no time limit of its own, so a thread waits; one that is given up on closes the descriptor.
    """
    mutex, gained = threading.Lock(), threading.Event()
    given_up = False

    def wait() -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with mutex:
            if given_up:
                os.close(descriptor)
            else:
                gained.set()

    threading.Thread(target=wait, name="store-lock", daemon=True).start()
    if gained.wait(max(0.0, seconds)):
        return True
    with mutex:
        given_up = not gained.is_set()
    return not given_up
