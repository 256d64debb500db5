"""Activation of a policy: what new candidates take, or what an alias serves. Never by its author alone.

Only the order of the steps is here. Activating for an alias makes the candidate that it serves with this bundle in the
place of its own, puts it through the gate (rows of the same weights are found in the cache; what asks the guarded
endpoint is measured anew), asks for approvals, and promotes: certificate and bundle change together, in one move of
the alias. Whatever fails, the release before stays what is served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from governance import approvals, bundles, candidates, gating, promotion, roles
from governance.approvals import quorum
from governance.case import load_suite
from registry.attestation import verify_release
from registry.errors import NotYet, Refused
from registry.identity import Principal
from registry.protocols import Progress, silent
from registry.records import Asset, plain
from registry.workspace import Workspace

if TYPE_CHECKING:
    from evals.decision import Decision


@dataclass(frozen=True, slots=True)
class Plan:
    """What activating a bundle for an alias would do. `measured` and `kept` are KPIs with their number of samples."""

    alias: str
    certificate: str
    bundle: str
    replaces: str
    measured: dict[str, int]
    kept: dict[str, int]
    approvals: int

    def lines(self) -> list[str]:
        """Return the plan as lines for people."""
        measured = ", ".join(f"{name} ({count})" for name, count in self.measured.items()) or "nothing"
        kept = ", ".join(f"{name} ({count})" for name, count in self.kept.items()) or "none"
        return [
            f"alias {self.alias} serves certificate {self.certificate[7:19]} with bundle {self.replaces}",
            f"  candidate  the same with bundle {self.bundle}",
            f"  measured   on the guarded endpoint: {measured}",
            f"  kept       rows of the same weights: {kept}",
            f"  approvals  {self.approvals}, by somebody who neither trained the model nor wrote the bundle",
            "  promotion  certificate and bundle together; a running endpoint switches by itself",
        ]


@dataclass(frozen=True, slots=True)
class Activation:
    """How far it came. `exit_code` is the gate's, or 3 while approvals are missing; `certificate` once it is served."""

    candidate: Asset
    decision: Asset | None
    value: Decision | None
    certificate: Asset | None
    exit_code: int
    text: str


def require_fit(folder: Path) -> None:
    """Raise Refused, naming the first reason, unless a bundle has no problem and passes its own tests.

    Raises SpecError or NotFound for one that cannot be read at all.
    """
    from policies.authoring.cases import run_tests
    from policies.authoring.lint import lint
    from policies.bundle import load

    load(folder)
    problems = [each.line() for each in lint(folder) if each.severity == "problem"]
    problems = problems or [f"test `{each.name}`: {each.detail}" for each in run_tests(folder) if not each.passed]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise Refused(
            f"bundle `{folder}` is not fit to be activated: {problems[0]}{more}",
            hint="run `hallmark policy check` and `hallmark policy test`",
        )


def make_default(ws: Workspace, ref: str, *, actor: str | None = None) -> Asset:
    """Make a bundle the one that new candidates take; return its asset. Nothing that is served changes.

    Args:
        ws: the workspace.
        ref: a bundle's folder, or a reference to a registered one.
        actor: a policy author.

    Raises:
        Refused: the actor may not, the bundle is not fit, or its version was used for other files.
        NotYet: it is registered now and waits for approvals.
    """
    principal, bundle = _registered(ws, ref, actor)
    given = [each for each in bundles.approvals_of(ws, bundle) if each.principal != principal.name]
    needed = quorum(ws)
    if len(given) < needed:
        raise NotYet(
            f"bundle `{bundle.name}:{bundle.number}` awaits approval: {len(given)} of {needed}",
            hint=f"an approver runs `hallmark policy approve {bundle.name}:{bundle.number} --reason ...`, "
            "then this again",
        )
    body = {"manifest": bundle.body["manifest"], "approved_by": sorted(each.principal for each in given)}
    ws.record(bundles.ACTIVATED, bundle.id, body, actor=principal.name)
    return bundle


