"""Rules: what each kind accepts, and the words with which a wrong one is refused."""

from __future__ import annotations

import pydantic
import pytest

from policies.enforcement.rules import ChoiceRule, GuardrailsRule, JsonSchemaRule, TopicRule
from tests.policies.enforcing import rules_of


@pytest.mark.parametrize(
    ("rule", "field", "words"),
    [
        ({"kind": "regex", "pattern": "a+"}, "pattern", "unbounded repeat"),
        ({"kind": "regex", "pattern": "a", "actoin": "mask"}, "actoin", "Extra inputs"),
        ({"kind": "regex", "pattern": "a", "action": "drop"}, "action", "'mask', 'block' or 'abort'"),
        ({"kind": "regex", "pattern": "a", "type": "No Spaces"}, "type", "pattern"),
        ({"kind": "terms", "terms": []}, "terms", "at least 1"),
        ({"kind": "terms", "terms": ["\u200b"]}, "terms", "empty on its view"),
        ({"kind": "topic", "keywords": ["a", "A"], "at_least": 2}, "", "1 different keywords"),
        ({"kind": "topic", "keywords": ["a"], "action": "mask"}, "action", "'block'"),
        ({"kind": "max_length", "characters": 0}, "characters", "greater than or equal to 1"),
        ({"kind": "json_schema", "side": "output", "schema": {"type": "objct"}}, "schema", "not a JSON schema"),
        (
            {"kind": "json_schema", "side": "output", "schema": {"$ref": "http://a.b/c"}},
            "schema",
            "leaves the document",
        ),
        ({"kind": "json_schema", "side": "input", "schema": {}}, "side", "'output'"),
        ({"kind": "guardrails", "side": "output", "validator": "no class"}, "validator", "pattern"),
        ({"kind": "guardrails", "validator": "m:C", "surfaces": ["embeddings"]}, "surfaces", "'responses'"),
        ({"kind": "python", "function": "module:f"}, "function", "pattern"),
        ({"kind": "python", "function": "../up.py:f"}, "function", "pattern"),
        ({"kind": "python", "function": "a.py:f", "deadline_s": 0}, "deadline_s", "greater than 0"),
        ({"kind": "python", "function": "a.py:f", "action": "abort"}, "action", "'redact' or 'mask'"),
        ({"kind": "language", "languages": []}, "languages", "at least 1"),
        ({"kind": "language", "languages": ["xx"]}, "languages", "'en', 'de'"),
        ({"kind": "regex", "pattern": "a", "check": "lunh"}, "check", "there is no check `lunh`"),
        ({"kind": "shout"}, "", "does not match any of the expected tags"),
    ],
)
def test_wrong_rules(rule: dict[str, object], field: str, words: str) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        rules_of(rule)
    error = caught.value.errors()[0]
    assert words in error["msg"]
    assert not field or field in error["loc"]


def test_topic_keywords_that_read_alike_are_one() -> None:
    (rule,) = rules_of({"kind": "topic", "keywords": ["Bomb", "b\u00f3mb", "fuse"], "at_least": 2})
    assert isinstance(rule, TopicRule)
    assert len(rule.branches()) == 2


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ('{"a": 1}', True),
        ('{"a": "x"}', False),
        ("[1]", False),
        ('{"a": NaN}', False),
        ('{"a": 1', False),
        ("[" * 10_000, False),
    ],
)
def test_json_schema_accepts(text: str, accepted: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/n"}},
        "required": ["a"],
        "$defs": {"n": {"type": "number"}},
    }
    (rule,) = rules_of({"kind": "json_schema", "side": "output", "schema": schema})
    assert isinstance(rule, JsonSchemaRule)
    assert rule.accepts(text) is accepted


def test_choice_accepts_its_choices_only() -> None:
    (rule,) = rules_of({"kind": "choice", "side": "output", "choices": ["yes", "no"]})
    assert isinstance(rule, ChoiceRule)
    assert [rule.accepts(text) for text in ("yes", "no", "yes ", "")] == [True, True, False, False]


def test_sides() -> None:
    both, one = rules_of(
        {"kind": "terms", "terms": ["a"]}, {"kind": "guardrails", "side": "output", "validator": "m:C"}
    )
    assert isinstance(one, GuardrailsRule)
    assert [both.applies_to("input"), both.applies_to("output"), one.applies_to("input")] == [True, True, False]
