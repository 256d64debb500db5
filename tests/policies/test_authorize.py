"""Access: default deny, reasons by name, errors deny, and a memo that never mixes two questions up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.authorize import Authorizer, Caller, ModelState

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
