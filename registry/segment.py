"""Reading segments: runs of frames `length u32 | crc32 u32 | JSON`, little-endian, chained by SHA-256.

Every JSON carries its position and the SHA-256 of the frame before it, so a deleted, edited, moved or copied record is
found. A chunk of frames is checked column by column, each frame parsed once.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from registry.errors import Tampered
from registry.records import Event
from registry.upcast import CURRENT, upcast

HEADER = struct.Struct("<II")
MAX_FRAME = 64 << 20
GENESIS = "0" * 64
CHUNK = 512
"""Frames checked together: few enough to stay in the processor's cache."""
OPENED = "segment.opened"
MARK = b'{"actor":'
"""What every frame's JSON begins with: its keys are sorted."""

_FIELDS = itemgetter("pos", "prev", "v", "ts", "actor", "kind", "subject", "body")
_SUMS = 8
"""How many times its own length may be checksummed in search of a whole frame behind a damaged one."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a segment was read: bytes, records, hash of the last record. Count -1 and hash "" are not known."""

    end: int = 0
    count: int = 0
    hash: str = GENESIS


START = Mark()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole frames that follow one another, as columns; `mark` is where they end, `ends` where each does (bytes)."""

    payloads: list[bytes]
    ends: list[int]
    first: int
    hashes: list[str]
    prevs: tuple[str, ...]
    versions: tuple[int, ...]
    times: tuple[str, ...]
    actors: tuple[str, ...]
    kinds: tuple[str, ...]
    subjects: tuple[str, ...]
    bodies: tuple[dict[str, Any], ...]
    sigs: list[dict[str, Any] | None]

    @property
    def mark(self) -> Mark:
        """Where the next frame begins."""
        return Mark(self.ends[-1], self.first + len(self.ends), self.hashes[-1])

    def event(self, segment: str, index: int) -> Event:
        """Return one frame as an event."""
        return Event(
            segment, self.first + index, self.times[index], self.actors[index], self.kinds[index],
            self.subjects[index], self.bodies[index], self.prevs[index], self.hashes[index],
            self.versions[index], self.sigs[index],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded record, the byte offset after it, and its exact JSON bytes (what the log's leaf hashes)."""

    event: Event
    end: int
    payload: bytes


