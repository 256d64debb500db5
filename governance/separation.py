"""Separation of duties: who trained what is about to be approved, by key and not by a name in a record."""

from __future__ import annotations

from dataclasses import dataclass

from registry import seals
from registry.records import Asset
from registry.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Trainers:
    """Who trained a candidate: names, and every key these principals ever had."""

    names: tuple[str, ...]
    keyids: frozenset[str]


def trainers(ws: Workspace, candidate: Asset) -> Trainers:
    """Return who trained a candidate's version, and its adapter where it has one.

    It is who signed the run; where there is no run, who signed the version or adapter itself. That two principals are
    one person cannot be known here: their keys differ.

    Raises:
        Tampered: a run carries no signature, or one that does not verify.
        Refused: it is signed by somebody who may not train.
    """
    sealed = seals.registrations(ws, _sources(ws, candidate))
    names = tuple(dict.fromkeys(found.principal.name for found in sealed.values()))
    known = ws.principals().values()
    return Trainers(names, frozenset(p.keyid for p in known if p.name in names))


def _sources(ws: Workspace, candidate: Asset) -> list[str]:
    """Return the ids of the runs, or of what has none, that made a candidate's version and adapter."""
    rows = ws.store.query(
        "SELECT id, json_extract_string(body, '$.run') AS run FROM asset WHERE id = ?"
        " OR (kind = 'adapter' AND json_extract_string(body, '$.manifest') = ?) ORDER BY seq",
        [candidate.body["version"], candidate.body.get("adapter", "none")],
    )
    return [row["run"] or row["id"] for row in rows]
