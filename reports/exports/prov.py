"""W3C PROV-JSON: assets and releases are entities, executions activities, principals agents."""

from __future__ import annotations

from typing import Any

import orjson

from registry.records import Asset
from registry.workspace import Workspace
from reports.exports.selection import selected, started

ACTIVITIES = ("run", "eval_run", "decision")


def render(ws: Workspace, ident: str = "") -> str:
    """Return one PROV-JSON document (W3C member submission of 24 April 2013).

    Delegation is not part of it: a principal acts for itself, with its own key.
    """
    document: dict[str, Any] = {name: {} for name in (
        "entity", "activity", "agent", "wasGeneratedBy", "used", "wasAttributedTo", "wasAssociatedWith",
        "wasDerivedFrom", "wasInformedBy")}  # fmt: skip
    document["prefix"] = {"hm": f"urn:hallmark:{ws.settings.workspace_id}:"}
    assets = selected(ws, ident)
    starts = started(ws, assets)
    running = {asset.id for asset in assets if asset.kind in ACTIVITIES}
    for asset in assets:
        _describe(document, asset, starts.get(asset.id))
        name, acts = f"hm:{asset.id}", asset.id in running
        for _, parent in asset.parents:
            relation, body = _relation(name, f"hm:{parent}", acts, parent in running)
            _add(document, relation, body)
            if parent not in running and f"hm:{parent}" not in document["entity"]:
                document["entity"][f"hm:{parent}"] = {"prov:label": parent}
    kept = {name: value for name, value in document.items() if value}
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2).decode() + "\n"


def _describe(document: dict[str, Any], asset: Asset, start: str | None) -> None:
    """Add an asset as an entity or activity, with whose it is; a release has the time at which its alias moved."""
    name, agent, acts = f"hm:{asset.id}", f"hm:principal/{asset.owner}", asset.kind in ACTIVITIES
    document["agent"][agent] = {"prov:label": asset.owner}
    said: dict[str, Any] = {"prov:label": f"{asset.kind} {asset.name}:{asset.number}",
                            "prov:type": {"$": f"hm:{asset.kind}", "type": "prov:QUALIFIED_NAME"}}  # fmt: skip
    if acts:
        said |= {"prov:startTime": start} if start else {}
        said["prov:endTime"] = asset.created
    if asset.kind == "release":
        said |= {f"hm:{key}": asset.body[key] for key in ("alias", "reason")}
        _add(document, "wasGeneratedBy", {"prov:entity": name, "prov:time": asset.created})
    document["activity" if acts else "entity"][name] = said
    owned = {"prov:activity": name} if acts else {"prov:entity": name}
    _add(document, "wasAssociatedWith" if acts else "wasAttributedTo", {**owned, "prov:agent": agent})


def _relation(child: str, parent: str, acts: bool, ran: bool) -> tuple[str, dict[str, str]]:
    if acts and ran:
        return "wasInformedBy", {"prov:informed": child, "prov:informant": parent}
    if acts:
        return "used", {"prov:activity": child, "prov:entity": parent}
    if ran:
        return "wasGeneratedBy", {"prov:entity": child, "prov:activity": parent}
    return "wasDerivedFrom", {"prov:generatedEntity": child, "prov:usedEntity": parent}


def _add(document: dict[str, Any], relation: str, body: dict[str, str]) -> None:
    document[relation][f"_:{relation}{len(document[relation]) + 1}"] = body
