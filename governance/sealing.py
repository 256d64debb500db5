"""Every signature of an event held against the key it names: what was signed is what stands in the log, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from governance.audit import Audit, Fault
from registry.identity import pre_authentication
from registry.seals import SEAL_TYPE, claim
from registry.signers import from_base64, verify_signature
from registry.workspace import Workspace

if TYPE_CHECKING:
    from registry.identity import Principal


def seal_faults(ws: Workspace, found: Audit, principals: dict[str, Principal]) -> tuple[int, list[Fault]]:
    """Return how many events carry a signature, and those whose signature is not their actor's, or stands there twice.

    Whether the signer's role lets an event count is decided where the event is used.
    """
    rows = ws.store.query(
        "SELECT seq, kind, subject, body, actor, sig FROM event WHERE sig IS NOT NULL AND seq <= ? ORDER BY seq",
        [len(found.order)],
    )
    faults: list[Fault] = []
    seen: set[str] = set()
    for row in rows:
        why = _wrong(ws.settings.workspace_id, row, principals, seen)
        if why:
            faults.append(found.located(f"{why} (`{row['kind']}` of `{str(row['subject'])[:32]}`)", row["seq"]))
    return len(rows), faults


def _wrong(workspace: str, row: dict[str, Any], principals: dict[str, Principal], seen: set[str]) -> str:
    """Return what is wrong with one event's signature, or nothing."""
    try:
        mark = orjson.loads(row["sig"])
        principal, signature = principals.get(mark["keyid"]), from_base64(mark["sig"])
        body = orjson.loads(row["body"])
        content = claim(workspace, row["kind"], row["subject"], body, row["actor"], mark["at"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return "its signature is malformed"
    if principal is None or principal.name != row["actor"]:
        return f"it is not signed by `{row['actor']}`"
    if not verify_signature(principal.public, signature, pre_authentication(SEAL_TYPE, content)):
        return f"it is not what `{row['actor']}` signed"
    if mark["sig"] in seen:
        return "it repeats the signature of an earlier record"
    seen.add(mark["sig"])
    return ""
