"""Receipts and inclusion proofs: what a reader keeps to show later that a record was in the log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson

from registry import checkpoints, merkle
from registry.errors import NotFound, SpecError, Tampered
from registry.journal import HEADER
from registry.workspace import Workspace


def receipt_of(ws: Workspace, ref: str) -> dict[str, Any]:
    """Return the receipt of a record: what shows later that it was in the log, {workspace, segment, pos, hash}."""
    row = record_of(ws, ref)
    return {"workspace": ws.settings.workspace_id, "segment": row["segment"], "pos": row["pos"], "hash": row["hash"]}


def record_of(ws: Workspace, ref: str) -> dict[str, Any]:
    """Return the event of a place in the log (from 1) or of a hash (or its unique prefix). Raises NotFound."""
    text = ref.removeprefix("sha256:")
    if ref.isascii() and ref.isdigit() and len(ref) < 16:
        rows = ws.store.query("SELECT * FROM event WHERE seq = ?", [int(ref)])
    else:
        rows = ws.store.query("SELECT * FROM event WHERE starts_with(hash, ?) LIMIT 2", [text]) if len(text) > 5 else []
    if len(rows) != 1:
        raise NotFound(f"`{ref}` fits {'several' if rows else 'no'} records",
                       hint="`hallmark log show` lists numbers; hashes take at least 6 digits")  # fmt: skip
    return rows[0]


def prove(ws: Workspace, ref: str) -> dict[str, Any]:
    """Return the inclusion proof of a record in the newest recorded checkpoint, as plain data.

    Keys: seq, index (from 0), size, root, leaf, proof (hex, from the leaf up), payload (the record's exact JSON text),
    checkpoint (the signed note).

    Raises NotFound where there is no such record, or no checkpoint covers it yet.
    """
    row, newest = record_of(ws, ref), checkpoints.newest(ws)
    if newest is None or row["seq"] > newest.size:
        covered = "no checkpoint" if newest is None else f"the newest checkpoint covers {newest.size} records and"
        raise NotFound(f"{covered} covers record {row['seq']}" if newest is None else f"{covered} not {row['seq']}",
                       hint="run `hallmark log checkpoint`")  # fmt: skip
    leaves, index = ws.store.leaves(0, newest.size), row["seq"] - 1
    payload = _payload(ws.journal.root / f"{row['segment']}.seg", row["pos"])
    proof, leaf = merkle.inclusion_proof(leaves, index), merkle.leaf_hash(payload)
    if not merkle.verify_inclusion(leaf, index, newest.size, proof, newest.root):
        raise Tampered("the log differs from its newest checkpoint", hint="run `hallmark log verify`")
    return {
        "seq": row["seq"], "index": index, "size": newest.size, "root": newest.root.hex(), "leaf": leaf.hex(),
        "proof": [step.hex() for step in proof], "payload": payload.decode(), "checkpoint": newest.note,
    }  # fmt: skip


def _payload(path: Path, pos: int) -> bytes:
    """Return the exact JSON bytes of the record at a position of a segment."""
    with path.open("rb") as file:
        for _ in range(pos):
            file.seek(HEADER.unpack(file.read(HEADER.size))[0], os.SEEK_CUR)
        return file.read(HEADER.unpack(file.read(HEADER.size))[0])


def read_receipts(path: Path) -> list[dict[str, Any]]:
    """Return the receipts of a file: one JSON object, or a list of them. Raises NotFound, SpecError."""
    try:
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"no file `{path}`", hint="`hallmark log receipt` writes one") from None
    except orjson.JSONDecodeError as error:
        raise SpecError(f"not JSON: {error}", file=str(path), hint="`hallmark log receipt` writes one") from None
    found = value if isinstance(value, list) else [value]
    for receipt in found:
        kinds = [("workspace", str), ("segment", str), ("pos", int), ("hash", str)]
        if not isinstance(receipt, dict) or any(not isinstance(receipt.get(name), kind) for name, kind in kinds):
            raise SpecError("not a receipt: workspace, segment, pos, hash", file=str(path),
                            hint="`hallmark log receipt` writes one")  # fmt: skip
    return found
