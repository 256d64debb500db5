"""What an export is about: every asset and release, or one with its ancestry and impact; and when runs began."""

from __future__ import annotations

from collections import defaultdict

import orjson

from registry import lineage
from registry.records import Asset, digest_of
from registry.workspace import Workspace

COLUMNS = "id, kind, name, number, owner, created, body, seq"
NODES = f"SELECT * FROM (SELECT {COLUMNS} FROM asset UNION ALL SELECT {COLUMNS} FROM ({lineage.RELEASES}))"  # noqa: S608 (our own text)
KEPT = " IN (SELECT unnest(?::VARCHAR[]))"


def selected(ws: Workspace, ident: str) -> list[Asset]:
    """Return the assets and releases to export, oldest first.

    Args:
        ws: the workspace.
        ident: the id of the asset or release that it is about; empty means everything.
    """
    kept = None
    if ident:
        around = [*lineage.ancestry(ws, ident), *lineage.impact(ws, ident)]
        kept = sorted({ident, *(node["id"] for node in around)})
    params = [] if kept is None else [kept]
    nodes, edges = (NODES, "SELECT child, relation, parent FROM edge")
    if kept is not None:
        nodes, edges = f"{nodes} WHERE id{KEPT}", f"{edges} WHERE child{KEPT}"
    parents = defaultdict(list)
    for row in ws.store.query(f"{edges} ORDER BY seq", params):
        parents[row["child"]].append((row["relation"], row["parent"]))
    found = []
    for row in ws.store.query(f"{nodes} ORDER BY seq", params):
        body = orjson.loads(row["body"])
        if row["kind"] == "release":
            parents[row["id"]] = [("certificate", body["certificate"])]
        found.append(Asset(row["id"], row["kind"], row["name"], int(row["number"]), row["owner"], row["created"], body,
                           tuple(parents[row["id"]])))  # fmt: skip
    return found


def started(ws: Workspace, assets: list[Asset]) -> dict[str, str]:
    """Return when each run began (UTC, ISO 8601) by its id: the newest start of its work before it was registered.

    A run that was resumed has the start of the attempt that ended it. Runs that the journal saw only the end of, and
    whatever is no run, are left out.
    """
    times = defaultdict(list)
    for row in ws.store.query("SELECT subject, ts FROM event WHERE kind = 'run.started' ORDER BY seq"):
        times[row["subject"]].append(row["ts"])
    found = {}
    for run in assets:
        if run.kind == "run":
            key = digest_of({name: run.body[name] for name in ("recipe", "datasets", "base")})
            before = [ts for ts in times.get(key, ()) if ts <= run.created]
            found.update({run.id: before[-1]} if before else {})
    return found