def scan(path: Path, mark: Mark = START, *, stop: int | None = None, workspace: str | None = None) -> Iterator[Chunk]:
    """Yield the whole frames of a segment from a mark on; a torn tail ends the walk.

    Args:
        path: the segment.
        mark: where to begin; the first frame must follow it.
        stop: byte to end at; default the end of the file.
        workspace: whose segment it must be, checked where the walk begins at its first frame.

    Raises Tampered at the first frame whose bytes, position, chain or owner are wrong although whole frames follow it.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size if stop is None else stop
        file.seek(mark.end)
        data = file.read(max(0, size - mark.end))
    base, offset, whole = mark.end, 0, True
    while whole and offset < len(data):
        payloads, ends, whole = _frames(data, offset)
        if payloads:
            chunk = _checked(path, mark, payloads, [base + end for end in ends])
            if mark.end == 0 and workspace is not None:
                _check_owner(path, chunk, workspace)
            mark, offset = chunk.mark, ends[-1]
            yield chunk
    if not whole and _whole_frame_after(data, offset):
        raise _broken(path, base + offset, "its bytes do not match their checksum")


def read_segment(
    path: Path, start: int = 0, *, prev: str | None = None, stop: int | None = None, workspace: str | None = None
) -> Iterator[Frame]:
    """Yield the whole records of a segment from byte `start` on; a torn tail ends the walk.

    Raises Tampered as `scan` does, or, where `prev` is given, for a first record that does not follow that hash.
    """
    mark = START if start == 0 else Mark(start, -1, prev or "")
    for chunk in scan(path, mark, stop=stop, workspace=workspace):
        for index, payload in enumerate(chunk.payloads):
            yield Frame(chunk.event(path.stem, index), chunk.ends[index], payload)


def check_owner(path: Path, workspace: str) -> None:
    """Raise Tampered for a segment whose first record names another workspace or another segment."""
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        stop = HEADER.size + HEADER.unpack(head)[0] if len(head) == HEADER.size else 0
    for _ in scan(path, stop=stop, workspace=workspace):
        return


def _frames(data: bytes, offset: int) -> tuple[list[bytes], list[int], bool]:
    """Return up to CHUNK payloads from an offset, the ends of their frames, and whether the bytes after are sound."""
    payloads: list[bytes] = []
    ends: list[int] = []
    size, unpack, crc32 = len(data), HEADER.unpack_from, zlib.crc32
    while offset < size and len(ends) < CHUNK:
        if offset + 8 > size:
            return payloads, ends, False
        length, crc = unpack(data, offset)
        end = offset + 8 + length
        if end > size or length > MAX_FRAME:
            return payloads, ends, False
        payload = data[offset + 8 : end]
        if crc32(payload) != crc:
            return payloads, ends, False
        payloads.append(payload)
        ends.append(end)
        offset = end
    return payloads, ends, True


def _checked(path: Path, mark: Mark, payloads: list[bytes], ends: list[int]) -> Chunk:
    """Parse payloads; check that they follow the mark and one another."""
    try:
        values = list(map(orjson.loads, payloads))
        positions, prevs, versions, times, actors, kinds, subjects, bodies = zip(*map(_FIELDS, values), strict=True)
        sigs = [value.get("sig") for value in values]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise _broken(path, mark.end, "it, or one shortly after it, is not a journal record") from None
    sha256 = hashlib.sha256
    hashes = [sha256(payload).hexdigest() for payload in payloads]
    expected = (mark.hash or prevs[0], *hashes[:-1])
    first = mark.count if mark.count >= 0 else positions[0]
    if prevs != expected or positions != tuple(range(first, first + len(ends))):
        raise _out_of_place(path, mark, ends, prevs == expected, zip(prevs, expected, positions, strict=True), first)
    if set(versions) != {CURRENT}:
        bodies = tuple(map(upcast, kinds, versions, bodies))
    return Chunk(payloads, ends, first, hashes, prevs, versions, times, actors, kinds, subjects, bodies, sigs)


def _out_of_place(path: Path, mark: Mark, ends: list[int], chained: bool, columns: Any, first: int) -> Tampered:
    why = "its position is not the next one" if chained else "it does not follow the record before it"
    for index, (prev, wanted, position) in enumerate(columns):
        if prev != wanted or position != first + index:
            return _broken(path, ends[index - 1] if index else mark.end, why)
    return _broken(path, mark.end, why)


def _check_owner(path: Path, chunk: Chunk, workspace: str) -> None:
    kind, subject, body = chunk.kinds[0], chunk.subjects[0], chunk.bodies[0]
    owner = body.get("workspace") if kind == OPENED else None
    if owner != workspace:
        raise Tampered(
            f"journal segment `{path.name}` belongs to another workspace (`{str(owner)[:12]}`)",
            hint="take it out of this journal; a workspace's records are never copied into another",
        )
    if subject != path.stem:
        raise Tampered(
            f"journal segment `{path.name}` is a copy of segment `{subject}`",
            hint="take it out of this journal, or give it back its name",
        )


def _whole_frame_after(data: bytes, offset: int) -> bool:
    """Say whether a whole frame stands behind a damaged one: then it is damage, not a crash's torn tail.

    Looks where the damaged frame's own length points and at every place that looks like a frame's begin. Takes time
    in proportion to the bytes: where too many long candidates overlap, which no torn write makes, it is damage.
    """
    view, budget = memoryview(data), _SUMS * (len(data) - offset)
    places = []
    if offset + HEADER.size <= len(data):
        places.append(offset + HEADER.size + HEADER.unpack_from(data, offset)[0])
    found = data.find(MARK, offset + 1 + HEADER.size)
    while places or found != -1:
        if places:
            place = places.pop()
        else:
            place, found = found - HEADER.size, data.find(MARK, found + 1)
        if not offset < place <= len(data) - HEADER.size:
            continue
        length, crc = HEADER.unpack_from(data, place)
        end = place + HEADER.size + length
        if not 0 < length <= MAX_FRAME or end > len(data) or data[end - 1] != ord("}"):
            continue
        budget -= length
        if budget < 0 or zlib.crc32(view[place + HEADER.size : end]) == crc:
            return True
    return False


def _broken(path: Path, offset: int, why: str) -> Tampered:
    return Tampered(
        f"journal segment `{path.name}` is broken at byte {offset}: {why}",
        hint="restore the segment from a copy; nothing after this record can be trusted",
    )
