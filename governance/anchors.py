"""What the log is held against: recorded and outside checkpoints, receipts, copies of the journal.

Each comparison returns faults with the place in the log where it parts from what was signed or kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from governance.audit import ORDER, Audit, Fault, read
from registry import checkpoints, outside
from registry.checkpoints import Checkpoint
from registry.errors import HallmarkError, NotFound, SpecError
from registry.workspace import Workspace

if TYPE_CHECKING:
    from registry.identity import Principal

    Principals = dict[str, Principal] | None

Hashes = dict[tuple[str, int], str]
"""The hash the projection has of each (segment, position), in its order."""


@dataclass(frozen=True, slots=True)
class Held:
    """A checkpoint and where it is held: `seq` of its record, or 0 for one from outside."""

    checkpoint: Checkpoint
    place: str
    seq: int = 0


def vouched(ws: Workspace) -> tuple[Principals, list[Fault]]:
    """Return the principals by key id, or None and why nobody is vouched for."""
    try:
        return ws.principals(), []
    except HallmarkError as error:
        return None, [Fault(f"who may sign cannot be told: {error.message}")]


def inner(ws: Workspace, found: Audit, principals: Principals) -> tuple[list[Held], list[Fault]]:
    """Return the recorded checkpoints in the log's order, and the records that are none."""
    records = {(name, pos): one for name, segment in found.segments.items() for pos, one in segment.checkpoints}
    good, bad = [], []
    for seq, place in enumerate(found.order, 1):
        if place not in records:
            continue
        record = records[place]
        try:
            body = record["body"]
            checkpoint = _read(ws, body["note"], principals)
            if (str(checkpoint.size), checkpoint.root.hex()) != (record["subject"], body["root"]):
                raise SpecError("it says something else than its signed note")
            if checkpoint.size >= seq:
                raise SpecError(f"it covers {checkpoint.size} records but is number {seq}")
        except HallmarkError as error:
            bad.append(found.located(f"this checkpoint does not hold: {error.message}", seq))
        except (KeyError, TypeError, AttributeError):
            bad.append(found.located("this checkpoint does not hold: it is malformed", seq))
        else:
            good.append(Held(checkpoint, f"record {seq}", seq))
    return good, bad


def outer(ws: Workspace, published: outside.Notes, principals: Principals) -> tuple[list[Held], list[Fault]]:
    """Return the checkpoints from outside, and what is none of this log."""
    good, bad = [], []
    for place, note in published:
        try:
            good.append(Held(_read(ws, note, principals), place))
        except HallmarkError as error:
            bad.append(Fault(f"outside checkpoint `{place}` does not hold: {error.message}"))
    return good, bad


def _read(ws: Workspace, note: str | bytes, principals: Principals) -> Checkpoint:
    """Return a verified checkpoint; where nobody is vouched for any more, what it says is still worth comparing."""
    if principals is None:
        return checkpoints.parse(note)
    return checkpoints.verify(ws.settings.workspace_id, note, principals)[0]


def compared(
    found: Audit, held: Iterable[Held], roots: dict[int, bytes], projected: Hashes
) -> tuple[list[Held], list[Fault]]:
    """Return the checkpoints that the log agrees with, and the first where it parts from them, and where it was cut."""
    ordered = sorted(held, key=lambda one: (one.checkpoint.size, one.seq))
    good = [one for one in ordered if roots.get(one.checkpoint.size) == one.checkpoint.root]
    faults = []
    parted = next((one for one in ordered if one.checkpoint.size in roots and one not in good), None)
    if parted and not any(fault.seq <= parted.checkpoint.size for fault in found.faults):  # else it follows from that
        faults.append(_parted(found, parted, good, projected))
    beyond = [one for one in ordered if one.checkpoint.size not in roots]
    if beyond and found.stopped is None:
        longest = beyond[-1]
        faults.append(Fault(
            f"the journal was cut: a checkpoint over {longest.checkpoint.size} records is held outside"
            f" (`{longest.place}`), {len(found.order)} remain"
        ))  # fmt: skip
    elif beyond:
        faults.append(Fault(
            f"the checkpoint over {beyond[0].checkpoint.size} records (`{beyond[0].place}`) cannot be compared:"
            f" only the first {len(found.order)} records can be followed"
        ))  # fmt: skip
    return good, faults


