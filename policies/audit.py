"""The decision log: what the endpoint was asked and what it decided, into the journal, without the text itself.

A background thread writes: everything that queued up during one disk sync becomes durable in the next. In `strict` mode
the intent is durable before the first byte leaves and the outcome before the end mark; in `group` mode both follow
within the writer's window, and an intent whose outcome is written in the same batch is left out, since it would say
nothing more. When the journal cannot be written, records are kept and retried, and `healthy` turns false: the endpoint
then refuses requests.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

log = logging.getLogger(__name__)

Mode = Literal["group", "strict"]
Append = Callable[[Sequence[tuple[str, str, dict[str, Any], str]]], Any]

DECISION, INTENT = "gateway.decision", "gateway.intent"
QUEUE_LIMIT = 50_000
BATCH = 2_000


class JournalDown(Exception):
    """A record that had to be durable is not: it stays queued, and the request it belongs to is refused."""


@dataclass(slots=True, eq=False)
class Entry:
    """One record on its way to disk; `waiter` is resolved when it is there."""

    kind: str
    subject: str
    body: dict[str, Any]
    waiter: asyncio.Future[None] | None = field(default=None)


class DecisionLog:
    """Queues records from the event loop and writes them from its own thread."""

    def __init__(self, append: Append, *, endpoint: str, mode: Mode = "group", window_s: float = 0.02) -> None:
        self.mode: Mode = mode
        self.written = 0
        self._append, self._actor, self._window_s = append, f"endpoint:{endpoint}", window_s
        self._queue: deque[Entry] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="decision-log", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether records reach the disk: False after a failed write, and when too many wait."""
        return not self._failed and len(self._queue) < QUEUE_LIMIT and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Records that are not durable yet."""
        return len(self._queue)

    def intent(self, request_id: str, body: dict[str, Any]) -> asyncio.Future[None] | None:
        """Log that a request is about to reach the engine; in strict mode, return what to await until it is durable."""
        return self._put(Entry(INTENT, request_id, body))

    def outcome(self, request_id: str, body: dict[str, Any]) -> asyncio.Future[None] | None:
        """Log a decision; in strict mode, return what to await until it is durable (raises JournalDown)."""
        return self._put(Entry(DECISION, request_id, body))

    def close(self, timeout_s: float = 30.0) -> bool:
        """Write what waits, then stop; return whether all of it reached the disk."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._queue

    def _put(self, entry: Entry) -> asyncio.Future[None] | None:
        waiter = None
        if self.mode == "strict":
            waiter = entry.waiter = asyncio.get_running_loop().create_future()
        self._queue.append(entry)
        if not self._wake.is_set():
            self._wake.set()
        return waiter

    def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing.is_set():
                    return
                self._wake.wait()
                self._wake.clear()
            if self.mode == "group" and not self._closing.is_set():
                time.sleep(self._window_s)
                self._wake.clear()
            if not self._write() and not self._pause_after_failure():
                return

    def _write(self) -> bool:
        batch = [self._queue[index] for index in range(min(BATCH, len(self._queue)))]
        if not batch:
            return True
        try:
            self._append([(entry.kind, entry.subject, entry.body, self._actor) for entry in self._thin(batch)])
        except Exception:
            log.exception("cannot write %s decisions", len(batch))
            self._failed = True
            self._acknowledge(batch, JournalDown("the decision log cannot be written"))
            return False
        for _ in batch:
            self._queue.popleft()
        self._failed = False
        self.written += len(batch)
        self._acknowledge(batch, None)
        return True

    def _thin(self, batch: list[Entry]) -> list[Entry]:
        if self.mode == "strict":
            return batch
        decided = {entry.subject for entry in batch if entry.kind == DECISION}
        return [entry for entry in batch if entry.kind == DECISION or entry.subject not in decided]

    def _acknowledge(self, batch: list[Entry], error: Exception | None) -> None:
        waiters = [entry.waiter for entry in batch if entry.waiter is not None]
        for entry in batch:
            entry.waiter = None
        if waiters:
            waiters[0].get_loop().call_soon_threadsafe(_resolve, waiters, error)

    def _pause_after_failure(self) -> bool:
        """Wait before the next try; return False when it was the last one of a closing log."""
        if self._closing.is_set():
            return self._write()
        self._closing.wait(1.0)
        return True


def _resolve(waiters: list[asyncio.Future[None]], error: Exception | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
