"""Private folders of a running endpoint: removed when it ends, and by the next one after a kill."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.artifacts import remove_tree

LONGEST = 60
"""Bytes a temporary folder's path may have, so that a Unix socket in it stays below the kernel's 107."""


@contextmanager
def claim_scratch(parent: Path) -> Iterator[Path]:
    """Yield a new folder, mode 0700, under `parent`; first remove those whose process no longer lives."""
    for left in parent.iterdir():
        with contextlib.suppress(OSError), _claimed(left):
            remove_tree(left)
    folder = Path(tempfile.mkdtemp(prefix="endpoint-", dir=parent))
    with _claimed(folder):
        try:
            yield folder
        finally:
            remove_tree(folder)


@contextmanager
def socket_folder() -> Iterator[Path]:
    """Yield a private folder, mode 0700, with a path short enough for a Unix socket."""
    base = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="hallmark-", dir=base if len(base) <= LONGEST else "/tmp"))  # noqa: S108
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; raises OSError when a living process holds it. The kernel frees it when its holder dies."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
