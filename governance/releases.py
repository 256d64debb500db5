"""What is in production: every alias with its release, whether it holds, and its history with actor and reason."""

from __future__ import annotations

from dataclasses import dataclass

from registry import aliases
from registry.attestation import verify_release
from registry.errors import HallmarkError, UnknownName
from registry.records import Certificate
from registry.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Standing:
    """An alias now: what it points at, since when (UTC, ISO 8601), by whom, why. `problem` says why it is refused."""

    alias: str
    name: str
    version: str
    certificate: str
    expires: str
    since: str
    by: str
    reason: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """One line of an alias's history."""

    ts: str
    version: str
    certificate: str
    actor: str
    reason: str


def standings(ws: Workspace) -> list[Standing]:
    """Return every alias as it stands, each verified now, in name order."""
    return [_standing(ws, alias, head) for alias, head in aliases.heads(ws).items()]


def standing(ws: Workspace, alias: str) -> Standing:
    """Return one alias as it stands, verified now. Raises UnknownName."""
    heads = aliases.heads(ws)
    if alias not in heads:
        raise UnknownName("alias", alias, heads, hint=None if heads else "nothing was promoted yet")
    return _standing(ws, alias, heads[alias])


def history(ws: Workspace, alias: str) -> list[Move]:
    """Return every move of an alias, oldest first. Raises UnknownName."""
    rows = ws.store.query(
        "SELECT ts, version, certificate, actor, reason FROM alias_history WHERE alias = ? ORDER BY seq", [alias]
    )
    if not rows:
        known = aliases.heads(ws)
        raise UnknownName("alias", alias, known, hint=None if known else "nothing was promoted yet")
    return [Move(**row) for row in rows]


def _standing(ws: Workspace, alias: str, head: aliases.Head) -> Standing:
    release, problem = head.release, ""
    try:
        verify_release(ws, alias)
    except HallmarkError as error:
        problem = error.message
    certificate = ws.resolve(release.certificate, Certificate.KIND)
    return Standing(alias, certificate.name, release.version, release.certificate, certificate.body["expires"],
                    head.ts, head.actor, release.reason, problem)  # fmt: skip
