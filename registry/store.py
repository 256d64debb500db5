"""The DuckDB projection of the journal: ordered and ingested once under a file lock, read from its current file.

`order.log` names every batch before anything is built on it, so a rebuild ingests the same records in the same order.
No connection outlives a call, or the block that asked for it to be kept.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from registry.artifacts import Artifacts
from registry.errors import HallmarkError, Locked
from registry.ingest import Ingest, check_length, read_progress
from registry.instance import opened
from registry.journal import Journal
from registry.lock import FileLock
from registry.order import NAME, Batch, Progress, cut_torn_line, extend, follow
from registry.pair import Pair
from registry.segment import scan
from registry.state import State

T = TypeVar("T")
RETRY_S = 0.002
OLD_FILES = ("hallmark.duckdb", "hallmark.duckdb.wal", "snapshot.duckdb", "ingested.json")
"""What release 0.1 kept here; all of it can be made again."""


class Damaged(HallmarkError):
    """A projection file that DuckDB cannot open."""


class Store:
    """The projection under `root`. `wait` is how many seconds to wait for another process's lock."""

    def __init__(self, root: Path, journal: Journal, artifacts: Artifacts, wait: float = 20.0) -> None:
        self.root, self.journal, self.artifacts, self.wait = root, journal, artifacts, wait
        self.pair = Pair(root)
        self._lock = FileLock(root / "lock")
        self._held = threading.RLock()
        self._depth = 0
        self._ordered: Progress | None = None
        self._state: State | None = None
        self._kept = threading.local()

    @property
    def current(self) -> Path | None:
        """The projection file that readers open now; None before the first ingest."""
        pointer = self.pair.pointer()
        return self.pair.path(pointer.current) if pointer else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store against every other process and thread; nests within a thread. Raises Locked."""
        if not self._held.acquire(timeout=self.wait):
            raise Locked(
                f"the store is locked by another thread of this process (pid {os.getpid()})",
                hint="wait for it to finish; nothing was changed",
            )
        try:
            descriptor = None if self._depth else self._lock.acquire(self.wait)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if descriptor is not None:
                    os.close(descriptor)
        finally:
            self._held.release()

    # ---- order and state ---------------------------------------------------------------------------------------

    def order(self) -> Progress:
        """Give the whole records that have none yet their place in `order.log`; return how far the order goes.

        They are on disk before they have it, and one sync makes all of it durable. No DuckDB is involved.
        Raises Locked, or Tampered for a journal or `order.log` that is not what was ordered before.
        """
        with self.lock():
            known, self._ordered = self._ordered or self._progress(), None
            path = self.journal.root / NAME
            if (path.stat().st_size if path.exists() else 0) != known.offset:
                cut_torn_line(path)
                for _ in follow(path, known):
                    pass
            segments = self.journal.segments()
            batches = [batch for segment in segments if (batch := self._tail(segment, known))]
            for name in known.marks.keys() - {segment.stem for segment in segments}:
                check_length(self.journal.root / f"{name}.seg", known.mark(name).end)
            if batches:
                extend(path, batches)
                for _ in follow(path, known):
                    pass
            self._ordered = known
            return known

    def state(self) -> State:
        """Return the facts as of now, with every record ordered first; call and read it under `lock()`.

        The first call in a process reads them from the projection, later ones only what was recorded since.
        """
        with self.lock():
            ordered = self.order()
            state, self._state = self._state, None
            if state is None:
                if self._lags(ordered):
                    self._ingest()
                state = self._read(State.load) if self.pair.pointer() else State()
            if state.progress.offset != ordered.offset:
                state.follow(self.journal.root, self.journal.workspace_id)
            self._state = state
            return state

    # ---- the projection ----------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Ingest what the journal has and make it what readers see. Raises Locked, or Tampered for a broken journal."""
        sizes = self._sizes()
        if self._covers(sizes):
            return
        with self.lock():
            if not self._covers(sizes):  # someone else may have done it while this one waited
                self.order()
                self._ingest()

    def rebuild(self) -> int:
        """Make the projection again from journal and `order.log`; return the number of events.

        Readers keep the old one until it is done.
        """
        with self.lock():
            self._ordered = self._state = None
            self.order()
            return self._ingest(fresh=True)

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Return rows as dicts, after ingesting the journal's tail."""

        def rows(connection: Any) -> list[dict[str, Any]]:
            found = connection.execute(sql, list(params))
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

        self.sync()
        return self._read(rows)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep the current file open for this thread's queries within a block: opening it costs more than most of them.

        They see what they would without: after something was recorded, the file that holds it is opened instead.
        """
        if getattr(self._kept, "stack", None) is not None:
            yield
            return
        with ExitStack() as self._kept.stack:
            self._kept.path = self._kept.connection = None
            try:
                yield
            finally:
                self._kept.stack, stack = None, self._kept.stack
                stack.close()

    def arrow(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """Return a pyarrow Table, after ingesting the journal's tail."""
        self.sync()
        return self._read(lambda connection: connection.sql(sql, params=list(params)).to_arrow_table())

    # ---- the log's tree ----------------------------------------------------------------------------------------

    def leaves(self, start: int = 0, stop: int | None = None) -> list[bytes]:
        """Return the 32-byte leaf hashes of records `start` to `stop` (counted from 0, `stop` left out), in order."""
        upto = (1 << 62) if stop is None else stop
        sql = "SELECT leaf FROM event WHERE seq > ? AND seq <= ? ORDER BY seq"
        self.sync()
        return self._read(lambda connection: [row[0] for row in connection.execute(sql, [start, upto]).fetchall()])

    def size(self) -> int:
        """Return how many records the log has, after ingesting the journal's tail."""
        return self.frontier()[0]

    def frontier(self) -> tuple[int, list[bytes]]:
        """Return the tree's size and the roots of its full subtrees, largest first (RFC 6962 decomposition)."""
        self.sync()
        tree = self._read(lambda connection: read_progress(connection)[1])
        return tree.size, tree.peaks

    # ---- how ---------------------------------------------------------------------------------------------------

    def _sizes(self) -> dict[str, int]:
        return {path.stem: path.stat().st_size for path in self.journal.segments()}

    def _covers(self, sizes: dict[str, int]) -> bool:
        """Say whether the current file holds the journal up to these sizes."""
        pointer = self.pair.pointer()
        if pointer is None:
            return False
        marks = pointer.progress.marks
        return marks.keys() <= sizes.keys() and all(pointer.progress.mark(k).end >= v for k, v in sizes.items())

    def _progress(self) -> Progress:
        pointer = self.pair.pointer()
        return pointer.progress if pointer else Progress()

    def _lags(self, ordered: Progress) -> bool:
        """Say whether ingesting now is cheaper than folding what the projection lacks."""
        return ordered.bytes() - self._progress().bytes() > (1 << 20)

    def _tail(self, path: Path, known: Progress) -> Batch | None:
        """Return the whole records of a segment that have no place in the order yet, durable by now."""
        mark = start = known.mark(path.stem)
        size = path.stat().st_size
        if size < mark.end:
            check_length(path, mark.end)
        if size == mark.end:
            return None
        for chunk in scan(path, mark, workspace=self.journal.workspace_id):
            mark = chunk.mark
        if mark.end == start.end:
            return None
        if self.journal.durable(path.stem) < mark.end:
            _make_durable(path)
        return Batch(path.stem, start.end, mark)

    def _ingest(self, *, fresh: bool = False) -> int:
        """Bring the file that is not current up to the order and make it current; return the number of events."""
        import duckdb

        try:
            try:
                return self._move(fresh=fresh)
            except Damaged:  # it was dropped: now from a copy of the current file
                return self._move(fresh=fresh)
        except (OSError, duckdb.Error) as error:
            raise HallmarkError(
                f"cannot write the projection: {str(error).splitlines()[0]}",
                hint=f"make `{self.root}` writable, or free its disk; no record was lost",
            ) from error

    def _move(self, *, fresh: bool) -> int:
        with self.pair.writing(fresh=fresh) as (path, pointer):
            if not path.exists():
                _create(path)
            try:
                with _connect(path, read_only=False) as connection:
                    work = Ingest(connection, self.journal.root, self.journal.workspace_id, self.artifacts)
                    progress, size = work.run()
            except Damaged:
                self.pair.forget(path)
                raise
            self.pair.flip(path, progress, size, pointer)
            return size

    def _read(self, work: Callable[[Any], T]) -> T:
        """Do work on a read-only connection to the current file: the one kept open, else one for this work alone."""
        stack = getattr(self._kept, "stack", None)
        if stack is None:
            with ExitStack() as alone:
                return work(self._open(alone)[1])
        if self._kept.path is None or self._kept.path != self.current:
            stack.close()
            self._kept.path = None
            self._kept.path, self._kept.connection = self._open(stack)
        return work(self._kept.connection)

    def _open(self, stack: ExitStack) -> tuple[Path, Any]:
        """Open the current file until `stack` closes; again where it flipped meanwhile."""
        deadline = time.monotonic() + self.wait
        while True:
            with ExitStack() as attempt:
                path = attempt.enter_context(self.pair.reading())
                if path is not None:
                    connection = attempt.enter_context(_connect(path, read_only=True))
                    stack.push(attempt.pop_all())
                    return path, connection
            if self.pair.pointer() is None:
                self.sync()
            if time.monotonic() > deadline:
                raise Locked("the projection changes too fast to be read", hint="try again")
            time.sleep(RETRY_S)


