"""Decode-time fields: what the engine enforces itself, and who may not overrule it."""

from __future__ import annotations

import pytest

from policies.enforcement.decode import AFTER, DURING, HINDERED, decode_fields, stage
from registry.errors import Refused
from tests.policies.enforcing import enforcer_of, rules_of

SCHEMA = {"type": "object"}
JSON = {"kind": "json_schema", "side": "output", "schema": SCHEMA}
CHOICE = {"kind": "choice", "side": "output", "choices": ["yes", "no"]}
WORDS = {"kind": "terms", "terms": ["Nightjar"], "decode": "bad_words"}


def test_fields_in_the_engines_names() -> None:
    assert decode_fields(rules_of(JSON), {}) == {"structured_outputs": {"json": SCHEMA}}
    assert decode_fields(rules_of(CHOICE, WORDS), {}) == {
        "structured_outputs": {"choice": ["yes", "no"]},
        "bad_words": ["Nightjar"],
    }
    assert decode_fields(rules_of(WORDS, WORDS), {}) == {"bad_words": ["Nightjar", "Nightjar"]}
    assert decode_fields(rules_of({"kind": "regex", "pattern": "a"}), {"structured_outputs": {"regex": "a"}}) == {}


@pytest.mark.parametrize("field", ["structured_outputs", "response_format"])
def test_a_caller_cannot_replace_a_fixed_format(field: str) -> None:
    with pytest.raises(Refused, match="`r0` fixes"):
        decode_fields(rules_of(JSON), {field: {"type": "json_object"}})


def test_two_fixed_formats_are_refused() -> None:
    with pytest.raises(Refused, match="another rule"):
        decode_fields(rules_of(JSON, CHOICE), {})


def test_stages_are_told() -> None:
    rules = rules_of(JSON, CHOICE, WORDS, {"kind": "regex", "pattern": "a"}, {"kind": "topic", "keywords": ["a"]})
    assert [stage(rule) for rule in rules] == [DURING, DURING, HINDERED, AFTER, AFTER]


def test_what_decoding_enforces_is_checked_again() -> None:
    enforcer = enforcer_of(CHOICE)
    assert enforcer.decode_fields({}) == {"structured_outputs": {"choice": ["yes", "no"]}}
    assert (enforcer.check_output("yes").blocked, enforcer.check_output("maybe").blocked) == (None, "r0")
