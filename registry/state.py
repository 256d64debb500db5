"""The few facts that compare-and-set needs, folded from the ordered records in memory: no DuckDB on the way.

Which assets there are, how many of each name, what each alias points at, the newest time. A process starts from the
projection and follows `order.log` from there; every process that follows it has the same state.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from registry.ingest import check_length, check_mark, read_progress
from registry.order import NAME, Progress, follow
from registry.segment import Chunk, scan


class State:
    """Facts as of `progress`; read it under the store's lock, after `Store.state()`."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress or Progress()
        self.assets: dict[str, tuple[str, str, int]] = {}
        """Asset id to (kind, name, number)."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """(kind, name) to how many assets there are of it."""
        self.aliases: dict[str, dict[str, Any]] = {}
        """Alias to the body of its newest `alias.moved`, with that event's `actor` and `ts`."""
        self.newest = ""
        """The largest time of any record (ISO 8601, UTC, microseconds); empty where there is none."""

    @classmethod
    def load(cls, connection: Any) -> State:
        """Return the state of a projection file, from the columns it needs."""
        state = cls(read_progress(connection)[0])
        for ident, kind, name, number in connection.execute("SELECT id, kind, name, number FROM asset").fetchall():
            state.assets[ident] = (kind, name, number)
            state.counts[kind, name] += 1
        moved = connection.execute(
            "SELECT subject, arg_max(body, seq), arg_max(actor, seq), arg_max(ts, seq) FROM event"
            " WHERE kind = 'alias.moved' GROUP BY subject"
        ).fetchall()
        for alias, body, actor, ts in moved:
            state.aliases[alias] = {**orjson.loads(body), "actor": actor, "ts": ts}
        state.newest = connection.execute("SELECT coalesce(max(ts), '') FROM event").fetchone()[0]
        return state

    def follow(self, journal: Path, workspace: str) -> None:
        """Take in what the order has gained. Raises Tampered; the state is then to be thrown away."""
        for batch in follow(journal / NAME, self.progress.copy()):
            path, mark = journal / f"{batch.segment}.seg", self.progress.mark(batch.segment)
            check_length(path, batch.mark.end)
            for chunk in scan(path, mark, stop=batch.mark.end, workspace=workspace):
                self.fold(chunk)
                mark = chunk.mark
            check_mark(path, mark, batch)
            self.progress.marks[batch.segment], self.progress.offset = mark, batch.offset

    def fold(self, chunk: Chunk) -> None:
        """Take in a chunk of records, in order."""
        self.newest = max(self.newest, *chunk.times)
        for index, kind in enumerate(chunk.kinds):
            if kind == "asset.registered":
                body = chunk.bodies[index]
                self.assets[chunk.subjects[index]] = (body["kind"], body["name"], body["number"])
                self.counts[body["kind"], body["name"]] += 1
            elif kind == "alias.moved":
                moved = {**chunk.bodies[index], "actor": chunk.actors[index], "ts": chunk.times[index]}
                self.aliases[chunk.subjects[index]] = moved
