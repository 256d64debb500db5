"""Lineage as text of at most 100 columns: a tree of assets, and the table of what changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from registry.changes import Change, Difference

WIDTH = 100
LEFT = 54
"""Columns for branches, relation, kind and name; id, owner and date follow."""


def draw(root: str, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return nodes as `registry.lineage` lists them, each under the one it was reached from, `root` left out."""
    children: dict[str, list[Mapping[str, Any]]] = {}
    for node in nodes:
        children.setdefault(node["via"], []).append(node)
    return list(_branches(root, "", children))


def line(node: Mapping[str, Any], before: str = "") -> str:
    """Return one asset as a line: relation, kind, name and number, id, owner, date."""
    relation = str(node.get("relation", ""))
    kind = str(node["kind"] or "not registered")
    name = f"{node['name']}:{node['number']}" if node["name"] else f"#{node['number']}" if node["number"] else ""
    said = f"{kind} {name}".strip() if relation in ("", node["kind"]) else f"{relation}: {kind} {name}".strip()
    left = _cut(before + said, LEFT)
    owner = _cut(str(node["owner"] or "-"), 14)
    ident, day = node["id"].removeprefix("sha256:")[:12], str(node["created"] or "")[:10]
    return f"{left:<{LEFT}}  {ident}  {owner:<14}  {day}".rstrip()


def tell(found: Difference, title: str, names: Mapping[str, str]) -> Iterator[str]:
    """Yield a difference as lines. `names` maps ids to what a reader calls them."""
    yield title
    sections = {"inputs": found.inputs, "configuration": found.configuration, "results": found.results}
    for name, changes in sections.items():
        if changes:
            yield ""
            yield name
            wide = min(44, max(len(change.what) for change in changes))
            yield from (_change(change, wide) for change in changes)
    if found.reasons:
        yield ""
        yield "why"
        for reason in found.reasons:
            about = names.get(reason.about, reason.about.removeprefix("sha256:")[:12])
            head = f"  {reason.ts[:16].replace('T', ' ')}  {_cut(reason.actor, 14):<14}  {_cut(about, 20):<20}  "
            yield from _wrapped(head, reason.text)
    if not any(sections.values()):
        yield "nothing differs"


def _branches(parent: str, indent: str, children: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    below = children.get(parent, ())
    for number, node in enumerate(below, start=1):
        last = number == len(below)
        yield line(node, indent + ("└─ " if last else "├─ "))
        yield from _branches(node["id"], indent + ("   " if last else "│  "), children)


def _change(change: Change, wide: int) -> str:
    sign = "+" if change.before == "-" else "-" if change.after == "-" else "~"
    by = f"  ({change.by:+,.6g})" if change.by else ""
    head = f"  {sign} {_cut(change.what, wide):<{wide}}  "
    room = WIDTH - len(head) - len(by)
    if sign == "+":
        return head + _cut(change.after, room)
    if sign == "-":
        return head + _cut(change.before, room)
    half = max(8, (room - 4) // 2)
    spare = max(0, half - len(change.before))
    return f"{head}{_cut(change.before, half)} -> {_cut(change.after, half + spare)}{by}"


def _wrapped(head: str, text: str) -> Iterator[str]:
    import textwrap

    room = max(20, WIDTH - len(head))
    for number, part in enumerate(textwrap.wrap(text, room) or [""]):
        yield (head if number == 0 else " " * len(head)) + part


def _cut(text: str, width: int) -> str:
    flat = " ".join(text.split()) if "\n" in text else text
    return flat if len(flat) <= width else flat[: max(0, width - 1)] + "…"
