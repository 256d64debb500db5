"""The truth: append-only, hash-chained segments, acknowledged after fdatasync.

A process writes to one segment that it alone holds (flock); its threads share one fdatasync (group commit). What a
write or sync fails on is taken back whole. A torn tail, and only that, is cut on recovery.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from registry.artifacts import sync_folder
from registry.errors import HallmarkError, Locked, Tampered
from registry.order import NAME, ingested_offset, last_mark, read_order
from registry.records import Event
from registry.segment import GENESIS, HEADER, MAX_FRAME, OPENED, START, Frame, Mark, check_owner, read_segment, scan
from registry.upcast import CURRENT

__all__ = ["GENESIS", "HEADER", "MAX_FRAME", "Draft", "Frame", "Journal", "ingested_offset", "new_workspace_id",
           "read_order", "read_segment"]  # fmt: skip

SEAL_AT = 16 << 20
"""Bytes after which a segment takes no more records and its writer moves to a new one."""

Draft = tuple[str, str, dict[str, Any], str] | tuple[str, str, dict[str, Any], str, dict[str, Any] | None]
"""kind, subject, body, actor, and a signature of them if the actor signs."""


class Journal:
    """The segments under `root`. One object per process and workspace; safe to use from many threads."""

    def __init__(self, root: Path, workspace_id: str) -> None:
        self.root = root
        self.workspace_id = workspace_id
        self._mutex = threading.Lock()
        self._syncing = threading.Lock()
        self._segment: _Segment | None = None
        self._sealed: list[_Segment] = []
        self._written = self._synced = 0
        self._lost: list[tuple[range, OSError]] = []

    def append(self, records: Sequence[Draft]) -> list[Event]:
        """Write records; return their events once they are on disk. All of them are kept, or an error says none is.

        Raises:
            Locked: no segment could be opened for writing (read-only folder).
            Tampered: this process's segment was cut below what was ingested, or belongs to another workspace.
            HallmarkError: the disk refused the bytes (full, failing); nothing of these records is kept.
        """
        events: list[Event] = []
        self._append(records, events)
        return events

    def write(self, records: Sequence[Draft]) -> None:
        """Append records for a caller who does not want their events; raises as `append` does."""
        self._append(records, None)

    def close(self) -> None:
        """Let go of this process's segment."""
        with self._mutex:
            if self._segment:
                self._segment.close()
                self._segment = None

    def segments(self) -> list[Path]:
        """Return all segment files, in name order."""
        names = os.listdir(self.root) if self.root.is_dir() else []  # noqa: PTH208 (read at every step; this is quick)
        return [self.root / name for name in sorted(names) if name.endswith(".seg")]

    def durable(self, segment: str) -> int:
        """Return up to which byte this process knows a segment to be on disk; 0 for one it does not hold."""
        held = self._segment
        return held.durable.end if held and held.path.stem == segment else 0

    def _append(self, records: Sequence[Draft], events: list[Event] | None) -> None:
        with self._mutex:
            try:
                self._open_segment().write(records, events)
            except OSError as error:
                raise _refused(self.root, error) from error
            self._written += 1
            ticket = self._written
        self._sync(ticket)

    def _sync(self, ticket: int) -> None:
        with self._syncing:  # the first waiter syncs for everyone who has written by now
            if self._synced >= ticket:
                for lost, failure in self._lost:
                    if ticket in lost:
                        raise _refused(self.root, failure)
                return
            with self._mutex:
                target, segment = self._written, self._segment
                mark = segment.mark if segment else START
            try:
                for each in (*self._sealed, *((segment,) if segment else ())):
                    os.fdatasync(each.descriptor)
            except OSError as error:
                self._take_back(error)
                raise _refused(self.root, error) from error
            with self._mutex:
                if segment:
                    segment.durable = mark
                while self._sealed:
                    self._sealed.pop().close()
            self._synced = target

    def _take_back(self, failure: OSError) -> None:
        """Cut what was not synced: after a failed sync nobody may believe those bytes, a later sync included."""
        with self._mutex:
            for segment in (*self._sealed, *((self._segment,) if self._segment else ())):
                with suppress(OSError):
                    os.ftruncate(segment.descriptor, max(segment.durable.end, ingested_offset(segment.path)))
                segment.close()
            self._sealed, self._segment = [], None
            self._lost.append((range(self._synced + 1, self._written + 1), failure))
            self._synced = self._written

    def _open_segment(self) -> _Segment:
        if self._segment and self._segment.mark.end < SEAL_AT:
            return self._segment
        if self._segment:
            self._sealed.append(self._segment)  # synced and closed by whoever syncs next
            self._segment = None
        for number in range(1, 1_000_000):
            segment = _Segment.claim(self.root / f"{number:06d}.seg", self.workspace_id)
            if segment:
                self._segment = segment
                return segment
        raise Locked("no free journal segment", hint=f"end the processes that hold the segments in `{self.root}`")


