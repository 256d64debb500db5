"""The dossier as Markdown, for reading in a terminal or a pull request; every value is escaped as text."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from reports import outline, phrases
from reports.facts import Kpi
from reports.html import moment, shown

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~!&])")


class Plain(str):
    """Text that is Markdown already."""

    __slots__ = ()


def escape(value: Any) -> str:
    """Return a value as text that Markdown shows as it is, on one line: no markup, no table cell, no link."""
    if isinstance(value, Plain):
        return value
    text = re.sub(r"\s+", " ", "".join(c for c in str(value) if c.isprintable() or c.isspace()))
    return re.sub(r"(?i)\b(https?|ftp|mailto|www)([:.])", "\\1\u200b\\2", _SPECIAL.sub(r"\\\1", text))


def code(value: Any) -> Plain:
    """Return a digest as inline code, in full."""
    return Plain("`" + re.sub(r"[^0-9A-Za-z:._-]", "", str(value)) + "`" if value else "")


def environment() -> Environment:
    """Return the Jinja environment of the Markdown pages: every output is escaped unless it is `Plain`."""
    env = Environment(  # noqa: S701 (not HTML: `finalize` escapes for Markdown)
        loader=PackageLoader("reports"),
        finalize=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters |= {
        "number": phrases.number,
        "percent": phrases.percent,
        "short": phrases.short,
        "code": code,
        "moment": moment,
        "shown": shown,
        "flat": outline.flat,
        "rule": lambda kpi: phrases.rule(kpi.rule, kpi.better, kpi.against),
        "measured": phrases.measured,
        "why": phrases.why,
    }
    env.globals |= {"counted": phrases.counted, "branch": branch}
    return env


def render(doc: dict[str, Any]) -> str:
    """Return an evidence bundle as a Markdown document; the same bundle gives the same bytes."""
    with_rows = {
        name: [{**row, "rows": [Kpi(**item) for item in row["kpis"]]} for row in reversed(doc[name])]
        for name in ("decisions", "refusals")
    }
    return (
        environment()
        .get_template("dossier.md")
        .render(doc=doc, tree=outline.tree(doc), index=outline.index(doc), **with_rows)
    )


def branch(rows: list[dict[str, Any]], depth: int = 0) -> Plain:
    """Return lineage rows as a nested list."""
    lines = []
    for row in rows:
        node = row["node"]
        again = ", shown above" if row["again"] else ""
        relation = f"{escape(row['relation'])}: " if row["relation"] else ""
        text = f"{relation}{escape(node['kind'])} {escape(node['label'])} {code(phrases.short(node['id']))}{again}"
        lines += [f"{'  ' * depth}- {text}", *([branch(row["children"], depth + 1)] if row["children"] else [])]
    return Plain("\n".join(lines))
