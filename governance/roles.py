"""Who may do what on the platform: `platform.cedar` of the workspace, default deny, every denial in the journal."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import orjson

from registry.access import AccessDecision, CedarPolicies
from registry.errors import Refused, SpecError, Tampered
from registry.identity import ROLES, Principal
from registry.records import sha256

if TYPE_CHECKING:
    from registry.workspace import Workspace

ROLE_OF = {
    "read": "auditor",
    "build-data": "trainer",
    "train": "trainer",
    "create-candidate": "trainer",
    "evaluate": "evaluator",
    "decide": "evaluator",
    "approve": "approver",
    "promote": "operator",
    "rollback": "operator",
    "revoke": "operator",
    "serve": "operator",
    "manage-keys": "operator",
    "change-policy": "policy-author",
    "check-drift": "auditor",
    "checkpoint": "operator",
    "withdraw-data": "operator",
    "place-hold": "auditor",
    "lift-hold": "operator",
    "collect": "operator",
    "import": "trainer",
    "export": "auditor",
    "change-platform": "operator",
    "sign-weights": "operator",
    "manage-risks": "auditor",
}
"""The role a verb is meant for: decides which key acts when the caller names none."""

FILE = "platform.cedar"


def shipped(name: str) -> str:
    """Return the text of a file that ships beside this module."""
    return files("governance").joinpath(name).read_text(encoding="utf-8")


def install(ws: Workspace, *, actor: str) -> None:
    """Write the shipped platform policy into a new workspace and record its digest."""
    text = shipped(FILE)
    problems = CedarPolicies(text, shipped("platform.cedarschema")).validate()
    if problems:
        raise SpecError(f"platform policy does not fit its schema: {problems[0]}", hint="reinstall hallmark-platform")
    (ws.root / FILE).write_text(text, encoding="utf-8")
    ws.record("platform.activated", FILE, {"digest": sha256(text.encode())}, actor=actor)


def platform_policies(ws: Workspace) -> CedarPolicies:
    """Return the workspace's platform policy. Raises Tampered when the file is not the one that was activated."""
    rows = ws.store.query("SELECT body FROM event WHERE kind = 'platform.activated' ORDER BY seq DESC LIMIT 1")
    path = ws.root / FILE
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if not rows or orjson.loads(rows[0]["body"])["digest"] != sha256(text.encode()):
        raise Tampered(f"`{path}` is not the platform policy that was activated", hint="restore it from a copy")
    return CedarPolicies(text, shipped("platform.cedarschema"))


def authorize(ws: Workspace, principal: Principal, verb: str, subject: str, trained_by: str = "") -> AccessDecision:
    """Return whether a principal may do `verb` to `subject`; `trained_by` names who trained it, where that matters."""
    thing = {"kind": verb, **({"trained_by": trained_by} if trained_by else {})}
    entities = [
        {"uid": {"type": "Principal", "id": principal.name}, "parents": [],
         "attrs": {"name": principal.name, "role": principal.role}},
        {"uid": {"type": "Thing", "id": subject}, "parents": [], "attrs": thing},
    ]  # fmt: skip
    return platform_policies(ws).decide(
        ("Principal", principal.name), ("Action", verb), ("Thing", subject), {}, entities
    )


def acting(ws: Workspace, verb: str, name: str | None = None) -> str:
    """Return who acts: `name`, else the setting `principal`, else the key holder `hallmark.toml` names for the role."""
    role = ROLE_OF[verb]
    chosen = name or ws.settings["principal"] or ws.settings.principals.get(role)
    if not chosen:
        raise SpecError(
            f"no principal acts as `{role}` here",
            hint=f"name one with `--as`, or in `[principals]` of {ws.root}/hallmark.toml",
        )
    return chosen


def require(ws: Workspace, verb: str, subject: str, name: str | None = None, *, trained_by: str = "") -> Principal:
    """Return the acting principal when it may do `verb`.

    Raises:
        Refused: the platform policy says no; the denial is in the journal.
        UnknownName: there is no such principal.
        SpecError: nobody was named.
    """
    principal = ws.principal(acting(ws, verb, name))
    decision = authorize(ws, principal, verb, subject, trained_by)
    if decision.allowed:
        return principal
    why = f"rule `{decision.reasons[0]}`" if decision.reasons else "no rule permits it"
    if decision.errors:
        why = decision.errors[0]
    body = {"verb": verb, "role": principal.role, "reasons": list(decision.reasons), "errors": list(decision.errors)}
    ws.record("access.denied", subject, body, actor=principal.name)
    if decision.reasons:
        hint = "another key holder must do this"
    else:
        hint = f"a principal of role `{ROLE_OF[verb]}` may: name one with `--as`"
    raise Refused(f"`{principal.name}` ({principal.role}) may not {verb.replace('-', ' ')}: {why}", hint=hint)


def check_role(role: str) -> str:
    """Return a role's name. Raises SpecError for one that does not exist."""
    if role not in ROLES:
        raise SpecError(f"unknown role `{role}`", hint="roles: " + ", ".join(ROLES))
    return role
