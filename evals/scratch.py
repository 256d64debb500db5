"""Private folders of a running evaluation: copies of weights, a suite's files, harness logs.

They are removed when it ends, and by the next evaluation where it was killed: they may hold what is sealed elsewhere.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from registry.artifacts import remove_tree
from registry.workspace import Workspace


@contextmanager
def claim_scratch(ws: Workspace, prefix: str) -> Iterator[Path]:
    """Yield a new folder, mode 0700; first remove those whose process no longer lives."""
    parent = ws.work("evals", "scratch")
    for left in parent.iterdir():
        with suppress(OSError), _held(left):
            remove_tree(left)
    folder, lock = _claim(parent, prefix)
    try:
        yield folder
    finally:
        remove_tree(folder)
        os.close(lock)


def _claim(parent: Path, prefix: str) -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=parent))
        try:
            lock = _lock(folder)
        except OSError:  # another evaluation took the new folder for one that was left behind
            continue
        if folder.exists():
            return folder, lock
        os.close(lock)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    lock = _lock(folder)
    try:
        yield
    finally:
        os.close(lock)


def _lock(folder: Path) -> int:
    """Return a descriptor that holds a folder's lock; raises OSError where a living process holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
