"""Registered policy bundles: who wrote one, who approved it, which one new candidates take.

A bundle is content-addressed: its id follows every file. What makes it count is not a signature over its folder but
sealed events that name its id: an approver's `policy.approved`, and a policy author's `policy.activated`, which counts
only where the approvals it needed were there. For serving nothing more is asked of the bundle itself: the certificate
of a release lists every file of it by SHA-256, is signed by an operator over the approvals of the whole candidate, and
is verified, with the bytes, before a bundle is loaded. A signature of its author could not add to that.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from governance import roles
from governance.approvals import quorum
from registry import seals
from registry.clock import trusted_now
from registry.errors import NotFound, Refused
from registry.records import Asset, PolicyBundle
from registry.workspace import Workspace

APPROVED, ACTIVATED = "policy.approved", "policy.activated"
CREATED = "workspace.created"
_ASIDE = ("__pycache__", "*.pyc", ".*")


@dataclass(frozen=True, slots=True)
class BundleApproval:
    """One approval of a bundle that counts."""

    principal: str
    keyid: str
    reason: str
    ts: str
    seq: int


def record_of(ws: Workspace, folder: Path) -> PolicyBundle:
    """Return the record of a bundle's folder, its files stored. Raises SpecError for a bundle that is wrong."""
    from policies.bundle import load

    bundle = load(folder)
    with tempfile.TemporaryDirectory() as scratch:  # a bundle is its files, without what Python left beside them
        copy = Path(scratch) / "bundle"
        shutil.copytree(bundle.folder, copy, ignore=shutil.ignore_patterns(*_ASIDE))
        manifest = ws.artifacts.add_tree(copy)
    return PolicyBundle(bundle.spec.name, bundle.spec.version, manifest.id)


def register(ws: Workspace, folder: Path, *, actor: str) -> Asset:
    """Check a bundle, store its folder and return its asset; the same content is registered once."""
    record = record_of(ws, folder)
    return ws.register(record, actor=actor, name=record.name)


def find(ws: Workspace, ref: str) -> Asset:
    """Return a registered bundle: by folder, reference, or what an alias serves (`@prod`).

    Raises NotFound for a folder whose content is not registered, and for what is no bundle.
    """
    if Path(ref).is_dir():
        try:
            return ws.resolve(record_of(ws, Path(ref)).id, PolicyBundle.KIND)
        except NotFound:
            raise NotFound(
                f"the bundle in `{ref}`, as it is now, is not registered",
                hint="`hallmark policy activate` registers it",
            ) from None
    if ref.startswith("@"):
        return of_manifest(ws, ws.resolve(ws.release(ref[1:]).candidate, "candidate").body["bundle"])
    return ws.resolve(ref, PolicyBundle.KIND)


def of_manifest(ws: Workspace, manifest: str) -> Asset:
    """Return the registered bundle with these files. Raises NotFound."""
    for found in reversed(ws.assets(PolicyBundle.KIND)):
        if found.body["manifest"] == manifest:
            return found
    raise NotFound(f"no bundle `{manifest[:19]}` is registered", hint="was it registered in this workspace?")


@contextmanager
def opened(workspace: Callable[[], Workspace], ref: str) -> Iterator[Path]:
    """Yield the folder of a bundle: a folder as it is, anything else checked out of the workspace for the while."""
    if Path(ref).is_dir():
        yield Path(ref)
        return
    ws = workspace()
    found = find(ws, ref)
    with tempfile.TemporaryDirectory() as scratch:
        yield ws.artifacts.checkout(found.body["manifest"], Path(scratch) / "bundle")


def approve(ws: Workspace, bundle: Asset, *, reason: str, actor: str | None = None) -> BundleApproval:
    """Seal an approval of a bundle.

    Raises:
        Refused: the actor may not approve, or wrote the bundle; or no reason was given.
    """
    name = roles.acting(ws, "approve", actor)
    author = name if name in authors(bundle) else ""
    principal = roles.require(ws, "approve", bundle.id, name, trained_by=author)
    if not reason.strip():
        raise Refused("an approval needs a reason", hint="give one with `--reason`")
    refuse_reused_version(ws, bundle)
    trusted_now(ws)  # a clock that runs behind signs nothing
    event = ws.record(
        APPROVED, bundle.id, {"manifest": bundle.body["manifest"], "reason": reason}, actor=principal.name
    )
    return BundleApproval(principal.name, principal.keyid, reason, event.ts, -1)


def approvals_of(ws: Workspace, bundle: Asset, *, before: int | None = None) -> list[BundleApproval]:
    """Return the approvals of a bundle that count, one a principal: sealed by approvers who did not write it.

    They count for as many days as a certificate lasts; `before` asks which did at that place of the journal.
    """
    oldest = trusted_now(ws) - timedelta(days=ws.settings.number("certificate_days"))
    found: dict[str, BundleApproval] = {}
    for event in seals.sealed(ws, APPROVED, bundle.id):
        own = event.principal.name in authors(bundle) or event.body["manifest"] != bundle.body["manifest"]
        late = event.seq >= before if before is not None else datetime.fromisoformat(event.ts) < oldest
        if not own and not late:
            found[event.principal.name] = BundleApproval(
                event.principal.name, event.principal.keyid, event.body["reason"], event.ts, event.seq
            )
    return list(found.values())


def authors(bundle: Asset) -> frozenset[str]:
    """Return who wrote a bundle: who registered it."""
    return frozenset({bundle.owner})


def refuse_reused_version(ws: Workspace, bundle: Asset) -> None:
    """Raise Refused where a bundle of this name with other files was approved or activated under this version or above.

    What nobody relied on yet, a draft or a candidate's trial, may be written again under its number.
    """
    named = {found.id: found for found in ws.assets(PolicyBundle.KIND) if found.body["name"] == bundle.body["name"]}
    relied = {event.subject for kind in (APPROVED, ACTIVATED) for event in seals.sealed(ws, kind)}
    for found in named.values():
        number, other = found.body["version"], found.body["manifest"] != bundle.body["manifest"]
        if other and number >= bundle.body["version"] and found.id in relied:
            raise Refused(
                f"`{bundle.body['name']}` version {number} is another bundle ({found.id[7:19]})",
                hint=f"this one says version {bundle.body['version']}: write {number + 1} or more into `bundle.yaml`",
            )


def activated(ws: Workspace) -> Asset:
    """Return the bundle that new candidates take when they name none.

    It is the newest activation that counts: one that had its approvals, or the one that the workspace was made with.

    Raises:
        NotFound: there is none.
        Refused: the newest activation went without approvals.
    """
    events = seals.sealed(ws, ACTIVATED)
    if not events:
        raise NotFound("no inference policy is active", hint="name a bundle with `--policy`")
    newest = events[-1]
    bundle = ws.resolve(newest.subject, PolicyBundle.KIND)
    if newest is not events[0] and len(approvals_of(ws, bundle, before=newest.seq)) < quorum(ws):
        raise Refused(
            f"bundle `{bundle.name}:{bundle.number}` was activated without approval, by `{newest.principal.name}`",
            hint=f"`hallmark policy approve {bundle.name}:{bundle.number}`, then `policy activate` again",
        )
    return bundle
