"""The Cedar evaluator: default deny, reasons by id, errors deny; adding a forbid never allows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.access import CedarPolicies
from registry.errors import SpecError

POLICIES = """
@id("engineers-may-chat") permit (principal in Group::"engineers", action == Action::"chat", resource);
@id("nights-are-closed") forbid (principal, action, resource) when { context.hour < 6 };
"""
SCHEMA = """
entity Group; entity User in [Group]; entity Model;
action "chat" appliesTo { principal: User, resource: Model, context: { hour: Long } };
"""


def ask(policies, group="engineers", context=None):
    entities = [
        {"uid": {"type": "User", "id": "ann"}, "attrs": {}, "parents": [{"type": "Group", "id": group}]},
        {"uid": {"type": "Group", "id": group}, "attrs": {}, "parents": []},
    ]
    return policies.decide(("User", "ann"), ("Action", "chat"), ("Model", "m"), context or {"hour": 9}, entities)


def test_decisions_name_the_rules_that_made_them():
    policies = CedarPolicies(POLICIES, SCHEMA)
    assert policies.validate() == []
    assert ask(policies) == type(ask(policies))(True, ("engineers-may-chat",))
    night = ask(policies, context={"hour": 3})
    assert (night.allowed, night.reasons) == (False, ("nights-are-closed",))
    stranger = ask(policies, group="interns")
    assert (stranger.allowed, stranger.reasons) == (False, ())


def test_an_error_denies():
    decision = ask(CedarPolicies(POLICIES), context={"minute": 3})
    assert not decision.allowed
    assert decision.errors


def test_texts_that_are_not_cedar_are_refused_and_typos_are_found():
    with pytest.raises(SpecError, match="not valid Cedar"):
        CedarPolicies("permit (principal")
    with pytest.raises(SpecError, match="not a Cedar schema"):
        CedarPolicies(POLICIES, "entity {")
    typo = CedarPolicies(POLICIES.replace("context.hour", "context.hours"), SCHEMA)
    assert any("nights-are-closed" in problem for problem in typo.validate())


CONDITIONS = st.sampled_from(
    ["", "when { context.hour < 12 }", "when { context.hour >= 12 }", "unless { context.hour == 9 }"]
)
RULE = st.tuples(st.sampled_from(["permit", "forbid"]), CONDITIONS).map(
    lambda r: f"{r[0]} (principal, action, resource) {r[1]};"
)


@settings(deadline=None)
@given(rules=st.lists(RULE, max_size=4), extra=CONDITIONS, hour=st.integers(0, 23), order=st.randoms())
def test_adding_a_forbid_never_allows_and_order_is_irrelevant(rules, extra, hour, order):
    base = ask(CedarPolicies("\n".join(rules)), context={"hour": hour}).allowed
    stricter = [*rules, f"forbid (principal, action, resource) {extra};"]
    assert base or not ask(CedarPolicies("\n".join(stricter)), context={"hour": hour}).allowed
    order.shuffle(rules)
    assert ask(CedarPolicies("\n".join(rules)), context={"hour": hour}).allowed == base
