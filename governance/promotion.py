"""Promotion, rollback and revocation: an alias moves only to a certificate that was verified a moment before."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from governance import approvals, certificate, roles
from registry.attestation import trusted_now, verify_certificate
from registry.errors import NotFound, NotYet, Refused, Tampered
from registry.records import Asset, Release, plain
from registry.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Promoted:
    """What a promotion or rollback did; `moved` is False when the alias already pointed there."""

    release: Release
    certificate: Asset
    moved: bool


def promote(
    ws: Workspace,
    candidate: Asset,
    alias: str,
    *,
    actor: str | None = None,
    reason: str = "promoted",
    passphrase: bytes | None = None,
) -> Promoted:
    """Certify a candidate and point an alias at it.

    Raises:
        Refused: the actor may not promote, or the gate's verdict on this candidate is FAIL or INVALID.
        NotYet: no decision, an INCONCLUSIVE one, or approvals missing.
        Tampered: the stored weights or policy are not the bytes that were judged.
    """
    principal = roles.require(ws, "promote", candidate.id, actor)
    decision = approvals.newest_decision(ws, candidate.id)
    verdict = decision.body["verdict"]
    if verdict != "PASS":
        kind = NotYet if verdict == "INCONCLUSIVE" else Refused
        raise kind(f"the gate's verdict is {verdict}: only PASS is certified and promoted",
                   hint=f"`hallmark gate show {decision.id[7:19]}` says why")  # fmt: skip
    quorum = int(ws.settings.number("approvals"))
    given = approvals.valid(ws, candidate, decision)
    if len(given) < quorum:
        raise NotYet(
            f"{len(given)} of {quorum} approvals",
            hint=f"an approver runs `hallmark approve {candidate.id[7:19]} --reason ...`",
        )
    _check_bytes(ws, candidate)
    issued = certificate.issue(ws, candidate, decision, given, actor=principal.name, passphrase=passphrase)
    return _move(ws, alias, issued, actor=principal.name, reason=reason)


def rollback(ws: Workspace, alias: str, *, to: str | None = None, actor: str | None = None, reason: str) -> Promoted:
    """Point an alias back at an earlier certificate, verified again first.

    Args:
        ws: the workspace.
        alias: which alias.
        to: version it should point at; default the release before the current one.
        actor: an operator.
        reason: kept in the alias's history.

    Raises:
        NotFound: there is nothing to go back to.
        Refused, Tampered: the target's certificate or bytes do not hold.
    """
    principal = roles.require(ws, "rollback", alias, actor)
    rows = ws.store.query("SELECT * FROM alias_history WHERE alias = ? ORDER BY seq DESC", [alias])
    if not rows:
        raise NotFound(f"alias `{alias}` was never promoted", hint="promote a version to it first")
    wanted = ws.resolve(to, "version").id if to else None
    earlier = [
        row for row in rows
        if (row["version"] == wanted if wanted else row["certificate"] != rows[0]["certificate"])
    ]  # fmt: skip
    if not earlier:
        raise NotFound(f"alias `{alias}` has no earlier release to go back to", hint="`hallmark lineage` shows history")
    target = ws.resolve(earlier[0]["certificate"], "certificate")
    _check_bytes(ws, ws.resolve(target.body["candidate"], "candidate"))
    return _move(ws, alias, target, actor=principal.name, reason=reason)


def revoke(ws: Workspace, ref: str, *, reason: str, actor: str | None = None) -> Asset:
    """Revoke a certificate: no endpoint starts on it again. Raises Refused without a reason."""
    target = ws.resolve(ref, "certificate")
    principal = roles.require(ws, "revoke", target.id, actor)
    if not reason.strip():
        raise Refused("a revocation needs a reason", hint="give one with `--reason`")
    ws.record("certificate.revoked", target.id, {"reason": reason}, actor=principal.name)
    return target


def settle(ws: Workspace) -> list[str]:
    """Rewrite pointer files that a crash left behind the journal; return the aliases that were mended.

    Only a missing pointer, or one the journal recorded earlier, is mended: any other content is left to be refused.
    """
    mended = []
    with ws.store.lock():
        rows = ws.store.query(
            "SELECT subject, arg_max(body, seq) AS body, list(json_extract_string(body, '$.release')) AS releases"
            " FROM event WHERE kind = 'alias.moved' GROUP BY subject"
        )
        for row in rows:
            body = orjson.loads(row["body"])
            try:
                current = ws.release(row["subject"]).id
            except Tampered:
                continue
            except NotFound:
                current = ""
            if current != body["release"] and (not current or current in row["releases"]):
                ws.point(Release(**body["pointer"]))
                mended.append(row["subject"])
    return mended


def _check_bytes(ws: Workspace, candidate: Asset) -> None:
    for part in ("weights", "bundle"):
        problems = ws.artifacts.verify(candidate.body[part])
        if problems:
            raise Tampered(f"{part}: {problems[0]}", hint="restore the file from a copy, or promote another version")


def _move(ws: Workspace, alias: str, target: Asset, *, actor: str, reason: str) -> Promoted:
    with ws.store.lock():
        settle(ws)
        found, _, candidate = verify_certificate(ws, target.id)
        rows = ws.store.query(
            "SELECT certificate FROM alias_history WHERE alias = ? ORDER BY seq DESC LIMIT 1", [alias]
        )
        if rows and rows[0]["certificate"] == found.id:
            return Promoted(ws.release(alias), target, moved=False)
        moved = trusted_now(ws).isoformat(timespec="microseconds")
        release = Release(alias, found.id, candidate.id, candidate.version, moved, reason)
        ws.pointer(alias)  # judges the name before the journal says that it moved
        body = {"certificate": found.id, "candidate": candidate.id, "version": candidate.version, "reason": reason,
                "release": release.id, "pointer": plain(release)}  # fmt: skip
        ws.record("alias.moved", alias, body, actor=actor)
        ws.point(release)
        return Promoted(release, target, moved=True)