class _Segment:
    """A segment this process holds for writing. `mark` is its end, `durable` the end that a sync has confirmed."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor
        self.mark = self.durable = START

    @classmethod
    def claim(cls, path: Path, workspace_id: str) -> _Segment | None:
        """Open, lock and recover a segment; None when it is full or another process holds it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
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
        """Walk to the last whole record, cut what a crash left behind it, and start a new segment's chain.

        What has its place in the order was checked when it got it: the walk begins there.
        """
        size = os.fstat(self.descriptor).st_size
        ordered = last_mark(self.path.with_name(NAME), self.path.stem)
        if size < ordered.end:
            raise _shortened(self.path, size, ordered.end)
        if size:
            check_owner(self.path, workspace_id)
        begin = ordered if ordered.count >= 0 else START
        self.mark = begin
        for chunk in scan(self.path, begin):
            self.mark = chunk.mark
        if self.mark.end < ordered.end:
            raise _shortened(self.path, self.mark.end, ordered.end)
        if size > self.mark.end:
            os.ftruncate(self.descriptor, self.mark.end)
        if self.mark.count == 0:
            self.write([(OPENED, self.path.stem, {"workspace": workspace_id}, "hallmark")])
            os.fdatasync(self.descriptor)
            sync_folder(self.path.parent)
        self.durable = self.mark

    def write(self, records: Sequence[Draft], events: list[Event] | None = None) -> None:
        """Append frames in one write; after a failed one the file is as before. `events` takes what they are."""
        last, position = self.mark.hash, self.mark.count
        moment = datetime.now(UTC).isoformat(timespec="microseconds")
        frames: list[bytes] = []
        for record in records:
            kind, subject, body, actor = record[:4]
            sig = record[4] if len(record) == 5 else None
            value = {"actor": actor, "body": body, "kind": kind, "pos": position, "prev": last, "subject": subject,
                     "ts": moment, "v": CURRENT}  # fmt: skip
            if sig is not None:
                value["sig"] = sig
            payload = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
            if len(payload) > MAX_FRAME:
                raise HallmarkError(
                    f"a `{kind}` record of {len(payload)} bytes is too long",
                    hint="keep large content as an artifact and its digest in the record",
                )
            frames += (HEADER.pack(len(payload), zlib.crc32(payload)), payload)
            before, last = last, hashlib.sha256(payload).hexdigest()
            if events is not None:
                events.append(
                    Event(self.path.stem, position, moment, actor, kind, subject, body, before, last, CURRENT, sig)
                )
            position += 1
        data = b"".join(frames)
        start = self.mark.end
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self.descriptor, data[written:], start + written)
        except OSError:
            os.ftruncate(self.descriptor, start)
            raise
        self.mark = Mark(start + len(data), position, last)

    def close(self) -> None:
        os.close(self.descriptor)


def new_workspace_id() -> str:
    """Return a random id that binds segments to their workspace."""
    return secrets.token_hex(16)


def _shortened(path: Path, size: int, ordered: int) -> Tampered:
    return Tampered(
        f"journal segment `{path.name}` ends at byte {size}, but {ordered} bytes were ingested",
        hint="restore the segment from a copy; `hallmark log verify` shows the first bad record",
    )


def _refused(root: Path, error: OSError) -> HallmarkError:
    """Return what a failed write means to the user."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Locked(
            f"cannot write the journal: {error.strerror}", hint=f"make `{root}` writable; nothing was recorded"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HallmarkError(
            f"cannot write the journal: {error.strerror}", hint=f"free space for `{root}`; nothing was recorded"
        )
    return HallmarkError(f"cannot write the journal: {error}", hint=f"check `{root}`; nothing was recorded")
