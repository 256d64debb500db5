"""Re-certification: a drift verdict opens it, a certificate on a new PASS closes it, and it may end a certificate.

Records: `recertification.opened` and `recertification.closed`, both of the certificate that drifted, both signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from registry import seals
from registry.attestation import verify_certificate
from registry.clock import trusted_now
from registry.errors import HallmarkError, NotYet
from registry.protocols import Progress, silent
from registry.records import Asset, DriftWindow
from registry.workspace import Workspace

if TYPE_CHECKING:
    from evals.decision import Decision

OPENED, CLOSED = "recertification.opened", "recertification.closed"


@dataclass(frozen=True, slots=True)
class Recertification:
    """One that was opened: why, and by which certificate it was closed (`successor`, empty while it is open)."""

    alias: str
    certificate: str
    candidate: str
    window: str
    cause: str
    opened: str
    by: str
    closed: str = ""
    successor: str = ""


def recertifications(ws: Workspace, alias: str = "") -> list[Recertification]:
    """Return those of an alias, or all, oldest first.

    Raises Tampered or Refused when one of their records is not signed as it must be.
    """
    closed = {(event.body["alias"], event.subject): event for event in seals.sealed(ws, CLOSED)}
    found = []
    for event in seals.sealed(ws, OPENED):
        body, end = event.body, closed.get((event.body["alias"], event.subject))
        found.append(Recertification(
            body["alias"], event.subject, body["candidate"], body["window"], body["cause"], event.ts,
            event.principal.name, end.ts if end else "", end.body["successor"] if end else "",
        ))  # fmt: skip
    return [item for item in found if alias in ("", item.alias)]


def open_for(ws: Workspace, window: DriftWindow, *, actor: str) -> Recertification | None:
    """Return the re-certification that a drift verdict asks for, opened now unless one of its certificate stands.

    None where the verdict is not `drift`, or the alias was never promoted.
    """
    certificate = (window.check or {}).get("certificate", "")
    if window.verdict != "drift" or not certificate:
        return None
    with ws.store.lock():  # two checks at once open one
        standing = _of(ws, window.alias, certificate)
        if standing:
            return standing[-1]
        candidate = ws.resolve(certificate, "certificate").body["candidate"]
        body = {"alias": window.alias, "candidate": candidate, "window": window.id, "cause": window.cause}
        ws.record(OPENED, certificate, body, actor=actor)
    return _of(ws, window.alias, certificate)[-1]


def settle(ws: Workspace, alias: str, *, actor: str) -> list[Recertification]:
    """Close those of an alias that now serves a certificate which holds, issued on a PASS that was decided afterwards.

    Called when an alias is promoted, and by every drift check; returns what was closed.
    """
    done = []
    with ws.store.lock():
        for item in recertifications(ws, alias):
            successor = "" if item.closed else _successor(ws, item)
            if successor:
                ws.record(CLOSED, item.certificate, {"alias": alias, "successor": successor}, actor=actor)
                done.append(item.certificate)
    return [item for item in recertifications(ws, alias) if item.certificate in done]


def lapsed(ws: Workspace, alias: str, days: float) -> list[Recertification]:
    """Return the open ones of an alias that are `days` old and older, and whose certificate was not revoked yet.

    Who may revoke then revokes these certificates (`governance.promotion.revoke`), and endpoints stop serving them.
    """
    now = trusted_now(ws)
    found = []
    for item in recertifications(ws, alias):
        due = datetime.fromisoformat(item.opened) + timedelta(days=days)
        if not item.closed and due <= now and not seals.sealed(ws, "certificate.revoked", item.certificate):
            found.append(item)
    return found


def reevaluate(
    ws: Workspace, alias: str, suite: Path, *, actor: str | None = None, passphrase: bytes | None = None,
    progress: Progress = silent,
) -> tuple[Asset, Decision]:  # fmt: skip
    """Put what an alias serves through the gate again; return the recorded decision and its value.

    Raises:
        NotFound: the alias was never promoted.
        NotYet: the suite judged this very candidate before the open re-certification, so that it can say nothing new.
        Others as `governance.gating.run`.
    """
    from governance import gating

    candidate = ws.resolve(ws.release(alias).candidate, "candidate")
    decision, value = gating.run(ws, candidate, suite, actor=actor, passphrase=passphrase, progress=progress)
    check_fresh(ws, alias, decision)
    return decision, value


def check_fresh(ws: Workspace, alias: str, decision: Asset) -> None:
    """Raise NotYet when a decision was made before the open re-certification of an alias: it says nothing new."""
    standing = [item for item in recertifications(ws, alias) if not item.closed]
    if standing and decision.created < max(item.opened for item in standing):
        raise NotYet(
            f"this suite judged the candidate on {decision.created[:19]}, before the drift",
            hint="evaluate on fresh samples: a new version of the suite, drawn from the traffic of today",
        )


def lines(items: Sequence[Recertification]) -> list[str]:
    """Return one line for each: what a person reads."""
    return [
        f"{item.alias:<16} certificate {item.certificate[7:19]}  opened {item.opened[:19]} by {item.by}"
        f"  cause {item.cause or 'not separated'}  drift {item.window[7:19]}  "
        + (f"closed {item.closed[:19]} by certificate {item.successor[7:19]}" if item.closed else "open")
        for item in items
    ]


def _of(ws: Workspace, alias: str, certificate: str) -> list[Recertification]:
    return [item for item in recertifications(ws, alias) if item.certificate == certificate]


def _successor(ws: Workspace, item: Recertification) -> str:
    """Return the certificate that an alias serves now, if it holds and rests on a decision made after the opening."""
    try:
        certificate, _, _ = verify_certificate(ws, ws.release(item.alias).certificate)
    except HallmarkError:
        return ""  # never promoted, or a certificate that does not hold: it certifies nothing
    decided = seals.registration(ws, certificate.decision).ts
    return certificate.id if certificate.id != item.certificate and decided > item.opened else ""
