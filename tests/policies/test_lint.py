"""`policy check`: every finding by name, place and cure; shipped bundles have no problem."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from policies.authoring.lint import Finding, lint
from policies.authoring.overlap import find_overlaps
from tests.policies.enforcing import rules_of

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "policies" / "bundles" / "default"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle without rules and with the default's access policy."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in ("access.cedar", "access.cedarschema"):
        shutil.copy(DEFAULT / name, folder / name)
    write(folder)
    return folder


def write(folder: Path, *rules: str, tests: str = "texts: []\n") -> Path:
    lines = "".join(f"  - {{{rule}}}\n" for rule in rules)
    (folder / "bundle.yaml").write_text(f"name: small\nrules:\n{lines}" if rules else "name: small\n")
    (folder / "tests.yaml").write_text(tests)
    return folder


def problems(folder: Path) -> list[Finding]:
    return [found for found in lint(folder) if found.severity == "problem"]


@pytest.mark.parametrize("folder", [DEFAULT, ROOT / "examples" / "quickstart" / "policy"])
def test_shipped_bundles_have_no_problem(folder: Path) -> None:
    assert problems(folder) == []


def test_a_bundle_that_does_not_load_is_one_problem_with_its_place(bundle: Path) -> None:
    write(bundle, "id: a, kind: regex, side: output, type: t, pattern: 'a+'")
    (found,) = lint(bundle)
    assert (found.severity, found.place) == ("problem", f"{bundle}/bundle.yaml:3")
    assert "unbounded repeat" in found.message


RE = "kind: regex, type: t, pattern: "
TERMS = "kind: terms, type: t, terms: "
DUPLICATES = [
    (RE + "'abc[0-9]'", RE + "'abc\\d'", "the same texts", "warning"),
    (RE + "'ab[0-9]'", RE + "'ab[1-3]'", "every text of it", "warning"),
    (RE + "'ab', action: block", RE + "'cabd'", "holds one", "problem"),
    (TERMS + "[a b, c]", TERMS + "[C]", "every text of it", "warning"),
    (TERMS + "[c], action: block", "kind: topic, keywords: [c, C]", "wins with `block`", "warning"),
    (RE + "'ab'", RE + "'ab', action: mask", "contradict", "problem"),
    (RE + "'ab', view: folded", RE + "'AB'", "every text of it", "warning"),
    (RE + "'[0-9]{4}', check: luhn", RE + "'[0-9]{4}', check: luhn", "the same texts", "warning"),
]


@pytest.mark.parametrize(("first", "second", "words", "severity"), DUPLICATES)
def test_a_rule_that_never_decides_is_named(bundle: Path, first: str, second: str, words: str, severity: str) -> None:
    write(bundle, f"id: one, side: both, {first}", f"id: two, side: output, {second}")
    (found,) = [each for each in lint(bundle) if each.rules == ("two", "one")]
    assert (found.severity, found.place) == (severity, "bundle.yaml:4")
    assert words in found.message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("kind: regex, type: t, pattern: 'ab', view: exact", "kind: regex, type: t, pattern: 'ab', view: folded"),
        ("kind: regex, type: t, pattern: '[0-9]{4}', check: luhn", "kind: regex, type: t, pattern: '[0-9]{4}'"),
        ("kind: regex, type: t, pattern: 'ab', action: mask", "kind: regex, type: t, pattern: 'ab', action: redact"),
        ("kind: regex, type: t, pattern: '\\bab', action: block", "kind: regex, type: t, pattern: 'xab'"),
        ("kind: topic, keywords: [ab, cd], at_least: 2", "kind: terms, type: t, terms: [ab]"),
        ("kind: terms, type: t, terms: [ab], action: block", "kind: topic, keywords: [ab, cd, ef], at_least: 2"),
    ],
)
def test_rules_that_leave_room_are_not_named(bundle: Path, first: str, second: str) -> None:
    write(bundle, f"id: one, side: output, {first}", f"id: two, side: output, {second}")
    assert [
        each for each in lint(bundle) if "two" in each.rules and "one" in each.rules and each.rules[0] == "two"
    ] == []


def test_a_topic_dies_with_all_of_its_keywords_or_too_few_left() -> None:
    blocking = {"kind": "terms", "terms": ["detonator", "cap"], "action": "block"}
    topic = {"kind": "topic", "keywords": ["detonator", "cap", "fuse"], "at_least": 2}
    (found,) = find_overlaps(rules_of(blocking, topic))
    assert (found.rule.id, found.by.id, found.conflict) == ("r1", "r0", False)


def test_an_exemption_makes_layers_of_what_would_be_dead(bundle: Path) -> None:
    write(
        bundle,
        "id: hard, kind: terms, side: output, type: t, action: block, terms: [nightjar]",
        "id: soft, kind: terms, side: output, type: t, terms: [nightjar]",
    )
    assert problems(bundle)
    schema = (bundle / "access.cedarschema").read_text()
    if "exempt" not in schema:
        schema += '\nentity Rule = {"kind": String, "type": String, "side": String};\n'
        schema += 'action "exempt" appliesTo {principal: [User], resource: [Rule], context: {}};\n'
    (bundle / "access.cedarschema").write_text(schema)
    permit = '@id("staff") permit (principal, action == Action::"exempt", resource == Rule::"{}");\n'
    access = '@id("all") permit (principal, action == Action::"chat", resource);\n'
    (bundle / "access.cedar").write_text(access + permit.format("hard"))
    assert problems(bundle) == []
    assert any("except for who is exempt" in each.message for each in lint(bundle))
    (bundle / "access.cedar").write_text(access + permit.format("hrad"))
    (found, *_) = [each for each in problems(bundle) if each.rules == ("hrad",)]
    assert "exempts from rule `hrad`, which the bundle does not have" in found.message
    assert found.place == f"access.cedar:{access.count(chr(10)) + 1}"


def test_lengths_that_cannot_be_reached(bundle: Path) -> None:
    write(
        bundle,
        "id: long, kind: max_length, side: both, characters: 50",
        "id: short, kind: max_length, side: output, characters: 10",
        "id: token, kind: regex, side: output, type: t, pattern: 'x[0-9]{20,30}'",
        "id: token-in, kind: regex, side: input, type: t, pattern: 'x[0-9]{20,30}'",
        "id: pick, kind: choice, side: output, choices: [a much longer answer, another longer one]",
    )
    found = {each.rules: each.severity for each in lint(bundle) if len(each.rules) == 2}
    assert found == {
        ("long", "short"): "warning",
        ("token", "short"): "problem",
        ("pick", "short"): "problem",
    }


def test_formats_against_formats_and_against_other_rules(bundle: Path) -> None:
    write(
        bundle,
        "id: pick, kind: choice, side: output, choices: [yes sir, nightjar]",
        "id: bird, kind: terms, side: output, type: t, terms: [nightjar]",
        "id: shape, kind: json_schema, side: output, schema: {type: object, properties: {bird: {const: nightjar}}, "
        "required: [bird]}",
        "id: stop, kind: regex, side: output, type: t, action: block, pattern: '\"bird\"'",
    )
    messages = {each.rules: each.message for each in problems(bundle)}
    assert "rule `bird` would redact it" in messages["pick", "bird"]
    assert "both fix the answer's format" in messages["shape", "pick"]
    assert "each of 24 answers made from its schema is blocked" in messages["shape", "stop"]


def test_policies_without_an_id_or_with_one_twice(bundle: Path) -> None:
    path = bundle / "access.cedar"
    before = path.read_text()
    more = 'permit (principal, action == Action::"models", resource);\n'
    path.write_text(f'{before}// "permit (" in a comment\n{more}@id("only-proven-models") {more}')
    found = {(each.severity, each.place): each.message for each in lint(bundle)}
    lines = before.count("\n")
    assert "has no `@id`" in found["warning", f"access.cedar:{lines + 2}"]
    assert any("two policies have the id `only-proven-models`" in message for message in found.values())


def test_tests_that_name_what_is_not_there_and_rules_that_none_hits(bundle: Path) -> None:
    write(
        bundle,
        "id: bird, kind: terms, side: output, type: t, terms: [nightjar]",
        "id: fish, kind: terms, side: output, type: t, terms: [herring]",
        tests="texts:\n  - {name: a, text: nightjar, action: redact}\n"
        "  - {name: b, text: x, action: pass, rules: [cow]}\n",
    )
    (problem,) = problems(bundle)
    assert "test `b` expects rule `cow`" in problem.message
    (warning,) = [each for each in lint(bundle) if each.severity == "warning"]
    assert warning.rules == ("fish",)


def test_a_matched_placeholder_is_a_problem(bundle: Path) -> None:
    write(bundle, "id: key, kind: regex, side: output, type: secret, pattern: 'k[0-9]{4}'",
          "id: word, kind: terms, side: output, type: word, terms: [secret]")  # fmt: skip
    assert ("word", "key") in {each.rules for each in problems(bundle)}
