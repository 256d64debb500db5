"""Judges each control of the dated catalogues by what the evidence bundle holds.

A status says how much evidence there is, never that a law is kept: evidenced, partial, missing or not applicable.
"""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from registry.specs import Spec, load
from reports import probes

Status = Literal["evidenced", "partial", "missing", "not_applicable"]
FOLDER = Path(__file__).parent / "controls"


class Control(Spec):
    """One control: `needs` names the probes that bear on it, `gaps` says what no record here can show."""

    id: str
    title: str
    asks: str
    needs: tuple[probes.Name, ...]
    gaps: tuple[str, ...] = ()
    verified: bool = True


class Catalogue(Spec):
    """A framework's controls as somebody read them on a date; `verified` is false where the source was not at hand."""

    framework: str
    title: str
    source: str
    as_of: date
    verified: bool
    note: str = ""
    controls: tuple[Control, ...] = Field(min_length=1)


@cache
def catalogues(folder: Path = FOLDER) -> tuple[Catalogue, ...]:
    """Return the catalogues of a folder of YAML files, by file name. Raises SpecError."""
    return tuple(load(path, Catalogue) for path in sorted(folder.glob("*.yaml")))


def assess(doc: dict[str, Any], folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return one table per catalogue: every control with its status, the reason, and evidence."""
    findings = {name: probe(doc) for name, probe in probes.PROBES.items()}
    tables = []
    for catalogue in catalogues(folder):
        rows = [judge(control, findings, verified=catalogue.verified) for control in catalogue.controls]
        counts = {status: sum(row["status"] == status for row in rows) for status in Status.__args__}  # type: ignore[attr-defined]
        head = catalogue.model_dump(mode="json", exclude={"controls"})
        tables.append({**head, "catalogue": catalogue.digest, "counts": counts, "controls": rows})
    return tables


def judge(control: Control, findings: dict[probes.Name, probes.Finding], *, verified: bool = True) -> dict[str, Any]:
    """Return one control's row. Only probes that hold completely, with no gap beside them, make it `evidenced`."""
    found = [findings[name] for name in control.needs]
    applying = [finding for finding in found if finding.state != "na"]
    status: Status
    if found and not applying:
        status = "not_applicable"
    elif not any(finding.state in {"yes", "part"} for finding in applying):
        status = "missing"
    elif control.gaps or any(finding.state != "yes" for finding in applying):
        status = "partial"
    else:
        status = "evidenced"
    lacking = [finding.reason for finding in found if finding.state != "yes"] + list(control.gaps)
    holding = [finding.reason for finding in found if finding.state == "yes"]
    evidence = {ref["ref"]: ref for finding in found for ref in finding.evidence}
    return {
        "id": control.id,
        "title": control.title,
        "asks": control.asks,
        "status": status,
        "holds": list(dict.fromkeys(holding)),
        "lacks": list(dict.fromkeys(lacking)),
        "verified": control.verified and verified,
        "evidence": list(evidence.values()),
    }
