"""Who may do what on the platform: `platform.cedar` of the workspace, default deny, every denial in the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from governance import platform
from governance.permissions import ROLE_OF, ask
from governance.platform import FILE, platform_policies, shipped
from registry import principals
from registry.access import AccessDecision, CedarPolicies
from registry.errors import Refused, SpecError
from registry.identity import ROLES, Principal

if TYPE_CHECKING:
    from registry.workspace import Workspace

__all__ = ["FILE", "ROLE_OF", "acting", "authorize", "check_role", "platform_policies", "require", "shipped", "voter"]


def authorize(ws: Workspace, principal: Principal, verb: str, subject: str, trained_by: str = "") -> AccessDecision:
    """Return whether a principal may do `verb` to `subject`; `trained_by` names who trained it, where that matters."""
    return ask(platform_policies(ws), principal.name, principal.role, verb, subject, trained_by)


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
    chosen = acting(ws, verb, name)
    known, active = platform.standing(ws)
    principal = principals.pick(known, chosen)
    return _decide(ws, platform.read(ws, active), principal, verb, subject, trained_by)


def voter(ws: Workspace, name: str | None = None) -> Principal:
    """Return who votes on the platform policy: a principal that may `change-platform`.

    Under a policy of release 0.1, which knows no such verb, an operator may. Raises as `require` does.
    """
    chosen = acting(ws, "change-platform", name)
    known, active = platform.standing(ws)
    principal = principals.pick(known, chosen)
    policies = platform.read(ws, active)
    if not active.blob and principal.role == "operator":
        return principal
    return _decide(ws, policies, principal, "change-platform", FILE, "")


def check_role(role: str) -> str:
    """Return a role's name. Raises SpecError for one that does not exist."""
    if role not in ROLES:
        raise SpecError(f"unknown role `{role}`", hint="roles: " + ", ".join(ROLES))
    return role


def _decide(
    ws: Workspace, policies: CedarPolicies, principal: Principal, verb: str, subject: str, trained_by: str
) -> Principal:
    decision = ask(policies, principal.name, principal.role, verb, subject, trained_by)
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
