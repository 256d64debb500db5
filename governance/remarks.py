"""Notes on assets: why something was made, in its maker's words, kept in the journal beside it."""

from __future__ import annotations

from governance import roles
from registry.errors import Refused
from registry.records import Asset, Event
from registry.workspace import Workspace

VERBS = {
    "dataset": "build-data",
    "tokenizer": "train",
    "recipe": "train",
    "run": "train",
    "version": "train",
    "adapter": "train",
    "candidate": "create-candidate",
    "suite": "evaluate",
    "eval_run": "evaluate",
    "decision": "decide",
    "bundle": "change-policy",
    "certificate": "promote",
    "release": "promote",
    "drift": "check-drift",
}
"""Kind of asset to the verb of making one: who may make it may say why."""


def note(ws: Workspace, asset: Asset, text: str, *, actor: str | None = None) -> Event:
    """Record why an asset was made; return the event. Raises Refused: no words, or an actor who may not make such."""
    if not text.strip():
        raise Refused("a note needs words", hint="say why it was made with `--note TEXT`")
    principal = roles.require(ws, VERBS[asset.kind], asset.id, actor)
    return ws.record("asset.noted", asset.id, {"kind": asset.kind, "note": text.strip()}, actor=principal.name)
