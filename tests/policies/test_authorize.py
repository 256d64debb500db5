"""Access: default deny, reasons by name, errors deny, and a memo that never mixes two questions up."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import policies
from policies.access.authorize import Authorizer, Caller, ModelState

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart" / "policy"
SCHEMA = (QUICKSTART / "access.cedarschema").read_text()
MODEL = ModelState("model", "sha256:c", "sha256:k", "certified")


@dataclass(frozen=True)
class Rules:
    """Access rules without a bundle around them."""

    access: str
    schema: str = SCHEMA
    digest: str = "sha256:b"


QUICK = Authorizer(Rules((QUICKSTART / "access.cedar").read_text()))


def decide(
    *groups: str, action: Any = "chat", model: ModelState = MODEL, **context: Any
) -> tuple[bool, tuple[str, ...]]:
    found = QUICK.decide(Caller("ada", frozenset(groups), {}, "k1"), action, model, context)
    return found.allowed, found.reasons


def test_nothing_is_allowed_by_default() -> None:
    assert decide() == (False, ())


def test_an_intern_is_denied_by_name_even_as_an_engineer() -> None:
    assert decide("engineers", "interns") == (False, ("interns-may-not-chat",))
    assert decide("engineers", "interns", action="models") == (True, ("engineers-may-use-models",))


def test_only_proven_models() -> None:
    assert decide("engineers", model=replace(MODEL, status="revoked")) == (False, ("only-proven-models",))
    assert decide("evaluators", model=replace(MODEL, status="permit")) == (True, ("evaluators-may-measure-candidates",))


def test_forced_text_is_for_operators() -> None:
    forced = {"decoding": ["structured_outputs.choice"]}
    assert decide("engineers", **forced) == (False, ("only-operators-force-text",))
    assert decide("operators", **forced) == (True, ("operators-may-use-models",))


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.sampled_from(["engineers", "operators", "evaluators"])),
    st.sampled_from(["certified", "permit", "expired"]),
)
def test_one_more_forbid_never_allows(groups: set[str], status: str) -> None:
    stricter = Authorizer(
        Rules((QUICKSTART / "access.cedar").read_text() + 'forbid (principal in Group::"operators", action, resource);')
    )
    caller, model = Caller("ada", frozenset(groups)), replace(MODEL, status=status)
    assert QUICK.decide(caller, "chat", model, {}).allowed or not stricter.decide(caller, "chat", model, {}).allowed


def test_attributes_are_tags() -> None:
    condition = 'principal.hasTag("team") && principal.getTag("team").contains("ml")'
    rules = Rules(f"permit (principal, action, resource) when {{ {condition} }};")
    authorizer = Authorizer(rules)
    for value, allowed in (("ml", True), (["ml", "ops"], True), ("ops", False), (7, False)):
        assert authorizer.decide(Caller("a", attributes={"team": value}), "chat", MODEL, {}).allowed is allowed


def test_policies_and_labels_see_the_request() -> None:
    rules = Rules(
        "permit (principal, action, resource) when "
        '{ context.stream && context.max_tokens < 100 && !context.tools && resource.labels.contains("fast") };'
    )
    model = replace(MODEL, labels=("fast",))
    assert (
        Authorizer(rules).decide(Caller("a"), "chat", model, {"stream": True, "max_tokens": 99, "unknown": "x"}).allowed
    )
    assert not Authorizer(rules).decide(Caller("a"), "chat", model, {"stream": True, "max_tokens": 100}).allowed


@pytest.mark.parametrize(
    ("caller", "context"),
    [
        (Caller("a", attributes={"x": object()}), {}),
        (Caller("a"), {"decoding": 7}),
        (Caller("a"), {"stream": "yes"}),
        (Caller("a"), {"max_tokens": 2**80}),
    ],
)
def test_whatever_goes_wrong_denies(caller: Caller, context: dict[str, Any]) -> None:
    reads = "context.decoding.isEmpty() || context.stream || context.max_tokens < 9"
    rules = Rules(f"permit (principal, action, resource) when {{ {reads} }};")
    found = Authorizer(rules).decide(caller, "chat", MODEL, context)
    assert not found.allowed
    assert found.errors


def test_a_policy_that_fails_to_evaluate_denies() -> None:
    failing = "permit (principal, action, resource) when { context.max_tokens * 9223372036854775807 > 0 };"
    rules = Rules("permit (principal, action, resource);" + failing)
    found = Authorizer(rules).decide(Caller("a"), "chat", MODEL, {"max_tokens": 3})
    assert (found.allowed, bool(found.errors)) == (False, True)


def test_a_remembered_answer_is_for_that_question_only() -> None:
    questions = [
        (Caller(name, frozenset(groups), {"n": tag}, key), status, stream)
        for name in ("a", "b") for groups in ((), ("g",)) for tag in (1, 2) for key in ("k", "l")
        for status in ("certified", "expired") for stream in (True, False)
    ]  # fmt: skip
    rules = Rules(
        'permit (principal, action, resource) when { principal in Group::"g" && principal.key_id == "k" && '
        'principal.getTag("n").contains("1") && resource.status == "certified" && context.stream };'
        'forbid (principal == User::"b", action, resource);'
    )
    remembering = Authorizer(rules)
    for caller, status, stream in questions * 2:
        fresh = Authorizer(rules).decide(caller, "chat", replace(MODEL, status=status), {"stream": stream})
        assert remembering.decide(caller, "chat", replace(MODEL, status=status), {"stream": stream}) == fresh


# ---- what a request says -------------------------------------------------------------------------------------------

BUNDLE = Path(policies.__file__).parent / "bundles" / "default"
NEWER = (BUNDLE / "access.cedarschema").read_text()


def allowed(condition: str, schema: str = NEWER, wall: float = 0.0, model: ModelState = MODEL, **context: Any) -> bool:
    rules = Rules(f"permit (principal, action, resource is Model) when {{ {condition} }};", schema)
    return Authorizer(rules, wall=lambda: wall).decide(Caller("a"), "embed", model, context).allowed


@pytest.mark.parametrize(
    ("condition", "context"),
    [
        ('context.purpose == "audit"', {"purpose": "audit"}),
        ('context.data_class == "public"', {"data_class": "public"}),
        ('context.surface == "embeddings"', {"surface": "embeddings"}),
        ('["a", "b"].containsAll(context.tool_names) && context.tool_names.contains("b")', {"tool_names": ["b"]}),
        ("context.hour == 13 && context.weekday == 7", {"hour": 13, "weekday": 7}),
        ('resource.engine == "" && resource.expires < 10', {}),
    ],
)
def test_access_rules_read_the_facts_of_a_request(condition: str, context: dict[str, Any]) -> None:
    assert allowed(condition, **context)
    assert not allowed(f"!({condition})", **context)
    assert not context or not allowed(condition)


@pytest.mark.parametrize(
    ("moment", "hour", "weekday"),
    [(0, 0, 4), (86_399, 23, 4), (86_400, 0, 5), (4 * 86_400, 0, 1), (1_800_000_000, 8, 5), (1_795_412_163, 5, 1)],
)
def test_hour_and_weekday_are_those_of_utc(moment: float, hour: int, weekday: int) -> None:
    assert allowed(f"context.hour == {hour} && context.weekday == {weekday}", wall=moment)
    named = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    assert (named.hour, named.isoweekday()) == (hour, weekday)


def test_a_remembered_answer_ends_with_its_hour() -> None:
    now = [3600.0 * 7]
    rules = Rules("permit (principal, action, resource) when { context.hour < 8 };", NEWER.replace(*WITHOUT_EXEMPT))
    authorizer = Authorizer(rules, wall=lambda: now[0])
    assert authorizer.decide(Caller("a"), "chat", MODEL, {}).allowed
    now[0] += 3600
    assert not authorizer.decide(Caller("a"), "chat", MODEL, {}).allowed


WITHOUT_EXEMPT = ('"exempt" appliesTo', '"skip" appliesTo')


def test_values_that_no_policy_reads_do_not_crowd_the_memory() -> None:
    authorizer = Authorizer(Rules("permit (principal, action, resource is Model) when { context.stream };", NEWER))
    for number in range(50):
        facts = {"stream": True, "max_tokens": number, "purpose": f"p{number}", "tool_names": [f"t{number}"]}
        assert authorizer.decide(Caller("a"), "chat", MODEL, facts).allowed
    assert len(authorizer._memo) == 1


def test_a_bundle_of_before_still_decides_and_knows_no_new_action() -> None:
    old = Authorizer(Rules("permit (principal, action, resource);"))
    facts = {"purpose": "x", "data_class": "y", "hour": 3, "surface": "chat", "tool_names": ["t"]}
    assert old.unfit() == ""
    assert old.decide(Caller("a"), "chat", MODEL, facts).allowed
    assert not old.decide(Caller("a"), "embed", MODEL, facts).allowed


def test_an_attribute_that_the_schema_only_allows_is_passed_too() -> None:
    optional = NEWER.replace('"purpose": String', '"purpose"?: String').replace('"expires": Long', '"expires"?: Long')
    assert allowed('context has purpose && context.purpose == "x"', optional, purpose="x")
    assert allowed("resource has expires && resource.expires == 7", optional, model=replace(MODEL, expires=7))


def test_what_a_schema_misses_is_said() -> None:
    assert Authorizer(Rules("", NEWER)).unfit() == ""
    assert "`Model`" in Authorizer(Rules("", NEWER.replace('"labels": Set<String>,', ""))).unfit()
    assert (
        "none of the endpoint's actions"
        in Authorizer(Rules("", 'entity User; action "x" appliesTo { principal: User, resource: User };')).unfit()
    )


CONDITION = st.sampled_from([
    "", "when { context.stream }", 'when { context.purpose == "a" }', "unless { context.tool_names.isEmpty() }",
    "when { context.hour < 12 }", 'when { principal in Group::"g" }', 'unless { principal.hasTag("t") }',
    'when { resource.status == "certified" }', 'when { principal.getTag("t").contains("1") }',
])  # fmt: skip
WRITTEN = st.tuples(st.sampled_from(["permit", "forbid"]), st.sampled_from(["", ' == Action::"chat"']), CONDITION).map(
    lambda part: f"{part[0]} (principal, action{part[1]}, resource is Model) {part[2]};"
)
QUESTION = st.tuples(
    st.builds(
        Caller, st.sampled_from("ab"), st.sampled_from([frozenset(), frozenset({"g"})]),
        st.sampled_from([{}, {"t": "1"}, {"t": ["2"]}]),
    ),
    st.sampled_from(["chat", "embed", "models"]),
    st.sampled_from([MODEL, replace(MODEL, status="expired")]),
    st.fixed_dictionaries({
        "stream": st.booleans(), "purpose": st.sampled_from("ab"), "hour": st.sampled_from([3, 15]),
        "tool_names": st.sampled_from([[], ["x"]]),
    }),
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(WRITTEN, min_size=1, max_size=5), st.lists(QUESTION, min_size=1, max_size=6), WRITTEN, st.randoms())
def test_laws_of_access(written: list[str], questions: list[Any], extra: str, order: Any) -> None:
    """One more forbid never allows, order is irrelevant, and what is remembered is what would be decided afresh."""
    authorizer = Authorizer(Rules("".join(written), NEWER))
    found = [authorizer.decide(*question).allowed for question in questions]
    stricter = Authorizer(Rules("".join([*written, extra.replace("permit", "forbid")]), NEWER))
    assert all(before or not stricter.decide(*q).allowed for before, q in zip(found, questions, strict=True))
    order.shuffle(written)
    shuffled = Authorizer(Rules("".join(written), NEWER))
    assert [shuffled.decide(*question).allowed for question in questions] == found
    assert [authorizer.decide(*question).allowed for question in reversed(questions)] == found[::-1]
