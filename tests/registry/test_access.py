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


def test_what_policies_read_is_known():
    read = (
        "when { context has hour && context.day == 1 && (if principal.x then context.a.b else [context.c].isEmpty()) }"
    )
    assert CedarPolicies(f"permit (principal, action, resource) {read};").mentioned("context") == {
        "hour", "day", "a", "c",
    }  # fmt: skip
    assert CedarPolicies("permit (principal, action, resource);").mentioned("context") == frozenset()
    odd = 'when { {"Var": context.x, "Value": context.y, ".": 1} == principal.z || "context" == "" }'
    assert CedarPolicies(f"permit (principal, action, resource) {odd};").mentioned("context") == {"x", "y"}
    assert (
        CedarPolicies("permit (principal, action, resource) when { context == {a: 1} };").mentioned("context") is None
    )


def test_only_permits_that_name_an_action_count_for_it():
    every, one = "permit (principal, action, resource);", 'permit (principal, action == Action::"a", resource{});'
    assert CedarPolicies(every).naming("a") is None
    narrowed = CedarPolicies(every + one.format(' == Rule::"r"') + POLICIES).naming("a")
    assert narrowed.resources() == {"r"}
    found = narrowed.decide_each(("User", "u"), ("Action", "a"), [("Rule", "r"), ("Rule", "s")], {"hour": 9}, [])
    assert [decision.allowed for decision in found] == [True, False]
    listed = 'permit (principal, action in [Action::"b", Action::"a"], resource);'
    assert CedarPolicies(one.format(' == Rule::"r"') + listed).naming("a").resources() is None


def test_a_schema_says_what_it_accepts():
    policies = CedarPolicies(POLICIES, SCHEMA)
    asked = ["hour", "minute"]
    texts = [
        f'permit (principal, action == Action::"chat", resource) when {{ context.{name} == 1 }};' for name in asked
    ]
    assert policies.accepted(texts) == [True, False]
    assert CedarPolicies(POLICIES).accepted(texts) == [True, True]
    with pytest.raises(SpecError):
        policies.accepted(["permit"])


def test_entities_are_prepared_once_and_added_to():
    policies = CedarPolicies(POLICIES, SCHEMA)
    group = {"uid": {"type": "Group", "id": "engineers"}, "attrs": {}, "parents": []}
    user = {"uid": {"type": "User", "id": "ann"}, "attrs": {}, "parents": [group["uid"]]}
    known = policies.entities([user], policies.entities([group]))
    asked = ("User", "ann"), ("Action", "chat"), ("Model", "m")
    assert policies.decide(*asked, {"hour": 9}, known).allowed
    assert not policies.decide(*asked, {"hour": 9}, policies.entities([group])).allowed
    with pytest.raises(SpecError):
        policies.entities([{**user, "attrs": {"x": 1}}])
