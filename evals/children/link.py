"""A harness child's line to its parent: the request in, progress and results out as JSON lines."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
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
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        work(request, link)
    except HallmarkError as error:
        link.send("failure", error=type(error).__name__, message=error.message, hint=error.hint)
    else:
        link.send("finished")


def _end_with_parent() -> None:
    """Leave when the parent is gone: it holds our standard input open as long as it lives."""
    # The raw descriptor: a daemon thread inside `sys.stdin`'s lock would break the interpreter's shutdown.
    while os.read(0, 4096):
        pass
    os._exit(3)
