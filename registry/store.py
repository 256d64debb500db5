"""The DuckDB projection of the journal: ingested exactly once under a file lock, read from a published snapshot.

`order.log` names every batch before it is committed, so a rebuild ingests the same records in the same order.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson

from registry.artifacts import Artifacts, replace_file, sync_folder
from registry.errors import HallmarkError, Locked, Tampered
from registry.journal import Journal, read_order, read_segment
from registry.records import Event

BATCH = 20_000
"""Records moved per DuckDB transaction."""
FEW = 64
"""Below this many rows, plain inserts are quicker than importing Arrow."""


class Store:
    """The projection under `root`. `wait` is how many seconds to wait for another process's lock."""

    def __init__(self, root: Path, journal: Journal, artifacts: Artifacts, wait: float = 20.0) -> None:
        self.root, self.journal, self.artifacts, self.wait = root, journal, artifacts, wait
        self._held = threading.RLock()
        self._depth = 0

    @property
    def database(self) -> Path:
        """The writer's file."""
        return self.root / "hallmark.duckdb"

    @property
    def snapshot(self) -> Path:
        """The readers' file, replaced atomically."""
        return self.root / "snapshot.duckdb"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store against every other process and thread; nests within a thread. Raises Locked."""
        with self._held:
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            descriptor = self._take()
            self._depth = 1
            try:
                yield
            finally:
                self._depth = 0
                os.close(descriptor)

    def sync(self) -> None:
        """Ingest what the journal has and publish a snapshot. Raises Locked, or Tampered for a broken journal."""
        if not self._behind():
            return
        with self.lock():
            self._ingest()

    def rebuild(self) -> int:
        """Drop the projection and make it again from journal and `order.log`; return the number of events."""
        with self.lock():
            for path in (self.database, self.snapshot, self._marker):
                path.unlink(missing_ok=True)
            Path(f"{self.database}.wal").unlink(missing_ok=True)
            self._ingest()
        return int(self.query("SELECT count(*) AS n FROM event")[0]["n"])

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Return rows as dicts, after ingesting the journal's tail."""
        self.sync()
        with self._connect(self.snapshot, read_only=True) as connection:
            found = connection.execute(sql, list(params))
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def arrow(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """Return a pyarrow Table, after ingesting the journal's tail."""
        self.sync()
        with self._connect(self.snapshot, read_only=True) as connection:
            return connection.sql(sql, params=list(params)).to_arrow_table()

    @property
    def _marker(self) -> Path:
        return self.root / "ingested.json"

    def _take(self) -> int:
        path = self.root / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + self.wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                    os.close(descriptor)
                    raise Locked(
                        f"the store is locked by another process (pid {holder})",
                        hint="wait for it to finish, or end it; nothing was changed",
                    ) from None
                time.sleep(0.02)
            else:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return descriptor

    def _behind(self) -> bool:
        try:
            known = orjson.loads(self._marker.read_bytes())
        except FileNotFoundError:
            return True
        sizes = {path.stem: path.stat().st_size for path in self.journal.segments()}
        return bool(sizes != known or not self.snapshot.exists())

    @contextmanager
    def _connect(self, path: Path, *, read_only: bool) -> Iterator[Any]:
        import duckdb

        config = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false", "threads": "2"}
        try:
            connection = duckdb.connect(str(path), read_only=read_only, config=config)
        except duckdb.Error as error:
            raise HallmarkError(
                f"cannot open the projection: {str(error).splitlines()[0]}", hint="run `hallmark store rebuild`"
            ) from error
        try:
            yield connection
        finally:
            connection.close()

    def _create(self) -> None:
        import duckdb

        temporary = self.root / f".new-{os.getpid()}.duckdb"
        temporary.unlink(missing_ok=True)
        schema = files("registry").joinpath("schema.sql").read_text(encoding="utf-8")
        connection = duckdb.connect(":memory:")
        try:
            connection.execute(f"ATTACH '{temporary}' AS made (STORAGE_VERSION 'v1.5.0')")
            connection.execute("USE made")
            connection.execute(schema)
            connection.execute("USE memory")
            connection.execute("DETACH made")
        finally:
            connection.close()
        temporary.replace(self.database)
        sync_folder(self.root)

    def _ingest(self) -> None:
        if not self.database.exists():
            self._create()
        with self._connect(self.database, read_only=False) as connection:
            rows = connection.execute(
                "SELECT segment, max(upto), arg_max(hash, upto) FROM seg_offset GROUP BY segment"
            ).fetchall()
            done = {row[0]: (row[1], row[2]) for row in rows}
            for segment, start, stop in self._batches(done):
                batch_end = self._move(connection, segment, start, stop, done.get(segment, (0, None))[1])
                done[segment] = batch_end
        self._publish({segment: upto for segment, (upto, _) in done.items()})

    def _batches(self, done: dict[str, tuple[int, str]]) -> Iterator[tuple[str, int, int]]:
        """Yield (segment, from, to): first what `order.log` already promised, then the journal's new tail."""
        order = self.journal.root / "order.log"
        _cut_torn_line(order)
        for entry in read_order(order):
            if entry["to"] > done.get(entry["segment"], (0, ""))[0]:
                self._check_length(entry)
                yield entry["segment"], entry["from"], entry["to"]
        for path in self.journal.segments():
            start = done.get(path.stem, (0, ""))[0]
            while stop := _batch_end(path, start, done.get(path.stem, (0, None))[1]):
                _make_durable(path)
                with order.open("ab") as log:
                    log.write(orjson.dumps({"segment": path.stem, "from": start, "to": stop}) + b"\n")
                    log.flush()
                    os.fsync(log.fileno())
                yield path.stem, start, stop
                start = stop

    def _check_length(self, entry: dict[str, Any]) -> None:
        path = self.journal.root / f"{entry['segment']}.seg"
        if not path.exists() or path.stat().st_size < entry["to"]:
            raise Tampered(
                f"journal segment `{path.name}` is shorter than the {entry['to']} bytes that were ingested",
                hint="restore the segment from a copy",
            )

    def _move(self, connection: Any, segment: str, start: int, stop: int, prev: str | None) -> tuple[int, str]:
        """Ingest one batch and its offset in one transaction; return the new offset and the last hash."""
        frames = list(read_segment(self.journal.root / f"{segment}.seg", start, prev=prev, stop=stop))
        first = int(connection.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0]) + 1
        numbered = [(first + index, frame.event) for index, frame in enumerate(frames)]
        end = (frames[-1].end, frames[-1].event.hash)
        connection.execute("BEGIN")
        try:
            self._insert(connection, numbered)
            connection.execute("INSERT INTO seg_offset VALUES (?, ?, ?, ?)", [segment, end[0], end[1], numbered[-1][0]])
            connection.execute("COMMIT")
        except BaseException:
            with suppress(Exception):  # the failure that matters is already on its way
                connection.execute("ROLLBACK")
            raise
        return end

    def _insert(self, connection: Any, numbered: list[tuple[int, Event]]) -> None:
        from registry.projection import project, sample_tables

        for table, rows in project(numbered).items():
            _insert_rows(connection, table, rows)
        for samples in sample_tables(numbered, self.artifacts):
            connection.register("incoming", samples)
            connection.execute(
                "INSERT INTO sample_result"
                " SELECT eval_run, sample_id, kpi, epoch, value, weight, cluster, error, detail FROM incoming"
            )
            connection.unregister("incoming")

    def _publish(self, offsets: dict[str, int]) -> None:
        temporary = self.root / f".snapshot-{os.getpid()}"
        shutil.copyfile(self.database, temporary)
        temporary.replace(self.snapshot)
        replace_file(self._marker, orjson.dumps(offsets))


