"""Exemptions from rules: only a permit that names the action `exempt` gives one, and whatever fails gives none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import policies
from policies.access.authorize import Authorizer, Caller, ModelState
from policies.authoring.cases import run_tests
from policies.bundle import BundleSpec
from policies.enforcement.rules import AnyRule
from registry.errors import SpecError, UnknownName
from registry.specs import parse
from tests.policies.running import CARD, RULES, gateway_running, make_bundle

DEFAULT = Path(policies.__file__).parent / "bundles" / "default"
SCHEMA = (DEFAULT / "access.cedarschema").read_text()
MODEL = ModelState("stdlib", "sha256:c", "sha256:k", "certified")
BUNDLE_RULES: list[AnyRule] = parse(RULES, BundleSpec, file="rules").rules
ALL = frozenset(rule.id for rule in BUNDLE_RULES)
EVERYTHING = "permit (principal, action, resource);"
FRAUD = (
    '@id("fraud-sees-cards") permit (principal in Group::"fraud", action == Action::"exempt", resource == Rule::"{}");'
)
CARDS = FRAUD.format("cards-stay-inside")


@dataclass(frozen=True)
class Access:
    """Access rules without a bundle around them."""

    access: str
    schema: str = SCHEMA
    digest: str = "sha256:b"


def exempt(access: str, *groups: str, model: ModelState = MODEL, schema: str = SCHEMA, **attributes: Any) -> set[str]:
    authorizer = Authorizer(Access(access, schema))
    return set(authorizer.exemptions(Caller("ada", frozenset(groups), attributes), model, BUNDLE_RULES))


def test_nobody_is_exempt_by_default() -> None:
    assert exempt((DEFAULT / "access.cedar").read_text(), "operators", "members") == set()
    assert exempt("") == set()


def test_a_permit_for_everything_is_no_exemption() -> None:
    assert exempt(EVERYTHING) == set()
    assert exempt(EVERYTHING + CARDS, "members") == set()
    assert exempt(EVERYTHING + CARDS, "fraud") == {"cards-stay-inside"}


def test_rules_are_told_by_id_kind_type_side_and_model() -> None:
    scope = 'permit (principal, action == Action::"exempt", resource'
    assert exempt(scope + ') when { resource.kind == "topic" };') == {"no-weapons"}
    assert exempt(scope + ') when { resource.type == "card" };') == {"cards-stay-inside"}
    assert exempt(scope + ') when { resource.side == "output" };') == {"keys-stay-inside"}
    assert exempt(scope + ' in Model::"stdlib");') == ALL
    assert exempt(scope + ' in Model::"other");') == set()


def test_attributes_of_the_caller_decide_too() -> None:
    rule = 'permit (principal, action in [Action::"exempt"], resource) when '
    rule += '{ principal.hasTag("past") && principal.getTag("past").contains(resource.type) };'
    assert exempt(rule, past=["card", "topic"]) == {"cards-stay-inside", "no-weapons"}
    assert exempt(rule, past="api_key") == {"keys-stay-inside"}
    assert exempt(rule) == set()


def test_a_forbid_wins_and_what_fails_exempts_nothing() -> None:
    scope = '(principal, action == Action::"exempt", resource)'
    assert exempt(CARDS + "forbid (principal, action, resource);", "fraud") == set()
    assert exempt(CARDS + f'forbid {scope} when {{ resource.kind == "topic" }};', "fraud") == {"cards-stay-inside"}
    broken = f'permit {scope} when {{ principal.getTag("x").contains("y") }};'
    assert exempt(CARDS + broken, "fraud") == set()
    assert exempt(CARDS, "fraud", x=object()) == set()


def test_a_schema_without_rules_knows_no_exemption() -> None:
    old = SCHEMA.replace('action "exempt"', 'action "skip"')
    assert exempt(CARDS, "fraud", schema=old) == set()


def test_a_bundle_whose_exemptions_do_not_fit_its_schema_is_not_loaded(tmp_path: Path) -> None:
    typo = 'permit (principal, action == Action::"exempt", resource) when { resource.typ == "card" };'
    for number, access in enumerate((typo, CARDS + "forbid (principal, action, resource) when { context.stream };")):
        with pytest.raises(SpecError):
            make_bundle(tmp_path / f"b{number}", access=EVERYTHING + access)
    make_bundle(tmp_path / "good", access=EVERYTHING + CARDS)


def test_remembered_exemptions_are_for_that_caller_model_and_rules() -> None:
    access = CARDS + 'permit (principal == User::"ada", action == Action::"exempt", resource in Model::"b");'
    remembering = Authorizer(Access(access))
    fewer = BUNDLE_RULES[:1]
    for name in ("ada", "eve") * 2:
        for groups in (frozenset({"fraud"}), frozenset[str]()):
            for model in (MODEL, replace(MODEL, name="b")):
                for rules in (BUNDLE_RULES, fewer):
                    asked = (Caller(name, groups), model, rules)
                    assert remembering.exemptions(*asked) == Authorizer(Access(access)).exemptions(*asked)


def test_exemptions_are_tested_beside_the_rules(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", access=EVERYTHING + CARDS)
    test = "{{name: {0}, groups: [{0}], action: exempt, rule: {1}, allowed: {2}}}"
    rows = [("fraud", "cards-stay-inside", "true"), ("members", "cards-stay-inside", "false"),
            ("fraud", "no-weapons", "true")]  # fmt: skip
    (bundle.folder / "tests.yaml").write_text("access:\n" + "".join(f"  - {test.format(*row)}\n" for row in rows))
    assert [outcome.passed for outcome in run_tests(bundle.folder)] == [True, True, False]
    (bundle.folder / "tests.yaml").write_text("access:\n  - " + test.format("fraud", "no-such-rule", "true"))
    with pytest.raises(UnknownName):
        run_tests(bundle.folder)


POLICY = st.builds(
    '{} (principal{}, action{}, resource{});'.format,
    st.sampled_from(["permit", "forbid"]),
    st.sampled_from(["", ' in Group::"fraud"', ' in Group::"members"']),
    st.sampled_from(["", ' == Action::"exempt"', ' == Action::"chat"']),
    st.sampled_from(["", ' == Rule::"no-weapons"', ' == Rule::"cards-stay-inside"']),
).filter(lambda text: "chat" not in text or "Rule" not in text)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(POLICY, max_size=4), POLICY, st.sampled_from(["fraud", "members"]), st.randoms())
def test_one_more_forbid_never_exempts_and_order_does_not_matter(
    written: list[str], extra: str, group: str, order: Any
) -> None:
    base = exempt("".join(written), group)
    assert exempt("".join([*written, extra.replace("permit", "forbid")]), group) <= base
    order.shuffle(written)
    assert exempt("".join(written), group) == base


def test_over_http_one_group_sees_what_another_does_not(tmp_path: Path) -> None:
    past = CARDS.replace("fraud", "operators")
    access = f"{EVERYTHING} {past}"
    with gateway_running(tmp_path, access=access) as running:
        said = {}
        for name in ("mia", "otto"):
            body = {"model": "stdlib", "messages": [{"role": "user", "content": f"card {CARD}"}]}
            headers = {"Authorization": f"Bearer {running.keys[name]}"}
            assert httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=headers).status_code == 200
            said[name] = running.engine.requests[-1]["messages"][-1]["content"]
    assert CARD in said["otto"]
    assert CARD not in said["mia"]
