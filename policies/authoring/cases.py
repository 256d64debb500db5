"""The tests beside the rules: `tests.yaml` of a bundle, and their outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from policies.access.authorize import ACTIONS, EXEMPT, Authorizer, Caller, ModelState
from policies.authoring.sampled import run_samples
from policies.authoring.texts import action_of
from policies.bundle import compile_bundle, load
from policies.enforcement.engine import Enforcer
from policies.enforcement.rules import AnyRule
from registry.errors import UnknownName
from registry.specs import Spec
from registry.specs import load as load_spec


class PolicyTest(pydantic.BaseModel):
    """One text through one side: what must come out. Absent fields are not looked at."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    name: str
    side: Literal["input", "output"] = "output"
    surface: Literal["chat", "completions", "responses"] = "chat"
    text: str
    action: Literal["pass", "mask", "redact", "abort", "block"]
    """The strongest action taken."""
    released: str | None = None
    rules: list[str] | None = None


class AccessTest(pydantic.BaseModel):
    """One request: whether it is allowed and by which policies; of the action `exempt`, past which `rule`."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    name: str
    caller: str = "someone"
    groups: list[str] = []
    attributes: dict[str, Any] = {}
    action: str = "chat"
    rule: str = ""
    status: str = "certified"
    context: dict[str, Any] = {}
    allowed: bool
    reasons: list[str] | None = None


class TestsSpec(Spec):
    """`tests.yaml`: the tests beside the rules."""

    __test__ = False
    texts: list[PolicyTest] = pydantic.Field(default_factory=list)
    access: list[AccessTest] = pydantic.Field(default_factory=list)
    samples: Annotated[int, pydantic.Field(ge=0, le=100)] = 0
    """So many texts drawn from each rule itself must be acted on by it (`guardrails` and `python` rules apart)."""


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """How one test of a bundle went; `detail` says what was found instead."""

    __test__ = False
    name: str
    passed: bool
    detail: str = field(default="")


def run_tests(folder: Path) -> list[TestOutcome]:
    """Return the outcome of every test in a bundle's `tests.yaml`; a bundle without the file has none.

    Each text goes through the whole-text check and, on the output side, through a stream of single characters as well.
    """
    bundle = load(folder)
    if not (folder / "tests.yaml").exists():
        return []
    tests = load_spec(folder / "tests.yaml", TestsSpec)
    enforcer, authorizer = Enforcer(compile_bundle(bundle)), Authorizer(bundle)
    texts = [_run_text(enforcer, test) for test in tests.texts]
    drawn = run_samples(enforcer, bundle.spec.rules, tests.samples)
    texts += [TestOutcome(f"samples of `{rule}`", not wrong, wrong) for rule, wrong in drawn]
    return texts + [_run_access(authorizer, test, bundle.spec.rules) for test in tests.access]


def _run_text(enforcer: Enforcer, test: PolicyTest) -> TestOutcome:
    exempt = enforcer.guards_off(test.surface)
    check_side = enforcer.check_input if test.side == "input" else enforcer.check_output
    piece = check_side(test.text, exempt=exempt)
    if test.side == "output":
        stream = enforcer.stream(exempt=exempt)
        pieces = [stream.push(char) for char in test.text]
        pieces.append(stream.finish())
        text, blocked = "".join(each.text for each in pieces), next((p.blocked for p in pieces if p.blocked), None)
        if (text, blocked) != (piece.text, piece.blocked):
            return TestOutcome(test.name, False, f"streamed it releases {text!r}, whole {piece.text!r}")
    action, rules = action_of(piece), sorted({hit.rule for hit in piece.hits})
    if action != test.action:
        return TestOutcome(test.name, False, f"action is `{action}` by {rules or 'no rule'}, expected `{test.action}`")
    if test.released is not None and piece.text != test.released:
        return TestOutcome(test.name, False, f"releases {piece.text!r}")
    if test.rules is not None and rules != sorted(test.rules):
        return TestOutcome(test.name, False, f"rules are {rules}")
    return TestOutcome(test.name, True)


def _run_access(authorizer: Authorizer, test: AccessTest, rules: Sequence[AnyRule]) -> TestOutcome:
    caller = Caller(test.caller, frozenset(test.groups), test.attributes, "test")
    if test.action == EXEMPT:
        known = {rule.id for rule in rules}
        if test.rule not in known:
            raise UnknownName("rule", test.rule, known)
        past = authorizer.exemptions(caller, ModelState("model", "", "", test.status), rules)
        right = (test.rule in past) == test.allowed
        return TestOutcome(test.name, right, "" if right else f"exempt from {sorted(past) or 'no rule'}")
    action = next((known for known in ACTIONS if known == test.action), None)
    if action is None:
        raise UnknownName("action", test.action, ACTIONS)
    found = authorizer.decide(caller, action, ModelState("model", "", "", test.status), test.context)
    passed = found.allowed == test.allowed and (test.reasons is None or sorted(test.reasons) == sorted(found.reasons))
    word = "allowed" if found.allowed else "denied"
    return TestOutcome(test.name, passed, "" if passed else f"{word} by {found.reasons or found.errors or 'default'}")
