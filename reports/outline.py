"""Shapes the bundle for reading: the lineage as a tree, mappings as rows, the certificate line by line, an index.

Pure: bundle in, plain lists out; HTML and Markdown render the same lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from registry.records import Candidate
from reports.decoding import mapping

_DIGEST = re.compile(r"^(?:(?:sha256|blake3):)?[0-9a-f]{32,128}$")
SHORT = 400


def is_digest(value: Any) -> bool:
    """Say whether a value is a content digest, a key id or an event hash."""
    return isinstance(value, str) and bool(_DIGEST.match(value))


def anchor(ref: str) -> str:
    """Return an id for a place in the page, safe for any text."""
    return "e-" + re.sub(r"[^0-9a-zA-Z]+", "-", str(ref))[:72]


def tree(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lineage as nested rows `{relation, node, again, children}`; a node met before is not opened again."""
    nodes = {node["id"]: node for node in doc["lineage"]["nodes"]}
    children: dict[str, list[tuple[str, str]]] = {}
    for edge in doc["lineage"]["edges"]:
        children.setdefault(edge["child"], []).append((edge["relation"], edge["parent"]))
    for pairs in children.values():
        pairs.sort(key=lambda pair: ({"run": 0, "dataset": 1}.get(pair[0], 2), pair))
    seen: set[str] = set()

    def grow(ident: str, relation: str) -> dict[str, Any]:
        again = ident in seen
        seen.add(ident)
        unknown = {"id": ident, "kind": "not registered here", "label": "", "owner": "", "created": "", "body": {}}
        below = [] if again else [grow(parent, rel) for rel, parent in children.get(ident, [])]
        return {"relation": relation, "node": nodes.get(ident, unknown), "again": again, "children": below}

    return [grow(doc["subject"]["id"], "")]


def candidate_rows(body: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return a candidate's parts in the order of its record: model, texts, engine, policy."""
    order = [item.name for item in fields(Candidate)]
    return flat({key: body[key] for key in sorted(body, key=lambda k: order.index(k) if k in order else len(order))})


def flat(value: Any, skip: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    """Return nested plain data as (dotted path, scalar) rows; keys in `skip` are left out at every level."""
    return list(_flat(value, "", skip))


def _flat(value: Any, path: str, skip: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in skip:
                yield from _flat(item, f"{path}.{key}" if path else str(key), skip)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value, 1):
            yield from _flat(item, f"{path}[{index}]", skip)
    elif isinstance(value, list):
        yield path, ", ".join(str(item) for item in value)
    else:
        yield path, value


def certificate_files(doc: dict[str, Any], certificate: dict[str, Any]) -> list[dict[str, str]]:
    """Return the files a certificate binds, each with whether the registry records the same digest."""
    recorded = {
        f"weights/{item['path']}": item["sha256"]
        for candidate in doc["candidates"]
        if candidate["id"] == certificate["candidate"]
        for item in candidate["files"]
    }
    for bundle in doc["bundles"]:
        recorded |= {f"bundle/{item['path']}": item["sha256"] for item in bundle["files"]}
    rows = []
    subjects = certificate["statement"].get("subject")
    for subject in subjects if isinstance(subjects, list) else []:
        name, digest = (
            str(mapping(subject).get("name", "")),
            str(mapping(mapping(subject).get("digest")).get("sha256", "")),
        )
        known = recorded.get(name, "").removeprefix("sha256:")
        rows.append(
            {"name": name, "sha256": digest, "state": "same" if known == digest else "differs" if known else ""}
        )
    return rows


def certificate_terms(certificate: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return everything else a certificate says, line by line; embedded signatures are left out."""
    statement = certificate["statement"]
    rows = [("predicateType", statement.get("predicateType", ""))]
    return rows + flat(statement.get("predicate"), skip=("payload", "sig"))


def columns(rows: list[dict[str, Any]], first: tuple[str, ...], more: bool = True) -> list[str]:
    """Return the scalar columns of free-form rows: known ones first, then (if `more`, or none is known) the others."""
    found: dict[str, None] = {}
    for row in rows:
        found |= {
            key: None for key, item in row.items() if isinstance(item, str | int | float) and not isinstance(item, bool)
        }
    known = [key for key in first if key in found]
    return known + [key for key in found if key not in first] if more or not known else known


def index(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every piece of evidence the document cites, once: events by position, then assets and digests."""
    found: dict[str, dict[str, Any]] = {}

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if set(value) == {"kind", "ref", "what", "seq"}:
                found.setdefault(value["ref"], value)
                return
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(doc)
    return sorted(found.values(), key=lambda e: (e["kind"] != "event", e["seq"] or 0, e["kind"], e["what"], e["ref"]))
