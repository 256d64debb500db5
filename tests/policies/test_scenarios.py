"""Scenarios: the same by seed, of every rule and form, and judged by the rule's definition."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from policies.authoring.scenarios import Scenarios, made_for
from policies.bundle import load
from policies.enforcement.checksums import CHECKS
from tests.policies.enforcing import rules_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def quickstart() -> Scenarios:
    return Scenarios.of(load(ROOT / "examples" / "quickstart" / "policy"))


def test_the_same_seed_makes_the_same_rows(quickstart: Scenarios) -> None:
    first = list(quickstart.rows(4, seed=7))
    assert list(quickstart.rows(4, seed=7)) == first
    assert list(quickstart.rows(4, seed=8)) != first
    assert len({row.seed for row in first}) == len(first)


def test_every_rule_has_both_kinds_on_its_sides(quickstart: Scenarios) -> None:
    count = Counter((row.rule, row.side, row.kind) for row in quickstart.rows(4))
    for rule in quickstart.rules:
        if made_for(rule):
            assert not any(name == rule.id for name, _, _ in count)
            continue
        for side in ("input", "output"):
            expected = 0 if not rule.applies_to(side) else 2 if rule.side == "both" else 4
            assert count[rule.id, side, "violating"] == count[rule.id, side, "compliant"] == expected


def test_forms_follow_the_view_and_the_rule() -> None:
    rules = rules_of(
        {"kind": "terms", "terms": ["nightjar"], "view": "lookalike"},
        {"kind": "regex", "pattern": r"\bkey-[0-9]{6}\b"},
        {"kind": "regex", "pattern": "[0-9]{16}", "check": "luhn", "view": "plain"},
        {"kind": "max_length", "characters": 300},
    )
    forms: dict[tuple[str, str], set[str]] = {}
    for row in Scenarios(rules).rows(40):
        forms.setdefault((row.rule, row.kind), set()).add(row.form)
    assert {"upper case", "full width", "invisible characters", "accents", "look-alikes"} <= forms["r0", "violating"]
    assert "upper case" not in forms["r1", "violating"]
    assert {"inside of a longer word", "a character off"} <= forms["r1", "compliant"]
    assert "checksum broken" in forms["r2", "compliant"]
    assert {"one too long", "too long"} == forms["r3", "violating"]


def test_spelled_texts_are_spelled_otherwise() -> None:
    scenarios = Scenarios(rules_of({"kind": "terms", "terms": ["nightjar"], "side": "output"}))
    texts = {row.form: row.text for row in scenarios.rows(12) if row.kind == "violating"}
    assert any(char.isupper() for char in texts["upper case"])
    assert all("nightjar" not in text for form, text in texts.items() if form not in ("alone", "among others"))


@pytest.mark.parametrize("check", ["luhn", "iban", "entropy", *(name for name in ("us_ssn",) if name in CHECKS)])
def test_checksums_hold_by_construction(check: str) -> None:
    patterns = {"luhn": "[0-9]{16}", "us_ssn": "[0-9]{9}", "entropy": "[a-z]{20}",
                "iban": "[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){3,7}"}  # fmt: skip
    (rule,) = rules_of({"kind": "regex", "pattern": patterns[check], "check": check, "side": "output"})
    alone = [row for row in Scenarios([rule]).rows(6) if row.form == "alone"]
    assert alone
    assert all(CHECKS[check](row.text) for row in alone)


def test_a_checksum_out_of_reach_makes_no_violating_rows() -> None:
    (rule,) = rules_of({"kind": "regex", "pattern": "a{4,6}", "check": "entropy", "side": "output"})
    assert {row.kind for row in Scenarios([rule]).rows(3)} <= {"compliant"}


def test_compliant_texts_are_clean_of_the_other_rules_too() -> None:
    rules = rules_of(
        {"kind": "regex", "pattern": "[0-9]{8}", "side": "output"},
        {"kind": "regex", "pattern": "[0-9]{5}", "side": "output"},
    )
    scenarios = Scenarios(rules)
    for row in scenarios.rows(15):
        if row.kind == "compliant":
            assert scenarios.free("output", row.text)
            assert row.action == "pass"


def test_prompts_ask_for_what_the_rule_is_about() -> None:
    rules = rules_of(
        {"kind": "regex", "pattern": "k[0-9]{4}", "type": "api_key", "side": "both"},
        {"kind": "choice", "choices": ["yes", "no"], "side": "output"},
    )
    rows = list(Scenarios(rules).rows(10))
    assert all(row.prompt == row.text for row in rows if row.side == "input")
    violating = [row for row in rows if row.side == "output" and row.rule == "r0" and row.kind == "violating"]
    assert all("api key" in row.prompt or row.text[:1] in row.prompt for row in violating)
    assert {row.prompt for row in rows if row.rule == "r1" and row.kind == "compliant"} == {
        "Answer with one of 'yes', 'no'."
    }
