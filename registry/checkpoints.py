"""Checkpoints: signed statements of how many records the log has and what their tree's root is.

The text is C2SP's checkpoint (tlog-checkpoint) with the time as an extension line. Operators and auditors sign.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from registry import merkle, notes, outside
from registry.errors import HallmarkError, Refused, SpecError, Tampered
from registry.signers import from_base64

if TYPE_CHECKING:
    from registry.identity import Principal
    from registry.workspace import Workspace

KIND = "checkpoint.signed"
ROLES = frozenset({"operator", "auditor"})
"""Whose signature a checkpoint needs."""
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint: `size` records of the log `origin` have the tree root `root`; `note` is the signed text.

    `time` is what the signer's clock said, ISO 8601, UTC, seconds.
    """

    origin: str
    size: int
    root: bytes
    time: str
    note: str


def origin_of(workspace_id: str) -> str:
    """Return the first line of a workspace's checkpoints."""
    return f"hallmark/{workspace_id}"


def sign(ws: Workspace, actor: str) -> Checkpoint:
    """Sign a checkpoint over all records, record it, and return it.

    Raises:
        Refused: the actor is neither operator nor auditor, or its key was revoked.
        SpecError: its key is not Ed25519, or does not open.
        Tampered: the journal is broken, or shorter than the newest recorded checkpoint.
    """
    checkpoint = draft(ws, actor)
    body = {"note": checkpoint.note, "size": checkpoint.size, "root": checkpoint.root.hex()}
    ws.record(KIND, str(checkpoint.size), body, actor=actor)
    return checkpoint


def draft(ws: Workspace, actor: str) -> Checkpoint:
    """Return the checkpoint that `sign` would record, without recording it. Raises as `sign` does."""
    with ws.store.reading():
        principal = ws.principal(actor)
        if principal.role not in ROLES:
            raise Refused(
                f"`{actor}` ({principal.role}) may not sign checkpoints", hint="an operator or auditor may: `--as NAME`"
            )
        tree = merkle.Frontier(*ws.store.frontier())
        last = newest(ws)
    if last and last.size > tree.size:
        raise Tampered(
            f"a checkpoint over {last.size} records was recorded, but the log has {tree.size}",
            hint="run `hallmark log verify`",
        )
    origin = origin_of(ws.settings.workspace_id)
    time, root = datetime.now(UTC).isoformat(timespec="seconds"), tree.root()
    note = notes.sign(_text(origin, tree.size, root, time), f"{origin}/{actor}", ws.keys.load(actor))
    return Checkpoint(origin, tree.size, root, time, note)


def parse(note: str | bytes) -> Checkpoint:
    """Return a note's checkpoint; its signatures are not verified. Raises Tampered for anything but a checkpoint."""
    text = notes.parse(note).text
    lines = text.split("\n")
    if len(lines) != 5 or not lines[0] or not _SIZE.fullmatch(lines[1]) or not lines[3].startswith("time "):
        raise _malformed("its lines are not origin, size, root and time")
    try:
        root = from_base64(lines[2])
        time = datetime.fromisoformat(lines[3].removeprefix("time "))
    except ValueError:
        raise _malformed("its root is not base64 or its time not ISO 8601") from None
    if len(root) != 32 or time.tzinfo is None:
        raise _malformed("its root has not 32 bytes or its time no zone")
    whole = note.decode() if isinstance(note, bytes) else note
    return Checkpoint(lines[0], int(lines[1]), root, lines[3].removeprefix("time "), whole)


def verify(
    workspace_id: str, note: str | bytes, principals: Mapping[str, Principal]
) -> tuple[Checkpoint, tuple[Principal, ...]]:
    """Return a checkpoint and who signed it: at least one operator or auditor whose key counted at its size.

    Whether its root is that of the log is not looked at.

    Raises:
        Tampered: malformed, or a known key's signature does not verify.
        Refused: of another log, or signed by nobody whose signature counts.
    """
    found = parse(note)
    if found.origin != origin_of(workspace_id):
        raise Refused(
            f"checkpoint is of the log `{found.origin[:80]}`", hint=f"this workspace is `{origin_of(workspace_id)}`"
        )
    holders = {
        notes.Verifier(f"{found.origin}/{principal.name}", principal.public): principal
        for principal in principals.values()
        if principal.role in ROLES and principal.algorithm == "ed25519"
    }
    _, signers = notes.verify(note, holders)
    counting = tuple(holders[signer] for signer in signers if holders[signer].counts_at(found.size))
    if not counting:
        raise Refused(
            f"the key of `{holders[signers[0]].name}` did not count at {found.size} records",
            hint="it was registered later, or revoked or replaced before",
        )
    return found, counting


