"""Promotion, rollback and revocation: an alias moves only to a certificate that was verified a moment before."""

from __future__ import annotations

from dataclasses import dataclass

from governance import approvals, certificate, recertification, roles
from governance.anchoring import anchor, sign_weights
from governance.approvals import Approval
from registry import aliases
from registry.aliases import Head, settle
from registry.attestation import verify_certificate
from registry.clock import trusted_now
from registry.errors import NotFound, NotYet, Refused, Tampered
from registry.records import Asset, Release
from registry.workspace import Workspace

__all__ = ["Promoted", "check_bytes", "promote", "revoke", "rollback", "settle", "target_of"]


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
    expect: str | None = None,
    passphrase: bytes | None = None,
) -> Promoted:
    """Certify a candidate and point an alias at it, if the alias still points where it did when this began.

    Args:
        ws: the workspace.
        candidate: what the gate passed and an approver approved.
        alias: the name that endpoints serve.
        actor: an operator.
        reason: kept in the alias's history.
        expect: certificate that the alias must point at now, or `none`; default whatever it points at.
        passphrase: opens the operator's key.

    Raises:
        Refused: the actor may not promote, the gate's verdict on this candidate is FAIL or INVALID, or someone else
            moved the alias meanwhile. Then nothing was changed, and no certificate issued.
        NotYet: no decision, an INCONCLUSIVE one, or approvals missing.
        Tampered: the stored weights or policy are not the bytes that were judged.
    """
    with ws.store.reading():
        principal = roles.require(ws, "promote", candidate.id, actor)
        ws.pointer(alias)
        settle(ws)
        seen = _expected(ws, alias, expect)
        decision, given = _judged_and_approved(ws, candidate)
        check_bytes(ws, candidate)
        with ws.store.lock():
            now = aliases.head(ws, alias)
            if now is None or now.release.candidate != candidate.id:  # two promotions of one candidate agree
                aliases.check_unmoved(alias, now, _id(seen))
            issued = certificate.issue(ws, candidate, decision, given, actor=principal.name, passphrase=passphrase)
            done = _move(ws, alias, issued, _id(now), actor=principal.name, reason=reason)
        if done.moved:
            sign_weights(ws, done.release.certificate, principal.name, passphrase)
            anchor(ws, principal.name)
            recertification.settle(ws, alias, actor=principal.name)
        return done


def _judged_and_approved(ws: Workspace, candidate: Asset) -> tuple[Asset, list[Approval]]:
    """Return the newest decision and its approvals. Raises Refused, NotYet as `promote` does."""
    decision = approvals.newest_decision(ws, candidate.id)
    verdict = decision.body["verdict"]
    if verdict != "PASS":
        kind = NotYet if verdict == "INCONCLUSIVE" else Refused
        raise kind(f"the gate's verdict is {verdict}: only PASS is certified and promoted",
                   hint=f"`hallmark gate show {decision.id[7:19]}` says why")  # fmt: skip
    quorum = approvals.quorum(ws)
    given = approvals.valid(ws, candidate, decision)
    if len(given) < quorum:
        raise NotYet(
            f"{len(given)} of {quorum} approvals",
            hint=f"an approver runs `hallmark approve {candidate.id[7:19]} --reason ...`",
        )
    return decision, given


def rollback(ws: Workspace, alias: str, *, to: str | None = None, actor: str | None = None, reason: str) -> Promoted:
    """Point an alias back at an earlier certificate, verified again first, its bytes included.

    Args:
        ws: the workspace.
        alias: which alias.
        to: version it should point at; default the release before the current one.
        actor: an operator.
        reason: kept in the alias's history.

    Raises:
        NotFound: there is nothing to go back to.
        Refused: the target's certificate does not hold, or someone else moved the alias meanwhile.
        Tampered: the target's bytes are not those that were certified.
    """
    with ws.store.reading():
        principal = roles.require(ws, "rollback", alias, actor)
        settle(ws)
        seen = aliases.head(ws, alias)
        target = target_of(ws, alias, to)
        check_bytes(ws, ws.resolve(target.body["candidate"], "candidate"))
        with ws.store.lock():
            done = _move(ws, alias, target, _id(seen), actor=principal.name, reason=reason)
        if done.moved:
            anchor(ws, principal.name)
        return done


def revoke(ws: Workspace, ref: str, *, reason: str, actor: str | None = None) -> Asset:
    """Revoke a certificate: no endpoint starts on it again. Raises Refused without a reason."""
    target = ws.resolve(ref, "certificate")
    principal = roles.require(ws, "revoke", target.id, actor)
    if not reason.strip():
        raise Refused("a revocation needs a reason", hint="give one with `--reason`")
    trusted_now(ws)  # a clock that runs behind signs nothing
    ws.record("certificate.revoked", target.id, {"reason": reason}, actor=principal.name)
    anchor(ws, principal.name)
    return target


def target_of(ws: Workspace, alias: str, to: str | None = None) -> Asset:
    """Return the certificate a rollback goes to: the newest of another release, or of the version `to`.

    Raises NotFound when there is none.
    """
    rows = ws.store.query("SELECT version, certificate FROM alias_history WHERE alias = ? ORDER BY seq DESC", [alias])
    if not rows:
        raise NotFound(f"alias `{alias}` was never promoted", hint="promote a version to it first")
    wanted = ws.resolve(to, "version").id if to else None
    earlier = [
        row for row in rows
        if (row["version"] == wanted if wanted else row["certificate"] != rows[0]["certificate"])
    ]  # fmt: skip
    if not earlier:
        raise NotFound(
            f"alias `{alias}` has no earlier release to go back to", hint=f"see `hallmark release history {alias}`"
        )
    return ws.resolve(earlier[0]["certificate"], "certificate")


def check_bytes(ws: Workspace, candidate: Asset) -> None:
    """Raise Tampered, naming the file, unless every stored byte of a candidate is as its manifests say."""
    for part in ("weights", "bundle", "adapter"):
        manifest = candidate.body.get(part, "none")
        problems = [] if manifest == "none" else ws.artifacts.verify(manifest)
        if problems:
            raise Tampered(f"{part}: {problems[0]}", hint="restore the file from a copy, or promote another version")


def _expected(ws: Workspace, alias: str, expect: str | None) -> Head | None:
    """Return where an alias points now. Raises Refused when that is not the certificate `expect` (or `none`)."""
    seen = aliases.head(ws, alias)
    if expect == "none":
        aliases.check_unmoved(alias, seen, "")
    elif expect is not None:
        wanted = ws.resolve(expect, "certificate").id
        if seen is None or seen.release.certificate != wanted:
            aliases.check_unmoved(alias, seen, wanted)
    return seen


def _id(head: Head | None) -> str:
    return head.id if head else ""


def _move(ws: Workspace, alias: str, target: Asset, expected: str, *, actor: str, reason: str) -> Promoted:
    """Verify a certificate and point an alias at it, under the store's lock."""
    found, _, candidate = verify_certificate(ws, target.id)
    now = aliases.head(ws, alias)
    if now is not None and now.release.certificate == found.id:
        return Promoted(now.release, target, moved=False)
    moved = trusted_now(ws).isoformat(timespec="microseconds")
    release = Release(alias, found.id, candidate.id, candidate.version, moved, reason)
    aliases.move(ws, release, expected, actor)
    return Promoted(release, target, moved=True)