def _parted(found: Audit, parted: Held, good: list[Held], projected: Hashes) -> Fault:
    """Return the first record that is not what a checkpoint was signed over, or the range it lies in."""
    last = max((one.checkpoint.size for one in good if one.checkpoint.size < parted.checkpoint.size), default=0)
    size = parted.checkpoint.size
    where = "recorded" if parted.seq else "outside"
    why = f"the log was rewritten: the {where} checkpoint over {size} records (`{parted.place}`) has another root"
    changed = [seq for seq, place in enumerate(found.order[last:size], last + 1)
               if projected.get(place, "") not in ("", found.segments[place[0]].hashes[place[1]])]  # fmt: skip
    if changed:
        return found.located(f"{why}; this is the first record that differs from the projection", changed[0])
    if size - last == 1:
        return found.located(why, size)
    return found.located(f"{why}; the first record that differs is one of {last + 1} to {size}, from here on", last + 1)


def held_receipt(ws: Workspace, found: Audit, receipt: dict[str, Any]) -> Fault | None:
    """Return what is wrong with the record that a receipt names."""
    if receipt["workspace"] != ws.settings.workspace_id:
        return Fault(f"receipt {receipt['hash'][:12]} is of workspace `{receipt['workspace'][:12]}`")
    segment, pos = found.segments.get(receipt["segment"]), receipt["pos"]
    if segment is None or not 0 <= pos < len(segment.ends):
        place = f"record {receipt['hash'][:12]} (segment `{receipt['segment']}`, position {pos})"
        if segment is not None and segment.fault:
            return Fault(f"a receipt is held for {place}, which cannot be read")
        return Fault(f"the journal was cut: a receipt is held for {place}, which is gone")
    if segment.hashes[pos] == receipt["hash"]:
        return None
    return found.placed(f"a receipt is held for another record here ({receipt['hash'][:12]})", segment, pos)


def held_copy(ws: Workspace, found: Audit, copy: Path) -> list[Fault]:
    """Every segment of a copy of `journal/`, and its order, begin the present one: return where they do not."""
    paths = sorted(copy.glob("*.seg"))
    if not paths:
        raise NotFound(f"`{copy}` is no copy of a journal: it has no `*.seg`", hint="copy the folder `journal/`")
    faults = []
    for path in paths:
        theirs, mine = read(path, ws.settings.workspace_id, 0), found.segments.get(path.stem)
        if theirs.fault:
            faults.append(Fault(f"the copy in `{copy}` does not hold itself: {theirs.fault.line()}"))
        if mine is None:
            faults.append(Fault(f"is missing, and the copy in `{copy}` has it", path.stem))
            continue
        shared = min(len(theirs.ends), len(mine.ends))
        at = next((pos for pos in range(shared) if theirs.hashes[pos] != mine.hashes[pos]), shared)
        if at < shared:
            faults.append(found.placed(f"the copy in `{copy}` has another record here", mine, at))
        elif at < len(theirs.ends) and mine.fault:
            faults.append(found.placed(f"the copy in `{copy}` still has this record", mine, at))
        elif at < len(theirs.ends):
            why = (
                f"the journal was cut: the copy in `{copy}` has {len(theirs.ends)} records of this segment, {at} remain"
            )
            faults.append(found.placed(why, mine, at))
    order, own = (folder / ORDER for folder in (copy, ws.journal.root))
    ordered = order.read_bytes() if order.exists() else b""
    ordered = ordered[: ordered.rfind(b"\n") + 1]
    if not (own.read_bytes() if own.exists() else b"").startswith(ordered):
        faults.append(Fault(f"`{ORDER}` does not begin as its copy in `{copy}` does"))
    return faults
