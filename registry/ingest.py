"""Moves what `order.log` names into a projection file: rows, tree and progress of a batch in one transaction."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from registry.artifacts import Artifacts
from registry.errors import Tampered
from registry.merkle import Frontier
from registry.order import NAME, Batch, Progress, follow
from registry.projection import Intake, extended
from registry.segment import Mark, scan

BATCH = 50_000
"""Records moved per transaction, at least, where there are more."""


class Ingest:
    """Brings the projection behind an open DuckDB connection up to `order.log`; use it once."""

    def __init__(self, connection: Any, journal: Path, workspace: str, artifacts: Artifacts) -> None:
        self.connection, self.journal, self.workspace, self.artifacts = connection, journal, workspace, artifacts
        self.progress, self.tree = read_progress(connection)
        self._pool: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def run(self) -> tuple[Progress, int]:
        """Ingest; return how far and how many events there are now.

        Raises Tampered when a segment is not what was ordered; batches before it are kept.
        """
        intake = Intake(self.tree.size + 1)
        try:
            for batch in follow(self.journal / NAME, self.progress.copy()):
                self._take(batch, intake)
                if len(intake) >= BATCH:  # write it while the next batch is read
                    self._write_behind(intake)
                    intake = Intake(self.tree.size + 1)
            self._wait()
            if len(intake):
                self._write(intake, self.progress, self.tree)
        finally:
            if self._pool:
                self._pool.shutdown(wait=True)
        return self.progress, self.tree.size

    def _take(self, batch: Batch, intake: Intake) -> None:
        path, mark = self.journal / f"{batch.segment}.seg", self.progress.mark(batch.segment)
        check_length(path, batch.mark.end)
        leaves: list[bytes] = []
        for chunk in scan(path, mark, stop=batch.mark.end, workspace=self.workspace):
            leaves += intake.add(batch.segment, chunk)
            mark = chunk.mark
        check_mark(path, mark, batch)
        self.tree = extended(self.tree, leaves)
        self.progress.marks[batch.segment], self.progress.offset = mark, batch.offset

    def _write_behind(self, intake: Intake) -> None:
        self._wait()
        self._pool = self._pool or ThreadPoolExecutor(1, "ingest")
        self._pending = self._pool.submit(self._write, intake, self.progress.copy(), self.tree)

    def _wait(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def _write(self, intake: Intake, progress: Progress, tree: Frontier) -> None:
        connection = self.connection
        connection.execute("BEGIN")
        try:
            intake.insert(connection, self.artifacts)
            offsets = [
                (name, mark.end, mark.count, mark.hash, tree.size)
                for name, mark in progress.marks.items() if name in intake.segments
            ]  # fmt: skip
            connection.executemany("INSERT INTO seg_offset VALUES (?, ?, ?, ?, ?)", offsets)
            connection.execute("INSERT INTO tree VALUES (?, ?, ?)", [tree.size, b"".join(tree.peaks), progress.offset])
            connection.execute("COMMIT")
        except BaseException:
            with suppress(Exception):  # the failure that matters is already on its way
                connection.execute("ROLLBACK")
            raise


def read_progress(connection: Any) -> tuple[Progress, Frontier]:
    """Return how far a projection file has followed the order, and the tree over its events."""
    rows = connection.execute(
        "SELECT segment, max(upto), arg_max(records, upto), arg_max(hash, upto) FROM seg_offset GROUP BY segment"
    ).fetchall()
    last = connection.execute("SELECT size, frontier, ordered FROM tree ORDER BY size DESC LIMIT 1").fetchone()
    size, frontier, ordered = last or (0, b"", 0)
    tree = Frontier(size, [frontier[at : at + 32] for at in range(0, len(frontier), 32)])
    return Progress(ordered, {row[0]: Mark(*row[1:]) for row in rows}), tree


def check_length(path: Path, wanted: int) -> None:
    """Raise Tampered for a segment that ends before a byte that has its place in the order."""
    if not path.exists():
        raise Tampered(f"journal segment `{path.name}` is missing", hint="restore the segment from a copy")
    if path.stat().st_size < wanted:
        raise Tampered(
            f"journal segment `{path.name}` is shorter than the {wanted} bytes that were ingested",
            hint="restore the segment from a copy",
        )


def check_mark(path: Path, mark: Mark, batch: Batch) -> None:
    """Raise Tampered unless reading a batch ended where, and with the record that, `order.log` says."""
    if mark.end != batch.mark.end or (batch.mark.hash and mark.hash != batch.mark.hash):
        raise Tampered(
            f"journal segment `{path.name}` is not what was ordered up to byte {batch.mark.end}",
            hint="restore the segment and `order.log` from the same copy",
        )