def _insert_rows(connection: Any, table: str, rows: list[tuple[Any, ...]]) -> None:
    """Insert rows in order: one by one where they are few, through Arrow (whose import costs more) where many."""
    names = [row[1] for row in connection.execute(f"PRAGMA table_info('{table}')").fetchall()]
    if len(rows) < FEW:
        marks = ", ".join("?" for _ in names)
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608 (our own names)
        return
    import pyarrow as pa

    columns = {name: pa.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    connection.register("incoming", pa.table(columns))
    connection.execute(f"INSERT INTO {table} SELECT {', '.join(names)} FROM incoming")  # noqa: S608 (our own names)
    connection.unregister("incoming")


def _make_durable(path: Path) -> None:
    """Sync a segment another process may still be syncing: nothing is ingested that a power cut could take back."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _cut_torn_line(order: Path) -> None:
    """Remove a line of `order.log` that a crash left unfinished: its batch was never committed."""
    if not order.exists():
        return
    data = order.read_bytes()
    if data and not data.endswith(b"\n"):
        with order.open("r+b") as log:
            log.truncate(data.rfind(b"\n") + 1)


def _batch_end(path: Path, start: int, prev: str | None) -> int:
    """Return the end of the next batch of whole records after `start`; 0 where there is none."""
    end = 0
    for count, frame in enumerate(read_segment(path, start, prev=prev), 1):
        end = frame.end
        if count >= BATCH:
            break
    return end