def recorded(ws: Workspace) -> list[Checkpoint]:
    """Return the recorded checkpoints, oldest first, each verified. Raises Tampered, Refused."""
    rows = ws.store.query("SELECT subject, body FROM event WHERE kind = ? ORDER BY seq", [KIND])
    principals = ws.principals()
    return [_verified(ws, row, principals) for row in rows]


def newest(ws: Workspace) -> Checkpoint | None:
    """Return the newest recorded checkpoint that holds, or None.

    One that does not is passed over, so that a foreign record stops nobody from signing; `log verify` names it.
    """
    sql = "SELECT subject, body FROM event WHERE kind = ? ORDER BY seq DESC"
    with ws.store.reading():
        principals = ws.principals()
        for limited in (f"{sql} LIMIT 1", sql):
            for row in ws.store.query(limited, [KIND]):
                with suppress(Tampered, Refused):
                    return _verified(ws, row, principals)
    return None


def publish(ws: Workspace, checkpoint: Checkpoint, target: str) -> str:
    """Put a checkpoint at a folder, git repository (`git+URL`, `*.git`) or HTTP endpoint; return where it is.

    Raises:
        Tampered: what is published there is not of this log, or not consistent with it; both are named.
        HallmarkError: it could not be written there; the words of git or of the server are in the message.
    """
    if not target:
        raise SpecError("no place to publish to", hint="name one with `--publish`, or set `checkpoint_publish`")
    return outside.write(
        target, checkpoint.size, checkpoint.note, ws.work("checkpoints"),
        lambda published: _check_published(ws, checkpoint, published),
    )  # fmt: skip


def roots(leaves: Iterable[bytes], sizes: Iterable[int]) -> dict[int, bytes]:
    """Return the tree's root at each of `sizes` that the leaves reach."""
    tree, wanted, found = merkle.Frontier(), set(sizes), {}
    if 0 in wanted:
        found[0] = merkle.EMPTY
    for leaf in leaves:
        tree.append(leaf)
        if tree.size in wanted:
            found[tree.size] = tree.root()
    return found


def _verified(ws: Workspace, row: Mapping[str, Any], principals: Mapping[str, Principal]) -> Checkpoint:
    body = orjson.loads(row["body"])
    checkpoint, _ = verify(ws.settings.workspace_id, str(body.get("note")), principals)
    if (str(checkpoint.size), checkpoint.root.hex()) != (row["subject"], body.get("root")):
        raise Tampered(
            f"recorded checkpoint over {row['subject']} records differs from its signed note",
            hint="run `hallmark log verify`",
        )
    return checkpoint


def _check_published(ws: Workspace, checkpoint: Checkpoint, published: outside.Notes) -> int:
    """Return the size of the newest published checkpoint (0 for none) after holding each against this log."""
    if not published:
        return 0
    principals, size = ws.principals(), ws.store.size()
    found = []
    for place, note in published:
        try:
            found.append((place, verify(ws.settings.workspace_id, note, principals)[0]))
        except HallmarkError as error:
            raise Tampered(f"`{place}` holds no checkpoint of this log: {error.message}", hint=error.hint) from None
    sizes = [other.size for _, other in found]
    mine = roots(ws.store.leaves(0, min(size, max(sizes))), sizes)
    for place, other in found:
        if other.size > size:
            raise Tampered(
                f"the log was cut: `{place}` holds {_named(other)}, this log has {size} records: {_named(checkpoint)}",
                hint="keep both; restore the journal from a copy, and run `hallmark log verify --checkpoint`",
            )
        if mine[other.size] != other.root:
            raise Tampered(
                f"`{place}` holds {_named(other)}, which is not consistent with this log: {_named(checkpoint)},"
                f" and its root over {other.size} is {_base64(mine[other.size])}",
                hint="keep both; `hallmark log verify --checkpoint` names where they part",
            )
    return max(other.size for _, other in found)


def _named(checkpoint: Checkpoint) -> str:
    return f"a checkpoint over {checkpoint.size} records of {checkpoint.time} with root {_base64(checkpoint.root)}"


def _text(origin: str, size: int, root: bytes, time: str) -> str:
    return f"{origin}\n{size}\n{_base64(root)}\ntime {time}\n"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _malformed(why: str) -> Tampered:
    return Tampered(f"malformed checkpoint: {why}", hint="get it again from where it is kept")
