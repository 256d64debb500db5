"""Adds in flight: what keeps a collector's hands off objects that are stored but not yet named by an event.

A process that adds holds a lease, a locked file as old as its first add; a collector spares everything that was touched
since the oldest living lease began. A gate lets an add touch an object it found, or a collector delete it, never both.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEASE = "lease-"


class InFlight:
    """The gate and the leases under `folder`, one object per opened store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mutex = threading.Lock()
        self._lease: int | None = None

    @contextmanager
    def gate(self, *, collecting: bool = False) -> Iterator[None]:
        """Hold the gate: shared while an add gives an object its name or touches it, alone while one is deleted."""
        descriptor = os.open(self.folder / "gate", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if collecting else fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def begin(self) -> None:
        """Take this process's lease, once; it ends with the process, or when the store object goes."""
        with self._mutex:
            if self._lease is not None:
                return
            with self.gate():  # a collector must not find the lease before it is locked
                path = self.folder / f"{LEASE}{os.getpid()}-{secrets.token_hex(8)}"
                self._lease = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._lease, fcntl.LOCK_EX)
            self._finish = weakref.finalize(self, _end, self._lease, path, os.getpid())

    def end(self) -> None:
        """Give the lease up early: everything this store object added is named by events now, or is not wanted."""
        with self._mutex:
            if self._lease is not None:
                self._finish()
                self._lease = None

    def now(self) -> float:
        """Return the file system's own time in seconds, by touching a file: comparable with other files' times."""
        path = self.folder / f"clock-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            path.touch(exist_ok=False)
            return path.stat().st_mtime
        finally:
            path.unlink(missing_ok=True)

    def oldest(self) -> float | None:
        """Return when the oldest living lease began, in seconds; None where nobody holds one.

        Leases whose process has gone are removed.
        """
        begun = []
        with self.gate(collecting=True):
            for path in self.folder.glob(f"{LEASE}*"):
                try:
                    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)
                except BlockingIOError:
                    begun.append(os.fstat(descriptor).st_mtime)
                finally:
                    os.close(descriptor)
        return min(begun, default=None)


def _end(descriptor: int, path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child shares the lock; its parent ends it
        path.unlink(missing_ok=True)
    os.close(descriptor)
