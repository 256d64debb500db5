"""The decision log: what the endpoint was asked and what it decided, into the journal, without the text itself.

A background thread writes: everything that queued up during one disk sync becomes durable in the next. In `strict` mode
the intent is durable before the first byte leaves and the outcome before the end mark; in `group` mode both follow
within the writer's window, and an intent whose outcome is written in the same batch is left out, since it would say
nothing more. When the journal cannot be written, records are kept and retried, and `healthy` turns false: the endpoint
then refuses requests. Refusals beyond what memory may hold meanwhile are counted, and the count is written later.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

log = logging.getLogger(__name__)

Mode = Literal["group", "strict"]
Append = Callable[[Sequence[tuple[str, str, dict[str, Any], str]]], Any]

DECISION, INTENT, UNLOGGED = "gateway.decision", "gateway.intent", "gateway.unlogged"
QUEUE_LIMIT = 50_000
BATCH = 2_000
RETRY_SECONDS = 1.0


class JournalDown(Exception):
    """A record that had to be durable is not: it stays queued, and the request it belongs to is refused."""


@dataclass(slots=True, eq=False)
class Entry:
    """One record on its way to disk; `waiter` is resolved when it is there. `moment` is of the monotonic clock."""

    kind: str
    subject: str
    body: dict[str, Any]
    moment: float
    waiter: asyncio.Future[None] | None


class DecisionLog:
    """Queues records from the event loop and writes them from its own thread."""

    def __init__(self, append: Append, *, endpoint: str, mode: Mode = "group", window_s: float = 0.02) -> None:
        self.mode: Mode = mode
        self.written = 0
        self.unlogged = 0
        """Refusals that are counted only, since the log was down and its queue full; 0 again once that is written."""
        self._append, self._actor, self._window_s = append, f"endpoint:{endpoint}", window_s
        self._endpoint = endpoint
        self._queue: deque[Entry] = deque()
        self._wake = threading.Event()
        self._awake = False
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

    @property
    def lag_s(self) -> float:
        """Seconds for which the oldest record that is not durable has waited."""
        try:
            return time.monotonic() - self._queue[0].moment
        except IndexError:
            return 0.0

    def intent(self, request_id: str, body: dict[str, Any]) -> asyncio.Future[None] | None:
        """Log that a request is about to reach the engine; in strict mode, return what to await until it is durable."""
        return self._put(INTENT, request_id, body)

    def outcome(self, request_id: str, body: dict[str, Any]) -> asyncio.Future[None] | None:
        """Log a decision; in strict mode, return what to await until it is durable (raises JournalDown)."""
        if self._failed and len(self._queue) >= QUEUE_LIMIT and body.get("status") != 200:
            self.unlogged += 1
            return None
        return self._put(DECISION, request_id, body)

    def close(self, timeout_s: float = 30.0) -> bool:
        """Write what waits, then stop; return whether all of it reached the disk."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._queue

    def _put(self, kind: str, subject: str, body: dict[str, Any]) -> asyncio.Future[None] | None:
        waiter = asyncio.get_running_loop().create_future() if self.mode == "strict" else None
        self._queue.append(Entry(kind, subject, body, time.monotonic(), waiter))
        if not self._awake:
            self._awake = True
            self._wake.set()
        return waiter

    def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing.is_set():
                    return
                self._wake.wait()
            if self.mode == "group" and not self._closing.is_set():
                time.sleep(self._window_s)
            self._wake.clear()
            self._awake = False  # whoever queues a record from here on wakes the next round
            if not self._write() and not self._pause_after_failure():
                return

    def _write(self) -> bool:
        batch = [self._queue[index] for index in range(min(BATCH, len(self._queue)))]
        if not batch:
            return True
        try:
            records = [(entry.kind, entry.subject, entry.body, self._actor) for entry in self._thin(batch)]
            try:
                self._append(records)
            except TypeError:  # no JSON: a name with half a surrogate pair must not stop the log
                self._append([(kind, subject, _writable(body), actor) for kind, subject, body, actor in records])
        except Exception:
            log.exception("cannot write %s decisions", len(batch))
            self._failed = True
            self._acknowledge(batch, JournalDown("the decision log cannot be written"))
            return False
        for _ in batch:
            self._queue.popleft()
        self.written += len(batch)
        if self._failed:
            self._failed = False
            self._tell_unlogged()
        self._acknowledge(batch, None)
        return True

    def _tell_unlogged(self) -> None:
        """Queue the number of refusals that were not kept one by one."""
        count, self.unlogged = self.unlogged, 0
        if count:
            log.error("%s refusals were not logged one by one while the decision log was down", count)
            body = {"endpoint": self._endpoint, "refusals": count}
            self._queue.append(Entry(UNLOGGED, self._endpoint, body, time.monotonic(), None))

    def _thin(self, batch: list[Entry]) -> list[Entry]:
        if self.mode == "strict":
            return batch
        decided = {entry.subject for entry in batch if entry.kind == DECISION}
        return [entry for entry in batch if entry.kind != INTENT or entry.subject not in decided]

    def _acknowledge(self, batch: list[Entry], error: Exception | None) -> None:
        waiters = [entry.waiter for entry in batch if entry.waiter is not None]
        for entry in batch:
            entry.waiter = None
        if waiters:
            with suppress(
                RuntimeError
            ):  # the loop is closed: nobody waits any more, and the rest is still to be written
                waiters[0].get_loop().call_soon_threadsafe(_resolve, waiters, error)

    def _pause_after_failure(self) -> bool:
        """Wait before the next try; return False when it was the last one of a closing log."""
        if self._closing.is_set():
            return self._write()
        self._closing.wait(RETRY_SECONDS)
        return True


def _writable(value: Any) -> Any:
    """Return plain data with what UTF-8 cannot write replaced by `?`."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    return [_writable(item) for item in value] if isinstance(value, list | tuple) else value


def _resolve(waiters: list[asyncio.Future[None]], error: Exception | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
