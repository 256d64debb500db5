"""Legal holds: while one stands, nothing it covers is deleted, whoever asks."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from governance import roles
from registry import lineage, seals
from registry.errors import NotFound, Refused
from registry.records import Asset
from registry.workspace import Workspace

EVIDENCE = frozenset({"eval_run", "decision", "certificate", "drift"})


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold on an asset, all it was made from and its evidence; `lifted` is a time, empty while it stands."""

    id: str
    target: str
    label: str
    reason: str
    ts: str
    by: str
    lifted: str = ""


def place(ws: Workspace, ref: str, *, reason: str, actor: str | None = None) -> Hold:
    """Place a hold on an asset. Raises Refused without a reason, NotFound for a reference that means nothing."""
    principal = roles.require(ws, "place-hold", ref, actor)
    if not reason.strip():
        raise Refused("a hold needs a reason", hint="give one with `--reason`")
    asset = find(ws, ref)
    ident = secrets.token_hex(6)
    with ws.store.lock():  # no deletion may run between a collector's look at the holds and its hand on a file
        body = {"target": asset.id, "label": f"{asset.kind} {asset.name}:{asset.number}", "reason": reason}
        ws.record("hold.placed", ident, body, actor=principal.name)
    return next(hold for hold in holds(ws) if hold.id == ident)


def lift(ws: Workspace, ref: str, *, reason: str, actor: str | None = None) -> Hold:
    """End a hold. Raises NotFound, and Refused without a reason or for one that was lifted before."""
    principal = roles.require(ws, "lift-hold", ref, actor)
    if not reason.strip():
        raise Refused("lifting a hold needs a reason", hint="give one with `--reason`")
    with ws.store.lock():
        found = [hold for hold in holds(ws) if hold.id.startswith(ref)]
        if len(found) != 1:
            raise NotFound(f"no hold `{ref}`" if not found else f"`{ref}` fits {len(found)} holds",
                           hint="`hallmark hold list` shows them")  # fmt: skip
        if found[0].lifted:
            raise Refused(f"hold `{found[0].id}` was lifted on {found[0].lifted[:19]}", hint="see `hallmark hold list`")
        ws.record("hold.lifted", found[0].id, {"reason": reason}, actor=principal.name)
    return next(hold for hold in holds(ws) if hold.id == found[0].id)


def holds(ws: Workspace) -> list[Hold]:
    """Return all holds, oldest first. Raises Tampered or Refused when one is not signed as it must be."""
    ended = {event.subject: event.ts for event in seals.sealed(ws, "hold.lifted")}
    return [
        Hold(e.subject, e.body["target"], e.body["label"], e.body["reason"], e.ts, e.principal.name,
             ended.get(e.subject, ""))
        for e in seals.sealed(ws, "hold.placed")
    ]  # fmt: skip


def covered(ws: Workspace) -> dict[str, Hold]:
    """Return the ids of everything that a standing hold covers, each with the first hold that covers it."""
    found: dict[str, Hold] = {}
    for hold in holds(ws):
        if hold.lifted:
            continue
        above = lineage.impact(ws, hold.target)
        below = [item["id"] for item in lineage.ancestry(ws, hold.target)]
        proof = [item["id"] for item in above if item["kind"] in EVIDENCE]
        proof += _about(ws, [hold.target, *(item["id"] for item in above if item["kind"] == "candidate")])
        instruments = [item["id"] for ident in proof for item in lineage.ancestry(ws, ident)]
        for ident in (hold.target, *below, *proof, *instruments):
            found.setdefault(ident, hold)
    return found


def find(ws: Workspace, ref: str) -> Asset:
    """Return the asset of any kind that a reference means; an alias means the version it points at."""
    if (ws.root / "releases" / f"{ref}.json").is_file() and "/" not in ref:
        return ws.resolve(ws.release(ref).version, "version")
    return lineage.find(ws, ref)


def _about(ws: Workspace, candidates: list[str]) -> list[str]:
    """Return the evidence that names one of these candidates, whatever edges it has."""
    rows = ws.store.query(
        "SELECT id, kind FROM asset"
        " WHERE list_contains(CAST(? AS VARCHAR[]), json_extract_string(body, '$.candidate'))",
        [candidates],
    )
    return [row["id"] for row in rows if row["kind"] in EVIDENCE]
