"""The table of verbs and roles: what a platform policy lets whom do, and what none may let anybody do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.access import AccessDecision, CedarPolicies
from registry.identity import ROLES, Principal

if TYPE_CHECKING:
    from collections.abc import Mapping

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

OWN = "approve what they trained"
"""The line of the table that asks for an approval by whoever trained the subject."""

_TRUSTED = frozenset(
    {
        "approve", "promote", "rollback", "revoke", "serve", "decide", "manage-keys", "change-policy",
        "change-platform", "sign-weights", "checkpoint", "lift-hold", "collect", "withdraw-data", "manage-risks",
    }
)  # fmt: skip
FORBIDDEN: Mapping[str, frozenset[str]] = {
    "trainer": _TRUSTED,
    "agent": _TRUSTED | {"evaluate", "place-hold", "import"},
}
"""What no platform policy may permit: those who make models neither judge them nor change who may."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What a platform policy would change: `refusals` forbid its activation, `changes` are lines for who decides."""

    refusals: list[str]
    changes: list[str]


def ask(
    policies: CedarPolicies, name: str, role: str, verb: str, subject: str = "x", trained_by: str = ""
) -> AccessDecision:
    """Return whether a holder of a role may do `verb` to `subject`; `trained_by` names who trained it."""
    thing = {"kind": verb, **({"trained_by": trained_by} if trained_by else {})}
    entities = [
        {"uid": {"type": "Principal", "id": name}, "parents": [], "attrs": {"name": name, "role": role}},
        {"uid": {"type": "Thing", "id": subject}, "parents": [], "attrs": thing},
    ]
    return policies.decide(("Principal", name), ("Action", verb), ("Thing", subject), {}, entities)


def table(policies: CedarPolicies, known: Iterable[Principal] = ()) -> dict[tuple[str, str], set[str]]:
    """Return the allowed verbs by (name, role): for a stranger in each role (name empty), and for principals."""
    holders = [("", role) for role in ROLES] + [(p.name, p.role) for p in known if p.active]
    found: dict[tuple[str, str], set[str]] = {}
    for name, role in holders:
        holder = name or "somebody"
        verbs = {verb for verb in ROLE_OF if ask(policies, holder, role, verb).allowed}
        if ask(policies, holder, role, "approve", trained_by=holder).allowed:
            verbs.add(OWN)
        found[(name, role)] = verbs
    return found


def examine(new: CedarPolicies, old: CedarPolicies | None, known: Iterable[Principal] = ()) -> Examination:
    """Return what is wrong with a platform policy and what it changes against `old`.

    It is refused where it does not fit the schema, lets a trainer or an agent judge or govern, lets anybody approve
    what they trained, or leaves operators unable to change it again or to look after keys.
    """
    refusals = new.validate()
    people = list(known)
    after = table(new, people)
    for (name, role), verbs in after.items():
        who = f"`{name}` ({role})" if name else f"every {role}"
        refusals += [f"it lets {who} {verb}" for verb in sorted(verbs & FORBIDDEN.get(role, frozenset()))]
        if OWN in verbs:
            refusals.append(f"it lets {who} {OWN}")
    for verb in ("change-platform", "manage-keys"):
        if verb not in after[("", "operator")]:
            refusals.append(f"it leaves operators unable to {verb.replace('-', ' ')}")
    return Examination(refusals, [] if old is None else _differences(table(old, people), after))


def _differences(before: dict[tuple[str, str], set[str]], after: dict[tuple[str, str], set[str]]) -> list[str]:
    lines = []
    for (name, role), verbs in after.items():
        had = before[(name, role)]
        if name and (had, verbs) == (before[("", role)], after[("", role)]):
            continue  # what holds for the whole role is said once
        who = f"{name} ({role})" if name else role
        lines += [f"+ {who} may {verb}" for verb in sorted(verbs - had)]
        lines += [f"- {who} may no longer {verb}" for verb in sorted(had - verbs)]
    return lines
