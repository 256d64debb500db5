"""A harness child's line to its parent: requests in, progress and results out as JSON lines."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from registry.errors import HallmarkError


class Link:
    """Writes messages to the parent; the process's own standard output now goes to standard error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)  # libraries that print must not break the JSON lines

    def send(self, type_: str, **fields: Any) -> None:
        """Send one message."""
        line = json.dumps({"type": type_, **fields}).encode() + b"\n"
        with self._lock:
            self._out.write(line)

    def progress(self, stage: str, done: float, total: float | None = None, note: str = "") -> None:
        """Report progress: a `registry.protocols.Progress`."""
        self.send("progress", stage=stage, done=done, total=total, note=note)


def serve(work: Callable[[dict[str, Any], Link], None]) -> None:
    """Do one child's work: read the request named on the command line, run, and say how it ended.

    An error of ours is sent as a message; any other crash ends the process with a traceback and status 1.
    """
    link = Link()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _answer(link, lambda: work(_opening(), link))


def serve_session(begin: Callable[[dict[str, Any], Link], Callable[[dict[str, Any]], None]]) -> None:
    """Do a session's work: `begin` gets the opening request and returns what answers each further one.

    The further requests are JSON lines on standard input. Each ends with a message `finished` or `failure`; after an
    error of ours the session goes on, any other crash ends the process. When the parent closes the input, or is gone,
    the process ends: at once if it is at work, as nobody waits for the result.
    """
    link = Link()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    idle = threading.Event()
    threading.Thread(target=_read_requests, args=(lines, idle), daemon=True).start()
    work: list[Callable[[dict[str, Any]], None]] = []
    if not _answer(link, lambda: work.append(begin(_opening(), link))):
        return
    for request in _requests(lines, idle):
        _answer(link, lambda request=request: work[0](request))  # type: ignore[misc]


def _opening() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return found


def _answer(link: Link, work: Callable[[], None]) -> bool:
    """Run one piece of work and say how it ended; return whether it ended well."""
    try:
        work()
    except HallmarkError as error:
        link.send("failure", error=type(error).__name__, message=error.message, hint=error.hint)
        return False
    link.send("finished")
    return True


def _requests(lines: queue.SimpleQueue[bytes], idle: threading.Event) -> Iterator[dict[str, Any]]:
    """Yield each request until the input is closed."""
    while True:
        idle.set()
        line = lines.get()
        if not line:
            return
        idle.clear()
        yield json.loads(line)


def _read_requests(lines: queue.SimpleQueue[bytes], idle: threading.Event) -> None:
    parts: list[bytes] = []
    while data := os.read(0, 1 << 16):
        *whole, rest = data.split(b"\n")
        for line in whole:
            lines.put(b"".join([*parts, line]))
            parts = []
        parts.append(rest)
    if not idle.is_set():
        os._exit(3)
    lines.put(b"")


def _end_with_parent() -> None:
    """Leave when the parent is gone: it holds our standard input open as long as it lives."""
    # The raw descriptor: a daemon thread inside `sys.stdin`'s lock would break the interpreter's shutdown.
    while os.read(0, 4096):
        pass
    os._exit(3)
