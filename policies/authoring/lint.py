"""`policy check`: rules that never decide, that contradict one another, or that name what is not there.

A finding is a problem where the bundle does something else than it says, and a warning where it says too much or
is not tested.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import yaml

from policies import bundle as room
from policies.authoring.access_lint import Cedar
from policies.authoring.cases import PolicyTest, TestsSpec
from policies.authoring.overlap import Overlap, find_overlaps
from policies.bundle import Bundle
from policies.enforcement.decode import fixes_format
from policies.enforcement.engine import Enforcer
from policies.enforcement.pattern import lengths
from policies.enforcement.rules import (
    AnyRule,
    ChoiceRule,
    CodeRule,
    FormatRule,
    JsonSchemaRule,
    MaxLengthRule,
    Rule,
    SpanRule,
    TopicRule,
)
from registry.errors import NotFound, SpecError
from registry.specs import load as load_spec

SIDES = ("input", "output")
_INSTANCES = 24
_WIDEST_FOLD = 18
"""Characters that one code point may become on a view (U+FDFA)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at. `place` is `file:line`, `cure` what to do about it."""

    severity: Literal["problem", "warning"]
    rules: tuple[str, ...]
    place: str
    message: str
    cure: str

    def line(self) -> str:
        """Return the finding as one line."""
        return f"{self.severity}: {self.place}: {self.message} (hint: {self.cure})"


def lint(folder: Path) -> list[Finding]:
    """Return what there is to say of a bundle, problems first; an empty list means that nothing was found.

    What cannot be decided (whether an access policy can ever apply, an overlap of patterns that is too large to walk)
    is left out or said to be undecided; validators' and own rules' code is not looked into.
    """
    try:
        bundle = room.load(folder)
        enforcer = Enforcer(room.compile_bundle(bundle))
    except (SpecError, NotFound) as error:
        file = getattr(error, "file", None)
        place = ":".join(str(part) for part in (file, getattr(error, "line", None)) if part) or str(folder)
        message = error.message.removeprefix(f"{place}: ")
        return [Finding("problem", (), place, message, error.hint or "correct it")]
    places = _Places(bundle)
    found = [
        *_placeholders(bundle, enforcer, places),
        *_overlapping(bundle, places),
        *_lengths(bundle.spec.rules, places),
        *_formats(bundle, enforcer, places),
        *_access(bundle),
        *_tests(bundle, enforcer, places),
    ]
    return sorted(found, key=lambda each: each.severity)


class _Places:
    """Where each rule of a bundle is written."""

    def __init__(self, bundle: Bundle) -> None:
        self.file = bundle.folder / "bundle.yaml"
        node: Any = yaml.compose(self.file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        rules = next((value for key, value in node.value if key.value == "rules"), None)
        lines = [item.start_mark.line + 1 for item in rules.value] if rules is not None else []
        self._lines = {rule.id: line for rule, line in zip(bundle.spec.rules, lines, strict=True)}

    def __getitem__(self, rule: Rule) -> str:
        return f"{self.file.name}:{self._lines[rule.id]}"


def _placeholders(bundle: Bundle, enforcer: Enforcer, places: _Places) -> Iterator[Finding]:
    for rule, hit in room.placeholder_hits(bundle, enforcer):
        yield Finding(
            "problem",
            (hit, rule.id),
            places[rule],
            f"rule `{hit}` matches the placeholder of rule `{rule.id}`",
            "rename the type of one of them",
        )


def _overlapping(bundle: Bundle, places: _Places) -> Iterator[Finding]:
    exempt = Cedar(bundle).exemptible
    for overlap in find_overlaps(bundle.spec.rules):
        yield _overlap_finding(overlap, places, layered=overlap.by.id in exempt or "*" in exempt)


def _overlap_finding(overlap: Overlap, places: _Places, *, layered: bool) -> Finding:
    rule, by = overlap.rule, overlap.by
    rules = (rule.id, by.id)
    if overlap.undecided:
        message = f"whether rule `{by.id}` leaves anything to rule `{rule.id}` was not decided: too large to walk"
        return Finding("warning", rules, places[rule], message, "compare the two patterns by eye")
    message = f"rule `{rule.id}` never decides: {overlap.why}"
    if overlap.conflict:
        message = f"rules `{rule.id}` and `{by.id}` contradict: {overlap.why}"
    if layered:
        return Finding(
            "warning", rules, places[rule], message + ", except for who is exempt from that", "none, if meant"
        )
    severity: Literal["problem", "warning"] = "problem" if overlap.conflict else "warning"
    return Finding(severity, rules, places[rule], message, "remove one, or narrow the stronger one")


def _lengths(rules: Sequence[AnyRule], places: _Places) -> Iterator[Finding]:
    shortest = {rule.id: _shortest(rule) for rule in rules if isinstance(rule, SpanRule | FormatRule)}
    for side in SIDES:
        limits = [rule for rule in rules if isinstance(rule, MaxLengthRule) and rule.applies_to(side)]
        if not limits:
            continue
        least = min(limits, key=lambda rule: rule.characters)
        for rule in rules:
            if not rule.applies_to(side) or rule is least:
                continue
            why = _too_long(rule, least.characters, side, shortest)
            if why:
                yield Finding(
                    "warning" if isinstance(rule, MaxLengthRule) else "problem",
                    (rule.id, least.id),
                    places[rule],
                    f"rule `{rule.id}` never applies on side {side}: {why}, and `{least.id}` ends the text after "
                    f"{least.characters}",
                    "raise the limit or remove the rule",
                )


def _shortest(rule: SpanRule | FormatRule) -> int:
    """Return the characters that the shortest text has on which a rule acts."""
    shortest = sorted(lengths(branch.body)[0] for branch in rule.branches())
    return sum(shortest[: rule.at_least]) if isinstance(rule, TopicRule) else shortest[0]


def _too_long(rule: AnyRule, limit: int, side: str, shortest: Mapping[str, int]) -> str:
    if isinstance(rule, MaxLengthRule):
        return f"it allows {rule.characters} characters"
    if isinstance(rule, ChoiceRule) and side == "output":
        return "each choice is longer" if all(len(text) > limit for text in rule.choices) else ""
    needed = shortest.get(rule.id, 0)
    widest = _WIDEST_FOLD if isinstance(rule, SpanRule) and rule.folded else 1
    return f"its shortest match has {needed} characters" if needed > limit * widest else ""


def _formats(bundle: Bundle, enforcer: Enforcer, places: _Places) -> Iterator[Finding]:
    fixing = [rule for rule in bundle.spec.rules if fixes_format(rule)]
    for rule in fixing[1:]:
        yield Finding(
            "problem",
            (rule.id, fixing[0].id),
            places[rule],
            f"rules `{fixing[0].id}` and `{rule.id}` both fix the answer's format",
            "keep one of the two",
        )
    for rule in fixing:
        yield from _answers(rule, enforcer, places, frozenset(each.id for each in fixing))


def _answers(rule: AnyRule, enforcer: Enforcer, places: _Places, fixing: frozenset[str]) -> Iterator[Finding]:
    """Check the answers that a rule allows against the other rules."""
    exempt = fixing | frozenset(each.id for each in enforcer.compiled.output.guards)
    if isinstance(rule, ChoiceRule):
        for text in rule.choices:
            hits = enforcer.check_output(text, exempt=exempt).hits
            if hits:
                message = f"rule `{rule.id}` allows {text!r}, and rule `{hits[0].rule}` would {hits[0].action} it"
                yield Finding("problem", (rule.id, hits[0].rule), places[rule], message, "change one of the two")
    elif isinstance(rule, JsonSchemaRule | FormatRule):
        texts, what = _drawn(rule), "schema" if isinstance(rule, JsonSchemaRule) else "pattern"
        blocked = [enforcer.check_output(text, exempt=exempt).blocked for text in texts]
        if texts and all(blocked):
            message = (
                f"rule `{rule.id}`: each of {len(texts)} answers made from its {what} is blocked, by `{blocked[0]}`"
            )
            yield Finding("problem", (rule.id, str(blocked[0])), places[rule], message, "change one of the two")


def _drawn(rule: JsonSchemaRule | FormatRule) -> list[str]:
    """Return some answers that a rule allows."""
    from policies.authoring.json_samples import instances
    from policies.authoring.specimens import compliant

    if isinstance(rule, JsonSchemaRule):
        return list(instances(rule.schema_, seed=0, count=_INSTANCES))
    rng = random.Random(rule.pattern)  # noqa: S311 (drawn texts, no secrets)
    return [text for _, text in islice(compliant(rule, rng), _INSTANCES)]


def _access(bundle: Bundle) -> Iterator[Finding]:
    cedar = Cedar(bundle)
    for name, line in cedar.repeated():
        message = f"two policies have the id `{name}`: answers and log could mean either"
        yield Finding("problem", (name,), f"access.cedar:{line}", message, "rename one")
    for effect, line in cedar.unnamed():
        message = f"a {effect} policy has no `@id`: answers and log cannot name it"
        yield Finding("warning", (), f"access.cedar:{line}", message, 'write `@id("...")` before it')
    for name, by, line in cedar.shadowed():
        forbids = ", ".join(f"`{each}`" for each in by)
        message = f"permit `{name}` never decides: {forbids} {'forbid' if by[1:] else 'forbids'} all that it permits"
        yield Finding("problem", (name, *by), f"access.cedar:{line}", message, "remove it, or narrow the forbid")
    known = {rule.id for rule in bundle.spec.rules}
    for name, policy, line in cedar.named_rules():
        if name not in known:
            message = f"policy `{policy}` exempts from rule `{name}`, which the bundle does not have"
            yield Finding("problem", (name,), f"access.cedar:{line}", message, "name a rule of `bundle.yaml`")


def _tests(bundle: Bundle, enforcer: Enforcer, places: _Places) -> Iterator[Finding]:
    file = bundle.folder / "tests.yaml"
    tests = load_spec(file, TestsSpec) if file.exists() else TestsSpec()
    known = {rule.id: rule for rule in bundle.spec.rules}
    seen: set[str] = set()
    for test in tests.texts:
        for name in test.rules or ():
            if name not in known:
                message = f"test `{test.name}` expects rule `{name}`, which the bundle does not have"
                yield Finding("problem", (name,), file.name, message, "name a rule of `bundle.yaml`")
        seen |= {*(test.rules or ()), *_reached(enforcer, test)}
    if tests.samples:
        seen |= {name for name, rule in known.items() if not isinstance(rule, CodeRule)}
    untested = tuple(name for name in known if name not in seen)
    if untested:
        names = ", ".join(f"`{name}`" for name in untested)
        message = f"{len(untested)} of {len(known)} rules are hit by no test: {names}"
        yield Finding("warning", untested, file.name, message, "add a text to `tests.yaml` that each must find")


def _reached(enforcer: Enforcer, test: PolicyTest) -> Iterable[str]:
    off = frozenset(each.id for each in enforcer.compiled.output.guards)
    examine = enforcer.check_input if test.side == "input" else enforcer.check_output
    return {hit.rule for hit in examine(test.text, exempt=off).hits}
