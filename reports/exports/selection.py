"""Which assets an export is about: all of them, or one with its ancestry and impact."""

from __future__ import annotations

from registry import lineage
from registry.records import Asset
from registry.workspace import Workspace


def selected(ws: Workspace, ident: str) -> list[Asset]:
    """Return the assets to export, oldest first. `ident` is the id of the one it is about; empty means every asset."""
    rows = ws.store.query("SELECT id, kind FROM asset ORDER BY seq")
    kept = {row["id"] for row in rows}
    if ident:
        around = [*lineage.ancestry(ws, ident), *lineage.impact(ws, ident)]
        kept = {ident} | {node["id"] for node in around}
    found = {asset.id: asset for kind in sorted({row["kind"] for row in rows if row["id"] in kept})
             for asset in ws.assets(kind)}  # fmt: skip
    return [found[row["id"]] for row in rows if row["id"] in kept]
