"""The journal as an auditor reads it: its bytes alone, record by record, whatever the store and the writer think.

Everything that does not fit is a fault with a place; the walk goes on as far as the bytes can be told apart.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from registry.journal import GENESIS, HEADER, MAX_FRAME
from registry.merkle import leaf_hash
from registry.workspace import Workspace

OPENED = "segment.opened"
CHECKPOINT = "checkpoint.signed"
ORDER = "order.log"
OLD_LINE = {"segment", "from", "to"}
"""What release 0.1 wrote of a batch."""
LINE = OLD_LINE | {"count", "hash"}
_MARK = b'{"actor":'
_SUMS = 8


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong, and where: segment, byte, position in the segment, and `seq`, the place in the log from 1."""

    why: str
    segment: str = ""
    byte: int = -1
    pos: int = -1
    seq: int = 0

    def line(self) -> str:
        """Return it as one sentence."""
        if not self.segment:
            return self.why
        if self.byte < 0:
            return f"journal segment `{self.segment}.seg` {self.why}"
        seq = f", record {self.seq} of the log" if self.seq else ""
        return (
            f"journal segment `{self.segment}.seg` is broken at byte {self.byte} (position {self.pos}{seq}): {self.why}"
        )


@dataclass(slots=True)
class Segment:
    """What one segment file holds: per record the byte after it, its tree leaf and its SHA-256 in hex."""

    name: str
    ends: list[int] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    checkpoints: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """Pairs of a position and the record of a checkpoint."""
    fault: Fault | None = None
    torn: int = 0
    """Bytes of an unfinished write at the end: never acknowledged."""

    def start(self, pos: int) -> int:
        """Return the byte where the record at a position begins."""
        return self.ends[pos - 1] if pos else 0


@dataclass(slots=True)
class Audit:
    """The whole journal: segments by name, the order of their records, and the first fault of each file."""

    segments: dict[str, Segment]
    order: list[tuple[str, int]] = field(default_factory=list)
    """Segment and position of each record that has a place in the log, in the log's order."""
    faults: list[Fault] = field(default_factory=list)
    batches: list[tuple[int, int]] = field(default_factory=list)
    """Per line of the order: the byte after it, and how many records have their place by then."""
    stopped: tuple[str, int] | None = None
    """Segment and position of the record at which the order could not be followed any further."""

    @property
    def count(self) -> int:
        """How many records the segments hold."""
        return sum(len(segment.ends) for segment in self.segments.values())

    def ordered_by(self, byte: int) -> int:
        """Return how many records had their place when `order.log` was `byte` bytes long."""
        return max((count for end, count in self.batches if end <= byte), default=0)

    def leaves(self) -> list[bytes]:
        """Return the tree's leaves in the log's order."""
        return [self.segments[name].leaves[pos] for name, pos in self.order]

    def placed(self, why: str, segment: Segment, pos: int) -> Fault:
        """Return a fault at a position of a segment, with its place in the log where it has one."""
        seq = self.order.index((segment.name, pos)) + 1 if (segment.name, pos) in self.order else 0
        return Fault(why, segment.name, segment.start(pos), pos, seq)

    def located(self, why: str, seq: int) -> Fault:
        """Return a fault at a record of the log (from 1)."""
        name, pos = self.order[seq - 1]
        return Fault(why, name, self.segments[name].start(pos), pos, seq)


def audit(ws: Workspace) -> Audit:
    """Return what the journal's bytes say. Reads only; raises nothing but OSError."""
    lines, fault = _order_lines(ws.journal.root / ORDER)
    promised = {line["segment"]: line["to"] for line in lines}
    paths = ws.journal.segments()
    found = Audit({path.stem: read(path, ws.settings.workspace_id, promised.get(path.stem, 0)) for path in paths})
    if fault:
        found.faults.append(fault)
    _follow(found, lines)
    missing = sorted((promised.keys() | _numbers_below(found.segments)) - found.segments.keys())
    found.faults += [Fault("is missing", name) for name in missing]
    found.faults += _numbered(found, [one.fault for one in found.segments.values() if one.fault])
    found.faults.sort(key=lambda one: (one.seq or len(found.order) + 1, one.segment, one.byte))
    return found


def read(path: Path, workspace: str, promised: int) -> Segment:
    """Return what one segment file holds; `promised` is the byte up to which its records have a place in the log."""
    segment, data, prev = Segment(path.stem), path.read_bytes(), GENESIS
    offset, doubt = 0, -1
    while offset < len(data):
        payload = _payload(data, offset)
        if payload is None:
            if offset < promised or _whole_after(data, offset):
                _note(segment, "its bytes do not match their checksum")
            else:
                segment.torn = len(data) - offset
            break
        why, record = _wrong(payload, len(segment.ends), segment.name, workspace)
        if doubt >= 0:  # the record before follows nothing: where this one follows it, the one before that was altered
            _note(segment, "the record after it follows another one", doubt - (record.get("prev") == prev))
        follows, doubt = record.get("prev") == prev, -1
        if why or (not follows and not segment.ends):
            _note(segment, why or "it follows another record")
        elif not follows:
            doubt = len(segment.ends)
        if record.get("kind") == CHECKPOINT:
            segment.checkpoints.append((len(segment.ends), record))
        prev = hashlib.sha256(payload).hexdigest()
        offset += HEADER.size + len(payload)
        segment.ends.append(offset)
        segment.leaves.append(leaf_hash(payload))
        segment.hashes.append(prev)
    if doubt >= 0:
        _note(segment, "the record after it follows another one", doubt - 1)
    if len(data) < promised and (segment.fault is None or segment.fault.pos == len(segment.ends)):
        segment.fault = None
        _note(segment, f"the record here is gone: the segment lost its last {promised - offset} ingested bytes")
    return segment