@contextmanager
def _connect(path: Path, *, read_only: bool) -> Iterator[Any]:
    import duckdb

    with ExitStack() as stack:
        try:
            connection = stack.enter_context(opened(path, read_only=read_only))
        except duckdb.Error as error:
            raise Damaged(
                f"cannot open the projection: {str(error).splitlines()[0]}", hint="run `hallmark store rebuild`"
            ) from error
        yield connection


def _create(path: Path) -> None:
    """Make an empty projection in the storage format that DuckDB 1.5 reads as well."""
    import duckdb

    schema = files("registry").joinpath("schema.sql").read_text(encoding="utf-8")
    temporary = path.with_name(f".copy-{os.getpid()}")
    for stale in (temporary, *(path.with_name(name) for name in OLD_FILES)):
        stale.unlink(missing_ok=True)
    connection = duckdb.connect(":memory:")
    try:
        connection.execute(
            f"ATTACH '{str(temporary).replace(chr(39), chr(39) * 2)}' AS made (STORAGE_VERSION 'v1.5.0')"
        )
        connection.execute("USE made")
        connection.execute(schema)
        connection.execute("USE memory")
        connection.execute("DETACH made")
    finally:
        connection.close()
    temporary.replace(path)


def _make_durable(path: Path) -> None:
    """Sync a segment another process may still be syncing: nothing is ordered that a power cut could take back."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
