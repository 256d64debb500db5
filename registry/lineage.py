"""Ancestry and impact of any asset over the edge table: what it was made from, and what was made from it.

A release is a node too: one move of an alias, made from the certificate that it points at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from registry.changes import Difference, difference, flatten
from registry.errors import NotFound, UnknownName
from registry.projection import edge_key
from registry.records import Asset
from registry.workspace import Workspace

__all__ = ["KINDS", "MAX_DEPTH", "Difference", "ancestry", "difference", "find", "flatten", "impact"]

MAX_DEPTH = 32
KINDS = ("version", "adapter", "dataset", "candidate", "suite", "bundle", "tokenizer", "recipe", "run", "eval_run",
         "decision", "certificate", "drift", "release")  # fmt: skip
"""Kinds of assets; a bare name means the first kind here that has one of that name."""
RELEASES = """
SELECT release AS id, 'release' AS kind, alias AS name, row_number() OVER (PARTITION BY alias ORDER BY seq) AS number,
       actor AS owner, ts AS created, seq, to_json({
         alias: alias, certificate: certificate, candidate: candidate, version: version, reason: reason}) AS body
FROM alias_history"""

LINKS = """
CREATE OR REPLACE TEMP TABLE move AS
  SELECT release AS child, 'certificate' AS relation, certificate AS parent, -seq AS place, release_key AS child_key,
         certificate_key AS parent_key FROM alias_history;
CREATE OR REPLACE TEMP VIEW link AS
  SELECT {start}_key AS near, {end}_key AS far, rowid AS place FROM edge
  UNION ALL SELECT {start}_key, {end}_key, place FROM move;
"""
REACHED = """
CREATE OR REPLACE TEMP TABLE found AS
  WITH RECURSIVE reach(id, place, depth) USING KEY (id) AS (
    SELECT far, min(place), 1 FROM link WHERE near = {key} AND far <> near GROUP BY far
    UNION
    SELECT l.far, min(l.place), min(r.depth) + 1 FROM link l JOIN reach r ON l.near = r.id
    WHERE r.depth < {depth} AND l.far <> {key}
      AND NOT EXISTS (SELECT 1 FROM recurring.reach k WHERE k.id = l.far)
    GROUP BY l.far)
  SELECT r.depth, r.place, e.relation, e.{end} AS id, e.{start} AS via FROM reach r JOIN edge e ON e.rowid = r.place
  UNION ALL
  SELECT r.depth, r.place, m.relation, m.{end}, m.{start} FROM reach r JOIN move m ON m.place = r.place;
"""
LABELS = f"""
SELECT f.depth, f.relation, f.id, f.via, coalesce(a.kind, m.kind) AS kind, coalesce(a.name, m.name) AS name,
       coalesce(a.number, m.number)::INTEGER AS number, coalesce(a.owner, m.owner) AS owner,
       coalesce(a.created, m.created) AS created
