"""The standing of certificates: which hold, which expired, were revoked or altered, and what each binds."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from registry.attestation import verify_certificate
from registry.clock import trusted_now
from registry.errors import HallmarkError
from registry.records import Asset
from registry.workspace import Workspace

SHOWN = 12
"""How many digits of a digest are enough to look it up."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A certificate's state: `valid`, `expired`, `revoked` or `refused`; `why` says what is wrong."""

    id: str
    version: str
    candidate: str
    expires: str
    state: str
    why: str = ""


def standings(ws: Workspace) -> list[Standing]:
    """Return the standing of every certificate, oldest first."""
    return [standing(ws, asset) for asset in ws.assets("certificate")]


def standing(ws: Workspace, asset: Asset) -> Standing:
    """Return whether a certificate holds now, and why not."""
    state, why = "valid", ""
    try:
        verify_certificate(ws, asset.id)
    except HallmarkError as error:
        state, why = "refused", error.message
        if ws.store.query("SELECT 1 FROM event WHERE kind = 'certificate.revoked' AND subject = ?", [asset.id]):
            state = "revoked"
        elif trusted_now(ws) >= datetime.fromisoformat(asset.body["expires"]):
            state = "expired"
    label = ws.resolve(asset.body["version"], "version")
    name = f"{label.name}:{label.number}"
    return Standing(asset.id, name, asset.body["candidate"], asset.body["expires"], state, why)


def described(ws: Workspace, asset: Asset) -> tuple[dict[str, Any], list[str]]:
    """Return a certificate's statement and the same as readable lines; nothing is verified here."""
    statement: dict[str, Any] = orjson.loads(base64.b64decode(asset.body["envelope"]["payload"]))
    predicate = statement["predicate"]
    names = {p.keyid: p.name for p in ws.principals().values()}
    rows = {
        "certificate": asset.id, "candidate": predicate["candidateDigest"], "decision": predicate["decision"],
        "verdict": predicate["verdict"], "suite": predicate["suite"], "baseline": predicate["baseline"] or "none",
        "issued": predicate["issued"], "expires": predicate["expires"],
        "signed by": _signers(asset.body["envelope"], names), "quorum": str(predicate["quorum"]),
        "approved by": ", ".join(_signers(envelope, names) for envelope in predicate["approvals"]),
    }  # fmt: skip
    lines = [f"{name:<12} {value}" for name, value in rows.items()]
    return statement, [*lines, *_configuration(predicate["candidate"]), *_files(statement)]


def _signers(envelope: dict[str, Any], names: dict[str, str]) -> str:
    return ", ".join(names.get(mark["keyid"], mark["keyid"][:SHOWN]) for mark in envelope["signatures"])


def _configuration(candidate: dict[str, Any]) -> Iterator[str]:
    yield "configuration"
    for name, value in candidate.items():
        yield f"  {name:<16} {orjson.dumps(value).decode() if isinstance(value, dict) else value}"


def _files(statement: dict[str, Any]) -> Iterator[str]:
    yield f"files ({len(statement['subject'])})"
    for item in statement["subject"]:
        yield f"  {item['digest']['sha256'][:SHOWN]}  {item['name']}"
