"""The dossier as one self-contained HTML page: no script, no outside asset, light and dark, printable.

Every value is untrusted and escaped; the page's content security policy allows only its own style sheet, by hash.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from reports import charts, outline, phrases
from reports.facts import Kpi

SECTIONS = (
    ("summary", "In short"),
    ("refusals", "Refused in this line"),
    ("gate", "The gate"),
    ("approvals", "Approvals and roles"),
    ("certificate", "Certificate"),
    ("releases", "Releases"),
    ("identity", "What it is"),
    ("lineage", "Where it comes from"),
    ("data", "Data"),
    ("policy", "Policy"),
    ("log", "Decision log"),
    ("drift", "Drift"),
    ("controls", "Control tables"),
    ("journal", "Journal"),
    ("verify", "How to check this"),
    ("index", "Evidence index"),
)


def render(doc: dict[str, Any]) -> str:
    """Return an evidence bundle as an HTML page; the same bundle gives the same bytes."""
    env = environment()
    css = (Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    decisions = [{**row, "rows": [Kpi(**item) for item in row["kpis"]]} for row in reversed(doc["decisions"])]
    return env.get_template("dossier.html").render(
        doc=doc,
        css=css,
        csp=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        sections=SECTIONS,
        decisions=decisions,
        refusals=[{**row, "rows": [Kpi(**item) for item in row["kpis"]]} for row in reversed(doc["refusals"])],
        tree=outline.tree(doc),
        index=outline.index(doc),
    )


def environment() -> Environment:
    """Return the Jinja environment of the HTML pages: autoescape on, undefined names are errors."""
    env = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "number": phrases.number,
        "percent": phrases.percent,
        "size": phrases.size,
        "short": phrases.short,
        "rule": lambda kpi: phrases.rule(kpi.rule, kpi.better, kpi.against),
        "estimate": lambda kpi, value: phrases.estimate(kpi, value),
        "interval": phrases.interval,
        "why": phrases.why,
        "flat": outline.flat,
        "candidate_rows": outline.candidate_rows,
        "anchor": outline.anchor,
        "moment": moment,
        "shown": shown,
    }
    env.tests["digest"] = outline.is_digest
    env.globals |= {
        "counted": phrases.counted,
        "forest": forest,
        "certificate_files": outline.certificate_files,
        "certificate_terms": outline.certificate_terms,
        "columns": outline.columns,
    }
    return env


def forest(kpis: list[Kpi], title: str) -> str:
    """Return the forest plot of the KPIs that have a line to be drawn; the SVG escapes its own texts."""
    return charts.forest([kpi for kpi in kpis if kpi.threshold is not None], title)


def moment(value: Any) -> str:
    """Return an ISO 8601 time as `2026-01-31 12:00:00 UTC`."""
    text = str(value or "")
    return f"{text[:10]} {text[11:19]} UTC" if len(text) >= 19 and text[10] == "T" else text


def shown(value: Any) -> str:
    """Return a scalar as text, numbers in house style; long texts are cut, saying so."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int | float):
        return phrases.number(value)
    text = str(value)
    return text if len(text) <= outline.SHORT else f"{text[: outline.SHORT]}\u2026 ({len(text):,} characters)"
