"""What every engine child does alike: no telemetry, no network, a private socket, an end when its parent ends."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from registry.errors import Locked

QUIET: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Waiting OpenMP threads sleep. Spinning ones make a loaded machine ten times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Environment of every engine child."""

GRACE = 10.0
"""Seconds a child has to end by itself once its parent is gone."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def clear(path: Path) -> None:
    """Remove a socket that a dead process left behind; Locked when a living one answers there."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise Locked(f"another process listens on `{path}`", hint="stop it or choose another path")
        path.unlink()


def bind(path: Path) -> socket.socket:
    """Return a socket bound to `path`, for this user only; Locked when another process listens there."""
    clear(path)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    return listener


def end_with_parent() -> None:
    """Watch standard input, whose other end only the parent holds: at its end, end this process and its children."""
    threading.Thread(target=_watch, name="parent-watch", daemon=True).start()


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
