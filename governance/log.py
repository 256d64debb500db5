"""`log verify`: the journal against itself, its checkpoints, the projection, and what is held outside the workspace.

A log that was cut or written anew as a whole is found only by what lies outside: checkpoints, receipts, copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from governance.anchors import Hashes, Held, compared, held_copy, held_receipt, inner, outer, vouched
from governance.audit import ORDER, Audit, Fault, audit
from governance.projected import differences
from governance.proofs import read_receipts
from governance.sealing import seal_faults
from registry import checkpoints, merkle, outside
from registry.errors import HallmarkError, Tampered
from registry.workspace import Workspace

if TYPE_CHECKING:
    from governance.verification import Verification


@dataclass(frozen=True, slots=True)
class LogReport:
    """What was checked and what is wrong with the log, the first bad record first; no problem means verified.

    `size` records have a place in the log and `root` (hex) is their tree's root; `waiting` came later. `anchored` of
    them are covered by the newest good checkpoint from outside, `unanchored` are not.
    """

    checked: tuple[str, ...]
    problems: tuple[str, ...]
    first_bad: Fault | None
    size: int
    root: str
    waiting: int
    checkpoints: int
    anchored: int
    unanchored: int
    target: str = "log"

    def verification(self) -> Verification:
        """Return the result as `hallmark verify` shows results."""
        from governance.verification import Verification

        return Verification(self.target, self.checked, self.problems)


def verify_log(
    ws: Workspace, anchors: Sequence[str] = (), receipts: Sequence[Path] = (), copies: Sequence[Path] = ()
) -> Verification:
    """Return whether the log holds; see `examine`."""
    return examine(ws, anchors, receipts, copies).verification()


def examine(
    ws: Workspace,
    anchors: Sequence[str] = (),
    receipts: Sequence[Path] = (),
    copies: Sequence[Path] = (),
    *,
    rows: bool = True,
) -> LogReport:
    """Walk the whole journal and hold it against everything that says what it was.

    Args:
        ws: the workspace.
        anchors: places of checkpoints outside: file, folder, `http(s)://` URL, git repository.
        receipts: files with receipts, each one JSON object or a list of them.
        copies: folders that are copies of `journal/`, made at any time.
        rows: hold every row of the projection against the journal, not only its hashes and leaves.

    Raises NotFound, SpecError or HallmarkError where something to hold it against cannot be read, Locked as `sync`.
    """
    notes = [note for anchor in anchors for note in outside.read(anchor)]
    held = [receipt for path in receipts for receipt in read_receipts(path)]
    refused, reached = _ordered(ws)
    projected = _projected(ws)
    found = audit(ws)  # after the projection was read: what that has, this has too, whoever is writing meanwhile
    faults = _sharpened(found, projected)
    if not found.faults and refused:
        faults.append(Fault(refused))
    elif not found.faults:
        faults += differences(ws, found, projected, found.ordered_by(reached), rows=rows)
    principals, unvouched = vouched(ws)
    signed, unsigned = (0, []) if faults or principals is None else seal_faults(ws, found, principals)
    recorded, unsound = inner(ws, found, principals)
    kept, foreign = outer(ws, notes, principals)
    leaves = found.leaves()
    roots = checkpoints.roots(leaves, [one.checkpoint.size for one in (*recorded, *kept)])
    good, parted = compared(found, [*recorded, *kept], roots, projected)
    faults += [*unsigned, *unsound, *foreign, *parted, *([] if found.faults else unvouched)]
    faults += [fault for receipt in held if (fault := held_receipt(ws, found, receipt))]
    faults += [fault for copy in copies for fault in held_copy(ws, found, copy)]
    faults.sort(key=lambda fault: fault.seq or len(leaves) + 1)
    anchored, tree = max((one.checkpoint.size for one in good if not one.seq), default=0), merkle.root(leaves)
    lines = [f"{found.count} records in {len(found.segments)} segments could be read"] if faults else [
        f"{found.count} records in {len(found.segments)} segments, chain unbroken",
        f"tree over {len(leaves)} records, root {tree.hex()[:16]}, as the projection has it",
        *(["every row of the projection is what the journal gives"] if rows else []),
        *_waiting(found),
        f"signatures of events: {signed}, all verify",
        _recorded(recorded),
        _anchoring(good, anchored, len(leaves), bool(anchors)),
        *([f"receipts: {len(held)}, every record is still there"] if held else []),
        *([f"copies of the journal: {len(copies)}, each is how it began"] if copies else []),
    ]  # fmt: skip
    problems = tuple(dict.fromkeys(fault.line() for fault in faults))
    return LogReport(
        tuple(lines), problems, next(iter(faults), None), len(leaves), tree.hex(), found.count - len(leaves),
        len(recorded), anchored, len(leaves) - anchored,
    )  # fmt: skip


# ---- the journal against the projection ------------------------------------------------------------------------


def _ordered(ws: Workspace) -> tuple[str, int]:
    """Give the records at the segments' ends their place in the log.

    Returns why that was not possible, or nothing, and how many bytes `order.log` has.
    """
    why, order = "", ws.journal.root / ORDER
    try:
        ws.store.sync()
    except Tampered as error:
        why = error.message
    return why, order.stat().st_size if order.exists() else 0


def _projected(ws: Workspace) -> Hashes:
    """Return the projection's hash of each (segment, position), in its order; nothing where it cannot be read."""
    try:
        rows = ws.store.query("SELECT segment, pos, hash FROM event ORDER BY seq")
    except HallmarkError:
        return {}
    return {(row["segment"], row["pos"]): row["hash"] for row in rows}


def _sharpened(found: Audit, projected: Hashes) -> list[Fault]:
    """Return the journal's faults, each at the first record of its segment that is not the one the projection has."""
    places = {place: seq for seq, place in enumerate(projected, 1)} if found.faults else {}
    sharp = []
    for fault in found.faults:
        segment = found.segments.get(fault.segment)
        if segment is None or fault.pos < 0:
            sharp.append(fault)
            continue
        hashes = segment.hashes[: fault.pos]
        differ = (pos for pos, own in enumerate(hashes) if projected.get((segment.name, pos), own) != own)
        at = next(differ, fault.pos)
        if at < fault.pos:
            why = "it is not the record that was ingested"
            fault = Fault(why, segment.name, segment.start(at), at)
        sharp.append(replace(fault, seq=places.get((segment.name, at), fault.seq)))
    return sharp


# ---- what is said ----------------------------------------------------------------------------------------------


def _waiting(found: Audit) -> list[str]:
    waiting, torn = found.count - len(found.order), sum(segment.torn for segment in found.segments.values())
    lines = [f"{waiting} newer records have no place in the log yet"] if waiting else []
    return lines + ([f"{torn} bytes of unfinished writes at segments' ends, never acknowledged"] if torn else [])


def _recorded(recorded: list[Held]) -> str:
    if not recorded:
        return "no checkpoint is recorded: run `hallmark log checkpoint`"
    newest = recorded[-1].checkpoint
    return f"recorded checkpoints: {len(recorded)}, all agree, the newest over {newest.size} records of {newest.time}"


def _anchoring(good: list[Held], anchored: int, size: int, given: bool) -> str:
    if not given:
        return f"no checkpoint from outside was given: {size} records unanchored, a cut end would not show"
    place = next((one.place for one in good if not one.seq and one.checkpoint.size == anchored), "none")
    return f"{anchored} of {size} records anchored by `{place}`; later ones, unanchored: {size - anchored}"
