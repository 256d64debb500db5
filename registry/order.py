"""`order.log`: which bytes of which segment come next in the one order of all records, one JSON line a batch.

A line is durable before anything is built on it, so every rebuild takes the same records in the same order. Only the
holder of the store's lock writes. A line that a crash left unfinished promised nothing and is cut; any other damage is
found.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from registry.artifacts import sync_folder
from registry.errors import HallmarkError, Tampered
from registry.segment import START, Mark

NAME = "order.log"
BLOCK = 1 << 16


@dataclass(slots=True)
class Progress:
    """How far the order was followed: bytes of `order.log`, and the mark of every segment."""

    offset: int = 0
    marks: dict[str, Mark] = field(default_factory=dict)

    def mark(self, segment: str) -> Mark:
        """Return how far a segment has its place in the order."""
        return self.marks.get(segment, START)

    def bytes(self) -> int:
        """Return how many bytes of all segments have their place."""
        return sum(mark.end for mark in self.marks.values())

    def copy(self) -> Progress:
        """Return an independent copy."""
        return Progress(self.offset, dict(self.marks))


@dataclass(frozen=True, slots=True)
class Batch:
    """One line: bytes `start` to `mark.end` of a segment; `offset` is where the line ends in `order.log`."""

    segment: str
    start: int
    mark: Mark
    offset: int = 0


def follow(path: Path, progress: Progress) -> Iterator[Batch]:
    """Yield the batches after `progress`, in order, and move it along with each; an unfinished last line is left out.

    Raises Tampered for a line that is no batch, that overlaps what came before it or leaves a gap, or an `order.log`
    that is shorter than what was read from it before.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < progress.offset:
                raise _damaged(path, f"is shorter than the {progress.offset} bytes that were read from it")
            file.seek(progress.offset)
            data = file.read()
    except FileNotFoundError:
        if progress.offset:
            raise _damaged(path, "is missing") from None
        return
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        place, end = progress.offset, progress.offset + len(line)
        try:
            value = orjson.loads(line)
            segment, start = str(value["segment"]), int(value["from"])
            mark = Mark(int(value["to"]), int(value.get("count", -1)), str(value.get("hash", "")))
        except (ValueError, KeyError, TypeError):
            raise _damaged(path, f"is damaged at byte {place}: the line is no batch") from None
        known = progress.mark(segment).end
        if start != known or mark.end <= start:
            why = "overlaps" if start < known else "leaves a gap after" if start > known else "says nothing after"
            raise _damaged(path, f"is damaged at byte {place}: the line {why} byte {known} of `{segment}.seg`")
        progress.offset, progress.marks[segment] = end, mark
        yield Batch(segment, start, mark, end)


def read_order(path: Path) -> list[dict[str, Any]]:
    """Return the batches of `order.log` as dicts with segment, from and to, oldest first. Raises Tampered."""
    return [{"segment": batch.segment, "from": batch.start, "to": batch.mark.end} for batch in follow(path, Progress())]


def last_mark(path: Path, segment: str) -> Mark:
    """Return up to where a segment has its place in the order, from the newest line that names it."""
    if not path.exists():
        return START
    wanted, rest = f'"segment":"{segment}"'.encode(), b""
    with path.open("rb") as file:
        place = file.seek(0, os.SEEK_END)
        whole = False  # the newest line may be unfinished
        while place or rest:
            step = min(BLOCK, place)
            place -= step
            file.seek(place)
            lines = (file.read(step) + rest).split(b"\n")
            rest = lines.pop(0) if place else b""
            for line in reversed(lines):
                if whole and wanted in line:
                    value = orjson.loads(line)
                    return Mark(int(value["to"]), int(value.get("count", -1)), str(value.get("hash", "")))
                whole = True
    return START


def ingested_offset(path: Path) -> int:
    """Return the byte up to which a segment has its place in the order, from `order.log` beside it."""
    return last_mark(path.with_name(NAME), path.stem).end


def cut_torn_line(path: Path) -> None:
    """Remove a line that a crash left unfinished."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = place = file.seek(0, os.SEEK_END)
        while place:
            start = max(0, place - BLOCK)
            file.seek(start)
            found = file.read(place - start).rfind(b"\n")
            if found != -1:
                place = start + found + 1
                break
            place = start
        if place < size:
            file.truncate(place)


def extend(path: Path, batches: Iterable[Batch]) -> None:
    """Append batches and make them durable, all of them with one sync; on a failure the file is as before."""
    lines = [
        {"segment": b.segment, "from": b.start, "to": b.mark.end, "count": b.mark.count, "hash": b.mark.hash}
        for b in batches
    ]
    data = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    made = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
            os.fdatasync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, size)
            raise HallmarkError(
                f"cannot write `{path}`: {error.strerror or error}", hint="free disk space; no record was lost"
            ) from error
    finally:
        os.close(descriptor)
    if made:
        sync_folder(path.parent)


def _damaged(path: Path, why: str) -> Tampered:
    return Tampered(f"`{path.name}` {why}", hint="restore it from a copy: it holds the order of all records")