FROM found f LEFT JOIN asset a ON a.id = f.id LEFT JOIN ({RELEASES}) m ON m.id = f.id
ORDER BY f.depth, abs(f.place), f.id
"""  # noqa: S608 (our own text)


def find(ws: Workspace, ref: str, kind: str = "") -> Asset:
    """Return the asset of any kind that a reference means.

    Args:
        ws: the workspace.
        ref: an id or unique prefix, `name` (newest), `name:3`, `name@alias`, or one of these behind a kind and a slash:
            `dataset/code:2`, `release/prod`. A bare name means the first of `KINDS` that knows it.
        kind: the only kind wanted; default any.

    Raises:
        UnknownName: nothing has that name; NotFound: a prefix that fits several assets.
    """
    head, slash, rest = ref.partition("/")
    if slash and head in KINDS:
        kind, ref = head, rest
    if "@" in ref:
        return ws.resolve(ref, kind or "version")
    wanted = (kind,) if kind else KINDS
    rows = [row for row in _named(ws, ref, wanted) if row["kind"] in wanted]
    if not rows:
        known = {row["name"] for row in ws.store.query("SELECT DISTINCT name FROM asset WHERE name <> ''")}
        raise UnknownName(kind or "asset", ref, known)
    exact = [row for row in rows if row["id"] == ref]
    named = [row for row in rows if not _digits(ref) or not row["id"].startswith(f"sha256:{_digits(ref)}")]
    if not exact and not named and len({row["id"] for row in rows}) > 1:
        raise NotFound(f"`{ref}` fits {len(rows)} assets", hint="give more digits")
    row = min(exact or named or rows, key=lambda row: (wanted.index(row["kind"]), -row["seq"]))
    return _asset(ws, row)


def ancestry(ws: Workspace, ident: str, depth: int = MAX_DEPTH) -> list[dict[str, Any]]:
    """Return what an asset was made from, nearest first, each asset once, at most `depth` steps away.

    Each is a dict of depth, relation, id, via (the nearer id it was reached from), kind, name, number, owner, created
    and label. Kind, name, number, owner and created of something that was never registered are None.
    """
    return _walk(ws, ident, "child", "parent", depth)


def impact(ws: Workspace, ident: str, depth: int = MAX_DEPTH) -> list[dict[str, Any]]:
    """Return what was made from an asset, releases included, as `ancestry` does."""
    return _walk(ws, ident, "parent", "child", depth)


def _walk(ws: Workspace, ident: str, start: str, end: str, depth: int) -> list[dict[str, Any]]:
    """Breadth first over the 64-bit keys of the ids: comparing the ids themselves costs several times that.

    What was reached is not entered again, so cycles end. Ids are compared again at the end, so that two ids of one hash
    cannot lend each other their ancestors. Places below zero are moves of aliases.
    """
    if depth < 1:
        return []
    rows = ws.store.query(
        LINKS.format(start=start, end=end)
        + REACHED.format(start=start, end=end, key=edge_key(ident), depth=min(depth, MAX_DEPTH))
        + LABELS
    )
    reached, found = {ident}, []
    for row in rows:
        if row["via"] in reached and row["id"] not in reached:
            reached.add(row["id"])
            found.append({**row, "label": label(row)})
    return found


def label(node: dict[str, Any]) -> str:
    """Return one line that says what a node is and who owns it."""
    if node["kind"] is None:
        return f"not registered {node['id'].removeprefix('sha256:')[:12]}"
    name = f"{node['name'] or ''}:{node['number']}"
    return f"{node['kind']} {name} {node['id'].removeprefix('sha256:')[:12]} by {node['owner']}"


def _named(ws: Workspace, ref: str, wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    name, _, number = ref.partition(":")
    numbered = number.isdigit() and not ref.startswith("sha256:")
    test = "(name = ? AND number = ?)" if numbered else "name = ?"
    params: list[Any] = [name, int(number)] if numbered else [ref]
    if digits := _digits(ref):
        test += " OR starts_with(id, ?)"
        params.append(f"sha256:{digits}")
    rows = ws.store.query(f"SELECT * FROM asset WHERE {test}", params)  # noqa: S608 (our own text)
    if not any(row["kind"] in wanted for row in rows) and "release" in wanted:
        rows = ws.store.query(f"SELECT * FROM ({RELEASES}) WHERE {test}", params)  # noqa: S608 (our own text)
    return rows


def _digits(ref: str) -> str:
    digits = ref.removeprefix("sha256:")
    return digits if len(digits) >= 4 and not digits.strip("0123456789abcdef") else ""


def _asset(ws: Workspace, row: dict[str, Any]) -> Asset:
    made = Asset(row["id"], row["kind"], row["name"], int(row["number"]), row["owner"], row["created"],
                 orjson.loads(row["body"]))  # fmt: skip
    if made.kind == "release":
        return replace(made, parents=(("certificate", made.body["certificate"]),))
    edges = ws.store.query("SELECT relation, parent FROM edge WHERE child_key = ? AND child = ? ORDER BY seq",
                           [edge_key(made.id), made.id])  # fmt: skip
    return replace(made, parents=tuple((edge["relation"], edge["parent"]) for edge in edges))
