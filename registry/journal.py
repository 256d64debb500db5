"""The truth: append-only, hash-chained segments, acknowledged after fdatasync.

A segment is a run of frames `length u32 | crc32 u32 | JSON`, little-endian. Every JSON carries the SHA-256 of the frame
before it, so a deleted, edited or moved record breaks the chain. A process writes to one segment that it alone holds
(flock); threads of a process share one fdatasync (group commit). A torn tail, and only that, is cut on recovery.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from registry.artifacts import sync_folder
from registry.errors import Locked, Tampered
from registry.records import Event

HEADER = struct.Struct("<II")
MAX_FRAME = 64 << 20
SEAL_AT = 16 << 20
"""Bytes after which a segment takes no more records and its writer moves to a new one."""
GENESIS = "0" * 64

Draft = tuple[str, str, dict[str, Any], str] | tuple[str, str, dict[str, Any], str, dict[str, Any] | None]
"""kind, subject, body, actor, and, where it is signed, the seal."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded record and the byte offset after it."""

    event: Event
    end: int


class Journal:
    """The segments under `root`. One object per process and workspace; safe to use from many threads."""

    def __init__(self, root: Path, workspace_id: str) -> None:
        self.root = root
        self.workspace_id = workspace_id
        self._mutex = threading.Lock()
        self._syncing = threading.Lock()
        self._segment: _Segment | None = None
        self._written = self._synced = 0

    def append(self, records: Sequence[Draft]) -> list[Event]:
        """Write records; return their events once they are on disk. All of them are kept, or an error says none is.

        Raises:
            Locked: no segment could be opened for writing (read-only folder).
            Tampered: the end of this process's segment was cut below what was already ingested.
            OSError: the disk refused the bytes (full, failing); nothing of these records is kept.
        """
        with self._mutex:
            segment = self._open_segment()
            events = segment.write(records)
            self._written += 1
            ticket = self._written
        self._sync(ticket)
        return events

    def close(self) -> None:
        """Let go of this process's segment."""
        with self._mutex:
            if self._segment:
                self._segment.close()
                self._segment = None

    def segments(self) -> list[Path]:
        """Return all segment files, in name order."""
        return sorted(self.root.glob("*.seg"))

    def _sync(self, ticket: int) -> None:
        with self._syncing:  # the first waiter syncs for everyone who has written by now
            if self._synced >= ticket:
                return
            with self._mutex:
                target, segment = self._written, self._segment
            if segment:
                os.fdatasync(segment.descriptor)
            self._synced = target

    def _open_segment(self) -> _Segment:
        if self._segment and self._segment.size < SEAL_AT:
            return self._segment
        if self._segment:
            os.fdatasync(self._segment.descriptor)
            self._segment.close()
            self._segment = None
        for number in range(1, 1_000_000):
            segment = _Segment.claim(self.root / f"{number:06d}.seg", self.workspace_id)
            if segment:
                self._segment = segment
                return segment
        raise Locked("no free journal segment", hint=f"end the processes that hold the segments in `{self.root}`")


class _Segment:
    """A segment this process holds for writing."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor
        self.size = self.count = 0
        self.last = GENESIS

    @classmethod
    def claim(cls, path: Path, workspace_id: str) -> _Segment | None:
        """Open, lock and recover a segment; None when it is full or another process holds it."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except PermissionError as error:
            raise Locked(f"cannot write the journal: {error}", hint="check who owns the workspace") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_size >= SEAL_AT:
            os.close(descriptor)
            return None
        segment = cls(path, descriptor)
        try:
            segment.recover(workspace_id)
        except BaseException:
            os.close(descriptor)
            raise
        return segment

    def recover(self, workspace_id: str) -> None:
        """Walk to the last whole record, cut what a crash left behind it, and start a new segment's chain."""
        for frame in read_segment(self.path):
            self.size, self.last, self.count = frame.end, frame.event.hash, self.count + 1
        ingested = ingested_offset(self.path)
        if self.size < ingested:
            raise Tampered(
                f"journal segment `{self.path.name}` ends at byte {self.size}, but {ingested} bytes were ingested",
                hint="restore the segment from a copy; `hallmark log verify` shows the first bad record",
            )
        if os.fstat(self.descriptor).st_size > self.size:
            os.ftruncate(self.descriptor, self.size)
        if self.count == 0:
            self.write([("segment.opened", self.path.stem, {"workspace": workspace_id}, "hallmark")])
            os.fdatasync(self.descriptor)
            sync_folder(self.path.parent)

    def write(self, records: Sequence[Draft]) -> list[Event]:
        """Append frames in one write; on a failed write the file is put back as it was."""
        last, position = self.last, self.count
        moment = datetime.now(UTC).isoformat(timespec="microseconds")
        frames, events = [], []
        for kind, subject, body, actor, *seal in records:
            sig = seal[0] if seal else None
            value = {"v": 2, "pos": position, "ts": moment, "actor": actor, "kind": kind, "subject": subject,
                     "body": body, "prev": last} | ({"sig": sig} if sig else {})  # fmt: skip
            payload = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
            frames.append(HEADER.pack(len(payload), zlib.crc32(payload)) + payload)
            last_before, last = last, hashlib.sha256(payload).hexdigest()
            events.append(
                Event(self.path.stem, position, moment, actor, kind, subject, body, last_before, last, 2, sig)
            )
            position += 1
        data = b"".join(frames)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self.descriptor, data[written:], self.size + written)
        except OSError:
            os.ftruncate(self.descriptor, self.size)
            raise
        self.size, self.count, self.last = self.size + len(data), position, last
        return events

    def close(self) -> None:
        os.close(self.descriptor)