def plan(ws: Workspace, ref: str, alias: str, suite_path: Path, *, actor: str | None = None) -> Plan:
    """Return what `activate` would do; nothing is written, measured or signed."""
    roles.require(ws, "change-policy", ref, actor)
    with bundles.opened(lambda: ws, ref) as folder:
        require_fit(folder)
        record = bundles.record_of(ws, folder)
    served = verify_release(ws, alias)
    spec = load_suite(suite_path)
    before = bundles.of_manifest(ws, served.candidate.bundle)
    sizes = {kpi.id: (kpi.endpoint, kpi.samples) for kpi in spec.kpis}
    return Plan(
        alias=alias,
        certificate=served.release.certificate,
        bundle=f"{record.name} version {record.version} ({record.manifest[7:19]})",
        replaces=f"{before.name}:{before.number} ({before.body['manifest'][7:19]})",
        measured={name: count for name, (endpoint, count) in sizes.items() if endpoint == "guarded"},
        kept={name: count for name, (endpoint, count) in sizes.items() if endpoint != "guarded"},
        approvals=quorum(ws),
    )


def activate(
    ws: Workspace,
    ref: str,
    alias: str,
    suite_path: Path,
    *,
    actor: str | None = None,
    passphrase: bytes | None = None,
    announce: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> Activation:
    """Make a bundle part of what an alias serves; return how far it came. Run again, it goes on where it ended.

    Args:
        ws: the workspace.
        ref: a bundle's folder, or a reference to a registered one.
        alias: what endpoints serve; it must have a release that holds.
        suite_path: the suite that judges the change.
        actor: a policy author; the other steps are done by the principals that `hallmark.toml` names for their roles.
        passphrase: opens their keys.
        announce: told of each step before it runs.
        progress: told how far measuring is.

    Raises:
        Refused: the actor may not, the bundle is not fit, the alias's release does not hold, or somebody moved the
            alias meanwhile.
        as `gating.run` and `promotion.promote` do otherwise. The alias is then where it was.
    """
    principal, bundle = _registered(ws, ref, actor)
    promotion.settle(ws)
    served = verify_release(ws, alias)
    current = ws.resolve(served.release.candidate, "candidate")
    maker = roles.acting(ws, "create-candidate")
    candidate = candidates.with_bundle(ws, current, bundle, actor=maker)
    if candidate.id == current.id:
        issued = ws.resolve(served.release.certificate, "certificate")
        return Activation(candidate, None, None, issued, 0, f"alias {alias} serves this bundle already")
    announce(f"candidate {candidate.id[7:19]}: {current.id[7:19]} with bundle {bundle.name}:{bundle.number}")
    named = load_suite(suite_path).baseline
    decision, value = gating.run(
        ws, candidate, suite_path, baseline=None if named else current.id, passphrase=passphrase, progress=progress
    )
    if value.exit_code:
        text = f"the gate says {value.verdict}: alias {alias} serves what it served"
        return Activation(candidate, decision, value, None, value.exit_code, text)
    given = [
        each for each in approvals.valid(ws, candidate, decision) if each.principal not in _authors(bundle, principal)
    ]
    if len(given) < quorum(ws):
        text = (
            f"awaiting approval: {len(given)} of {quorum(ws)}; an approver runs "
            f"`hallmark approve {candidate.id[7:19]} --reason ...`, then this again"
        )
        return Activation(candidate, decision, value, None, 3, text)
    reason = f"policy {bundle.name}:{bundle.number} activated by {principal.name}"
    done = promotion.promote(
        ws, candidate, alias, reason=reason, expect=served.release.certificate, passphrase=passphrase
    )
    text = f"alias {alias} points at certificate {done.certificate.id[7:19]} with bundle {bundle.name}:{bundle.number}"
    return Activation(candidate, decision, value, done.certificate, 0, text)


def described(found: Activation) -> dict[str, Any]:
    """Return an activation as plain data."""
    return {
        "candidate": found.candidate.id,
        "decision": found.decision.id if found.decision else None,
        "verdict": found.value.verdict if found.value else None,
        "certificate": plain(found.certificate.id) if found.certificate else None,
        "exit_code": found.exit_code,
        "text": found.text,
    }


def _registered(ws: Workspace, ref: str, actor: str | None) -> tuple[Principal, Asset]:
    """Return who acts and the bundle, once the one may and the other is fit."""
    principal = roles.require(ws, "change-policy", ref, actor)
    with bundles.opened(lambda: ws, ref) as folder:
        require_fit(folder)
        bundle = bundles.register(ws, folder, actor=principal.name)
    bundles.refuse_reused_version(ws, bundle)
    return principal, bundle


def _authors(bundle: Asset, principal: Principal) -> frozenset[str]:
    return bundles.authors(bundle) | {principal.name}