def _note(segment: Segment, why: str, pos: int | None = None) -> None:
    """Keep the first fault of a segment: at a position, or at the record being read."""
    if segment.fault is None:
        at = len(segment.ends) if pos is None else pos
        segment.fault = Fault(why, segment.name, segment.start(at), at)


def _payload(data: bytes, offset: int) -> bytes | None:
    """Return the JSON of the frame at an offset; None where there is no whole frame with its checksum."""
    if offset + HEADER.size > len(data):
        return None
    length, crc = HEADER.unpack_from(data, offset)
    payload = data[offset + HEADER.size : offset + HEADER.size + length]
    return payload if 0 < length == len(payload) and length <= MAX_FRAME and zlib.crc32(payload) == crc else None


def _whole_after(data: bytes, offset: int) -> bool:
    """Say whether a whole frame stands behind a damaged one: then it is no crash's torn tail."""
    budget = _SUMS * (len(data) - offset)
    found = data.find(_MARK, offset + HEADER.size + 1)
    while found != -1:
        budget -= HEADER.unpack_from(data, found - HEADER.size)[0] if found >= HEADER.size else 0
        if budget < 0 or _payload(data, found - HEADER.size) is not None:
            return True
        found = data.find(_MARK, found + 1)
    return False


def _wrong(payload: bytes, pos: int, name: str, workspace: str) -> tuple[str, dict[str, Any]]:
    """Return what is wrong with a record, or nothing, and the record."""
    try:
        record: dict[str, Any] = orjson.loads(payload)
        kind, subject, body, claimed = record["kind"], record["subject"], record["body"], record["pos"]
        opened = (body.get("workspace"), subject) if kind == OPENED else ()
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return "it is not a journal record", {}
    if claimed != pos:
        return f"it says it is number {claimed} of its segment", record
    if (pos == 0) != (kind == OPENED):
        return "a segment begins with one record of its opening", record
    if opened and opened != (workspace, name):
        return f"it belongs to segment `{subject}` of workspace `{str(opened[0])[:12]}`", record
    return "", record


def _order_lines(path: Path) -> tuple[list[dict[str, Any]], Fault | None]:
    """Return the lines of `order.log` up to the first that is wrong; an unfinished last line promised nothing."""
    data = path.read_bytes() if path.exists() else b""
    lines: list[dict[str, Any]] = []
    reached: dict[str, int] = {}
    byte = 0
    for raw in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        try:
            line = orjson.loads(raw)
            name, start, stop = str(line["segment"]), int(line["from"]), int(line["to"])
            known = line.keys() in (OLD_LINE, LINE)
        except (ValueError, KeyError, TypeError, OverflowError, AttributeError):
            known = False
        if not known:
            return lines, Fault(f"`{ORDER}` is damaged at byte {byte}: the line is no batch")
        if start != reached.get(name, 0) or stop <= start:
            why = "overlaps" if start < reached.get(name, 0) else "leaves a gap after"
            return lines, Fault(
                f"`{ORDER}` is damaged at byte {byte}: its range {why} byte {reached.get(name, 0)} of `{name}.seg`"
            )
        reached[name] = stop
        lines.append({**line, "byte": byte, "end": byte + len(raw)})
        byte += len(raw)
    return lines, None


def _follow(found: Audit, lines: list[dict[str, Any]]) -> None:
    """Put the records in the order of the lines, as far as there are records."""
    cursor: dict[str, int] = dict.fromkeys(found.segments, 0)
    for line in lines:
        segment = found.segments.get(line["segment"])
        if segment is None:
            found.stopped = (line["segment"], 0)
            return
        first = pos = cursor[segment.name]
        while pos < len(segment.ends) and segment.ends[pos] <= line["to"]:
            pos += 1
        found.order += [(segment.name, at) for at in range(first, pos)]
        cursor[segment.name] = pos
        if segment.start(pos) != line["to"]:
            found.stopped = (segment.name, pos)
            if segment.fault is None:
                why = f"the line at byte {line['byte']} of `{ORDER}` ends inside this record"
                segment.fault = Fault(why, segment.name, segment.start(pos), pos)
            return
        found.batches.append((line["end"], len(found.order)))
        if line.get("count", pos) != pos:
            found.faults.append(
                Fault(f"`{ORDER}` is damaged at byte {line['byte']}: it counts other records than there are")
            )
        if "hash" in line and line["hash"] != segment.hashes[pos - 1]:
            _note_last(segment, pos - 1)


def _note_last(segment: Segment, pos: int) -> None:
    """The last record of a batch is not the one that got its place in the order."""
    fault = Fault("it is not the record that was ingested", segment.name, segment.start(pos), pos)
    if segment.fault is None or segment.fault.pos > pos:
        segment.fault = fault


def _numbered(found: Audit, faults: list[Fault]) -> list[Fault]:
    """Return faults with their places in the log, where the log reaches them."""
    wanted = {(fault.segment, fault.pos) for fault in faults}
    places = {place: seq for seq, place in enumerate(found.order, 1) if place in wanted}
    if found.stopped:
        places.setdefault(found.stopped, len(found.order) + 1)
    return [replace(fault, seq=places.get((fault.segment, fault.pos), 0)) for fault in faults]


def _numbers_below(segments: dict[str, Segment]) -> set[str]:
    """Segments are numbered from 1 without gaps: return every name up to the last."""
    last = max((int(name) for name in segments if name.isdigit()), default=0)
    return {f"{number:06d}" for number in range(1, last + 1)}