def read_segment(path: Path, start: int = 0, *, prev: str | None = None, stop: int | None = None) -> Iterator[Frame]:
    """Yield the whole records of a segment from byte `start` on; a torn tail ends the walk.

    Raises Tampered at the first record whose bytes, position or chain are wrong although whole records follow it, or,
    where `prev` is given, that does not follow the record with that hash.
    """
    size = path.stat().st_size if stop is None else stop
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(max(0, size - start))
    offset, expected = 0, GENESIS if start == 0 else prev
    while offset + HEADER.size <= len(data):
        length, crc = HEADER.unpack_from(data, offset)
        payload = data[offset + HEADER.size : offset + HEADER.size + length]
        if length > MAX_FRAME or len(payload) < length or zlib.crc32(payload) != crc:
            if _whole_frame_after(data, offset + 1, length):
                raise _broken(path, start + offset, "its bytes do not match their checksum")
            return
        value = orjson.loads(payload)
        if expected is not None and value["prev"] != expected:
            raise _broken(path, start + offset, "it does not follow the record before it")
        expected = hashlib.sha256(payload).hexdigest()
        offset += HEADER.size + length
        event = Event(path.stem, value["pos"], value["ts"], value["actor"], value["kind"], value["subject"],
                      value["body"], value["prev"], expected, value["v"], value.get("sig"))  # fmt: skip
        yield Frame(event, start + offset)


def ingested_offset(path: Path) -> int:
    """Return the byte up to which a segment was ever ingested, from `order.log` beside it."""
    order = path.with_name("order.log")
    if not order.exists():
        return 0
    ends = [entry["to"] for entry in read_order(order) if entry["segment"] == path.stem]
    return max(ends, default=0)


def read_order(path: Path) -> list[dict[str, Any]]:
    """Return the batches of `order.log`, oldest first; a torn last line is left out."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_bytes().splitlines():
        try:
            entries.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            break
    return entries


def new_workspace_id() -> str:
    """Return a random id that binds segments to their workspace."""
    return secrets.token_hex(16)


def _whole_frame_after(data: bytes, offset: int, length: int) -> bool:
    """Say whether a whole record stands behind a damaged one: then it is damage, not a crash's torn tail."""
    following = offset - 1 + HEADER.size + length
    candidates = [following] if following < len(data) else []
    mark = data.find(b'{"actor":', offset + HEADER.size)
    while mark != -1:
        candidates.append(mark - HEADER.size)
        mark = data.find(b'{"actor":', mark + 1)
    for place in candidates:
        if place < offset or place + HEADER.size > len(data):
            continue
        size, crc = HEADER.unpack_from(data, place)
        payload = data[place + HEADER.size : place + HEADER.size + size]
        if size and len(payload) == size and zlib.crc32(payload) == crc:
            return True
    return False


def _broken(path: Path, offset: int, why: str) -> Tampered:
    return Tampered(
        f"journal segment `{path.name}` is broken at byte {offset}: {why}",
        hint="restore the segment from a copy; nothing after this record can be trusted",
    )
