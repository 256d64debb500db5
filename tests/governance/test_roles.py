"""Platform roles: default deny, who may do what, and a policy file nobody changes unnoticed."""

import orjson
import pytest

from governance import callers, roles
from governance.setup import add_key
from registry.errors import Refused, SpecError, Tampered, UnknownName
from registry.identity import ROLES

MAY = {
    "trainer": {"read", "export", "build-data", "train", "create-candidate", "import"},
    "agent": {"read", "export", "build-data", "train", "create-candidate"},
    "evaluator": {"read", "export", "evaluate", "decide", "create-candidate", "check-drift"},
    "approver": {"read", "export", "approve"},
    "operator": {"read", "export", "promote", "rollback", "revoke", "serve", "manage-keys", "create-candidate",
                 "check-drift", "change-policy", "checkpoint", "withdraw-data", "place-hold", "lift-hold", "collect",
                 "change-platform", "sign-weights", "manage-risks"},
    "policy-author": {"read", "export", "change-policy"},
    "auditor": {"read", "export", "check-drift", "checkpoint", "place-hold", "manage-risks"},
    "viewer": {"read", "export"},
}  # fmt: skip


def test_the_table_of_who_may_do_what(ws):
    for role in ("agent", "viewer"):
        add_key(ws, role, role, signer="operator")
    principals = {p.role: p for p in ws.principals().values()}
    assert set(principals) == set(ROLES)
    allowed = {
        role: {verb for verb in roles.ROLE_OF if roles.authorize(ws, principal, verb, "x").allowed}
        for role, principal in principals.items()
    }
    assert allowed == MAY


def test_an_agent_can_never_approve_promote_or_touch_keys_and_policy():
    forbidden = {"approve", "promote", "rollback", "revoke", "serve", "manage-keys", "change-policy", "decide"}
    assert not MAY["agent"] & forbidden


def test_who_acts_when_nobody_is_named(ws):
    assert roles.acting(ws, "train") == "trainer"
    assert roles.acting(ws, "train", "dana") == "dana"
    object.__setattr__(ws.settings, "principals", {})
    with pytest.raises(SpecError, match="no principal acts as `trainer`"):
        roles.acting(ws, "train")


def test_a_changed_platform_policy_is_refused(ws):
    path = ws.root / roles.FILE
    path.write_text(path.read_text().replace('principal.role == "approver"', "true"))
    with pytest.raises(Tampered, match="not the platform policy that was activated"):
        roles.require(ws, "approve", "x", "trainer")


def test_unknown_roles_and_principals(ws):
    with pytest.raises(SpecError, match="unknown role `boss`"):
        add_key(ws, "dana", "boss", signer="operator")
    with pytest.raises(UnknownName, match="unknown principal"):
        roles.require(ws, "train", "x", "nobody")


def test_a_trainer_cannot_vouch_for_a_new_approver(ws):
    with pytest.raises(Refused, match="no operator's key"):
        add_key(ws, "accomplice", "approver", signer="trainer")
    assert "accomplice" not in {p.name for p in ws.principals().values()}


def test_every_denial_is_in_the_journal_with_its_rule(ws):
    with pytest.raises(Refused, match="no rule permits it"):
        roles.require(ws, "promote", "sha256:c", "trainer")
    with pytest.raises(Refused, match="rule `no-one-approves-what-they-trained`"):
        roles.require(ws, "approve", "sha256:c", "approver", trained_by="approver")
    rows = ws.store.query("SELECT actor, subject, body FROM event WHERE kind = 'access.denied' ORDER BY seq")
    assert [(row["actor"], row["subject"], orjson.loads(row["body"])["verb"]) for row in rows] == [
        ("trainer", "sha256:c", "promote"), ("approver", "sha256:c", "approve"),
    ]  # fmt: skip
    assert orjson.loads(rows[1]["body"])["reasons"] == ["no-one-approves-what-they-trained"]


def test_a_revoked_principal_may_nothing(ws):
    callers.revoke(ws, "trainer", reason="left", actor="operator")
    with pytest.raises(Refused, match="was revoked"):
        roles.require(ws, "train", "x", "trainer")


def test_a_permission_asks_the_journal_once(ws, monkeypatch):
    asked = []
    query = ws.store.query
    monkeypatch.setattr(ws.store, "query", lambda *given: asked.append(given) or query(*given))
    roles.require(ws, "train", "x")
    assert len(asked) == 1
