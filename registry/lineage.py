"""Ancestry and impact over the edge table, and what changed between two versions."""

from __future__ import annotations

from typing import Any

import orjson

from registry.workspace import Workspace

MAX_DEPTH = 32


def ancestry(ws: Workspace, ident: str) -> list[dict[str, Any]]:
    """Return what an asset was made from, nearest first: dicts of depth, relation, id, label. Each asset once."""
    return _walk(ws, ident, "child", "parent")


def impact(ws: Workspace, ident: str) -> list[dict[str, Any]]:
    """Return what was made from an asset, nearest first. Each asset once."""
    return _walk(ws, ident, "parent", "child")


def difference(ws: Workspace, first: str, second: str) -> list[dict[str, Any]]:
    """Return what changed from one version to another: files, recipe, data, environment, as {what, from, to}."""
    one, two = _facts(ws, first), _facts(ws, second)
    return [
        {"what": key, "from": one.get(key, "-"), "to": two.get(key, "-")}
        for key in sorted(one.keys() | two.keys())
        if one.get(key) != two.get(key)
    ]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return found


def _walk(ws: Workspace, ident: str, start: str, end: str) -> list[dict[str, Any]]:
    rows = ws.store.query(
        f"WITH RECURSIVE reach(id, relation, depth) AS ("  # noqa: S608 (column names are our own)
        f" SELECT {end}, relation, 1 FROM edge WHERE {start} = ?"
        f" UNION SELECT e.{end}, e.relation, r.depth + 1 FROM edge e JOIN reach r ON e.{start} = r.id"
        f" WHERE r.depth < {MAX_DEPTH})"
        " SELECT r.id, min(r.depth) AS depth, arg_min(r.relation, r.depth) AS relation, any_value(a.kind) AS kind,"
        " any_value(a.name) AS name, any_value(a.number) AS number, any_value(a.owner) AS owner"
        " FROM reach r LEFT JOIN asset a ON a.id = r.id GROUP BY r.id ORDER BY depth, r.id",
        [ident],
    )
    return [
        {"depth": row["depth"], "relation": row["relation"], "id": row["id"], "kind": row["kind"],
         "label": f"{row['kind']} {row['name'] or ''}:{row['number']} {row['id'][7:19]} by {row['owner']}"}
        for row in rows
    ]  # fmt: skip


def _facts(ws: Workspace, ident: str) -> dict[str, Any]:
    asset = ws.resolve(ident, "version")
    facts = {f"weights.{name}": digest[7:19] for name, digest in asset.body["weights"].items()}
    for dataset in asset.body["datasets"]:
        row = ws.resolve(dataset, "dataset")
        facts[f"data.{row.name}"] = row.id[7:19]
        facts |= flatten(row.body["splits"], f"data.{row.name}.rows")
    if asset.body["run"]:
        run = ws.resolve(asset.body["run"], "run").body
        facts |= flatten(run["recipe_body"], "recipe")
        facts |= flatten(run["metrics"], "metrics")
        facts |= flatten(run["environment"], "environment")
    return {key: value if isinstance(value, str) else orjson.dumps(value).decode() for key, value in facts.items()}
