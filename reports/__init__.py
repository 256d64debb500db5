"""Evidence first, formats second: `render` writes a dossier, `render_ci` a gate decision for a CI system.

Formats are tables of names, imported on first use; a new one is a file and a line (or an entry point).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from registry.plugins import Plugins

if TYPE_CHECKING:
    from registry.workspace import Workspace

DOCUMENTS = Plugins("document", "hallmark.document", {"dossier": "reports.evidence:build"})
"""Name to a function (workspace, reference, last event or None) that returns an evidence bundle."""
FORMATS = Plugins(
    "format",
    "hallmark.report",
    {"html": "reports.html:render", "json": "reports.json_:render", "md": "reports.markdown:render"},
)
"""Name to a function of an evidence bundle that returns text."""
CI_FORMATS = Plugins(
    "format",
    "hallmark.report_ci",
    {"junit": "reports.junit:render", "sarif": "reports.sarif:render", "summary": "reports.summary:render"},
)
"""Name to a function of a `reports.facts.Decision` that returns text."""


def render(ws: Workspace, kind: str, ref: str, *, format: str = "html", out: Path, upto: int | None = None) -> Path:
    """Write a document about a version; return its path.

    Args:
        ws: the workspace.
        kind: which document; `dossier`.
        ref: the model version, by any reference the workspace resolves.
        format: `html`, `json` or `md`.
        out: the file to write, or an existing folder to write `<kind>-<name>-<number>.<format>` into.
        upto: the last event the document may know of; default all. The same point gives the same bytes.

    Raises:
        UnknownName: no such document, format or version.
    """
    build, write = DOCUMENTS.load(kind), FORMATS.load(format)
    doc = build(ws, ref, upto)
    name = doc["subject"]["label"].replace(":", "-")
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    path = out / f"{kind}-{safe}.{format}" if out.is_dir() else out
    return _save(path, write(doc))


def render_ci(ws: Workspace, decision_ref: str, *, format: str, out: Path | None = None) -> str:
    """Return a gate decision in a CI format, and write it to `out` where that is given.

    Args:
        ws: the workspace.
        decision_ref: the decision, by any reference the workspace resolves.
        format: `junit`, `sarif` or `summary`.
        out: a file to write.

    Raises:
        UnknownName: no such format or decision.
    """
    write = CI_FORMATS.load(format)
    from reports.views import Views

    text: str = write(Views(ws).decision(decision_ref))
    if out is not None:
        _save(out, text)
    return text


def _save(path: Path, text: str) -> Path:
    """Write a whole file or none; an existing one is replaced."""
    from registry.artifacts import replace_file

    replace_file(path, text.encode("utf-8"))
    return path
