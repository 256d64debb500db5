"""One compile, four targets: each rule as decode-time constraint, check, training reward and test scenarios.

All four come from the same rule objects. `tests/policies/test_targets.py` holds them together: what the scenarios call
violating, the check hits (whole and streamed), the reward scores below 1, and the constraint of a rule that decoding
enforces does not accept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from policies.authoring.reward import Reward, scored
from policies.authoring.scenarios import Scenarios, made_for
from policies.bundle import SIDES, Bundle, compile_bundle
from policies.enforcement import decode
from policies.enforcement.compiled import CompiledCache
from policies.enforcement.engine import Enforcer
from policies.enforcement.rules import AnyRule
from policies.enforcement.scan import CompiledBundle


@dataclass(frozen=True, slots=True)
class RuleTargets:
    """What became of one rule.

    `stage` is decode.DURING, HINDERED or AFTER; `constraint` the fields, in vLLM's names, that reach into decoding;
    `check` the sides on which the rule is checked; `reward` and `scenarios` whether it has a term and texts, `why_not`
    why it has none.
    """

    rule: str
    kind: str
    stage: str
    constraint: dict[str, Any]
    check: tuple[str, ...]
    reward: bool
    scenarios: bool
    why_not: str = ""


@dataclass(frozen=True)
class Targets:
    """A bundle compiled for everything that uses it."""

    bundle: Bundle
    compiled: CompiledBundle

    @cached_property
    def rules(self) -> tuple[RuleTargets, ...]:
        """What became of each rule, in the bundle's order."""
        return tuple(_targets_of(rule) for rule in self.bundle.spec.rules)

    @cached_property
    def enforcer(self) -> Enforcer:
        """The check of inputs and outputs, as the endpoint runs it."""
        return Enforcer(self.compiled)

    @cached_property
    def reward(self) -> Reward:
        """The training reward."""
        return Reward(self.bundle, self.compiled)

    @cached_property
    def scenarios(self) -> Scenarios:
        """The test scenarios."""
        return Scenarios.of(self.bundle)


def compile_targets(bundle: Bundle, cache: CompiledCache | None = None) -> Targets:
    """Return a bundle compiled once for its four uses; `cache` keeps compiled patterns between starts."""
    return Targets(bundle, compile_bundle(bundle, cache))


def _targets_of(rule: AnyRule) -> RuleTargets:
    sides = tuple(side for side in SIDES if rule.applies_to(side))
    why = made_for(rule)
    if not why and "output" not in sides:
        why = "a reward scores answers, and the rule is on input"
    return RuleTargets(
        rule.id, rule.kind, decode.stage(rule), decode.constraint(rule), sides, scored(rule), not made_for(rule), why
    )
