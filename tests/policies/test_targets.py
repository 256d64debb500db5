"""The differential test: check, stream, reward, constraint and scenarios of the same rules agree on every text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from policies.authoring.scenarios import Scenario
from policies.authoring.targets import RuleTargets, Targets, compile_targets
from policies.bundle import BundleSpec, load
from policies.enforcement.decode import AFTER, DURING, HINDERED
from policies.enforcement.engine import Enforcer
from policies.enforcement.rules import WholeRule
from tests.policies.enforcing import RULES
from tests.policies.grammar import lets_through

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [ROOT / "policies" / "bundles" / "default", ROOT / "examples" / "quickstart" / "policy"]
FORMATS: list[dict[str, Any]] = [
    {"id": "shape", "kind": "json_schema", "schema": {
        "type": "object", "additionalProperties": False, "required": ["name", "size"],
        "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"type": "integer", "minimum": 0},
                       "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2}}}},
    {"id": "pick", "kind": "choice", "choices": ["yes", "no", "not now."]},
    {"id": "order", "kind": "format", "pattern": r"(?:AB|CD)-[0-9]{3,5}|none\."},
    {"id": "bird", "kind": "terms", "type": "bird", "terms": ["Project Nightjar"], "decode": "bad_words"},
    {"id": "tongue", "kind": "language", "languages": ["en", "de"], "scripts": ["latin", "greek"]},
]  # fmt: skip


def targets_of(tmp_path: Path, rules: list[dict[str, Any]]) -> Targets:
    """Compile rules as a bundle of their own."""
    import yaml

    folder = tmp_path / "bundle"
    folder.mkdir(exist_ok=True)
    for name in ("access.cedar", "access.cedarschema"):
        (folder / name).write_bytes((SHIPPED[0] / name).read_bytes())
    (folder / "bundle.yaml").write_text(yaml.safe_dump({"name": "made", "rules": rules}))
    return compile_targets(load(folder))


def disagreements(targets: Targets, per_rule: int, seed: int = 0, every: int = 1) -> list[str]:
    """Return where the four targets differ on the scenarios of every so many rules of a bundle, one line each."""
    rules = {rule.id: rule for rule in targets.bundle.spec.rules}
    told = {each.rule: each for each in targets.rules}
    found = []
    for row in targets.scenarios.rows(per_rule, seed, list(rules)[::every]):
        others = frozenset(rules) - {row.rule}
        formats = frozenset(name for name in others if isinstance(rules[name], WholeRule) or not told[name].scenarios)
        found += _of_check(targets.enforcer, others, row, single=True)
        found += _of_check(targets.enforcer, formats, row, single=False)
        found += _of_reward(targets, told[row.rule], row) + _of_constraint(told[row.rule], row)
    return [f"{row}: {what}" for row, what in found]


def _of_check(enforcer: Enforcer, exempt: frozenset[str], row: Scenario, *, single: bool) -> list[tuple[Scenario, str]]:
    check = enforcer.check_input if row.side == "input" else enforcer.check_output
    piece = check(row.text, exempt=exempt)
    hit = {each.rule for each in piece.hits}
    found = []
    if row.kind == "compliant" and (hit or piece.text != row.text) and single:
        found.append((row, f"the check of the rule alone finds {hit} and releases {piece.text!r}"))
    if row.kind == "compliant" and hit - exempt and not single:
        found.append((row, f"the check of the bundle finds {hit}"))
    if row.kind == "violating" and row.rule not in hit and (single or piece.blocked is None):
        found.append((row, f"the check finds {hit}"))
    if row.side == "output" and single:
        stream = enforcer.stream(exempt=exempt)
        pieces = [*map(stream.push, row.text), stream.finish()]
        text, hits = "".join(each.text for each in pieces), {each.rule for every in pieces for each in every.hits}
        if (text, hits, next((each.blocked for each in pieces if each.blocked), None)) != (
            piece.text,
            hit,
            piece.blocked,
        ):
            found.append((row, f"streamed it releases {text!r}, whole {piece.text!r}"))
    return found


def _of_reward(targets: Targets, told: RuleTargets, row: Scenario) -> list[tuple[Scenario, str]]:
    if not told.reward or row.side == "input":
        return []
    score = targets.reward.score(row.text)
    term = score.terms.get(row.rule, 1.0)
    kept = term == 1.0 if row.kind == "compliant" else term < 1.0 and score.value < 1.0
    return [] if kept and 0.0 <= score.value <= 1.0 else [(row, f"the reward is {score}")]


def _of_constraint(told: RuleTargets, row: Scenario) -> list[tuple[Scenario, str]]:
    if told.stage == AFTER or row.side == "input":
        return []
    passed = lets_through(told.constraint, row.text)
    if told.stage == HINDERED:  # as spelled only, and inside of longer words too
        return [(row, "decoding writes the term")] if passed and "Project Nightjar" in row.text else []
    return [] if passed == (row.kind == "compliant") else [(row, f"decoding lets it through: {passed}")]


def test_shipped_bundles_mean_the_same_four_times() -> None:
    assert disagreements(compile_targets(load(SHIPPED[0])), per_rule=2, every=24) == []
    assert disagreements(compile_targets(load(SHIPPED[1])), per_rule=4) == []


@pytest.mark.slow
def test_every_rule_of_the_default_bundle() -> None:
    assert disagreements(compile_targets(load(SHIPPED[0])), per_rule=2, seed=1) == []


def test_formats_mean_the_same_while_decoding(tmp_path: Path) -> None:
    targets = targets_of(tmp_path, [{"side": "output", **rule} for rule in FORMATS])
    assert [each.stage for each in targets.rules] == [DURING, DURING, DURING, HINDERED, AFTER]
    assert disagreements(targets, per_rule=8) == []
    bird = targets.rules[3]
    assert not lets_through(bird.constraint, "about Project Nightjar, briefly")
    assert lets_through(bird.constraint, "about project nightjar, briefly")  # the check finds this one


PATTERNS = st.sampled_from([
    r"\b(?:ab|cd)[0-9]{2,5}\b", r"key-[A-Za-z0-9_-]{4,12}", r"[A-Z]{3}\d{3}", r"x{3,9}y?", r"\bP[a-z]{1,4}\.",
    r"[^\s]{3}@", r"\b[0-9]{12}\b", r"(?:a|bb){2,4}",
])  # fmt: skip
WORDS = st.lists(st.sampled_from(["nightjar", "reverse shell", "caf\u00e9", "B-52", "x"]), min_size=1, unique=True)
SIDE = st.sampled_from(["input", "output", "both"])
ACTION = st.sampled_from(["redact", "mask", "block", "abort"])
VIEW = st.sampled_from(["exact", "plain", "folded", "lookalike"])
DECODED = st.lists(st.sampled_from(["base64", "hex", "url"]), max_size=2, unique=True)
MADE = st.one_of(
    st.fixed_dictionaries({
        "kind": st.just("regex"), "type": st.just("t"), "pattern": PATTERNS, "side": SIDE, "action": ACTION,
        "view": VIEW, "decoded": DECODED, "check": st.sampled_from([None, None, "luhn", "entropy"]),
    }),
    st.fixed_dictionaries({
        "kind": st.just("terms"), "type": st.just("t"), "terms": WORDS, "side": SIDE, "action": ACTION,
        "view": VIEW, "decoded": DECODED, "whole_words": st.booleans(),
    }),
    st.fixed_dictionaries({"kind": st.just("topic"), "keywords": WORDS, "side": SIDE}),
)  # fmt: skip
LIMIT = st.fixed_dictionaries({"kind": st.just("max_length"), "side": SIDE, "characters": st.integers(40, 90)})


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(made=st.lists(MADE, min_size=1, max_size=3), limits=st.lists(LIMIT, max_size=2), seed=st.integers(0, 999))
def test_made_rules_mean_the_same_four_times(
    tmp_path: Path, made: list[dict[str, Any]], limits: list[dict[str, Any]], seed: int
) -> None:
    rules = [{"id": f"r{number}", **rule} for number, rule in enumerate(made + limits)]
    RULES.validate_python(rules)
    assert disagreements(targets_of(tmp_path, rules), per_rule=4, seed=seed) == []


def test_what_became_of_each_rule_is_told() -> None:
    told = {each.rule: each for each in compile_targets(load(SHIPPED[1])).rules}
    assert (told["github-token"].check, told["github-token"].reward) == (("input", "output"), True)
    assert told["malware"].why_not == "a reward scores answers, and the rule is on input"
    assert (told["no-shouting"].scenarios, told["no-shouting"].reward) == (False, False)
    assert "is code: write its texts into `tests.yaml`" in told["no-shouting"].why_not
    assert BundleSpec(name="a").rules == []
