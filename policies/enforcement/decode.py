"""What of a bundle the engine can enforce while it decodes, and which rules can only be checked afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policies.enforcement.rules import AnyRule, ChoiceRule, FormatRule, JsonSchemaRule, TermsRule
from registry.errors import Refused

AFTER = "checked after decoding"
DURING = "enforced while decoding, checked afterwards"
HINDERED = "hindered while decoding, checked afterwards"
"""The engine is kept from the terms as they are spelled in the rule, inside of longer words too; other spellings, and
tokens that cut a term differently, are found by the check."""
OUTPUT_FORMATS = ("structured_outputs", "response_format")
"""Fields by which a caller asks for a format of its own."""


def stage(rule: AnyRule) -> str:
    """Return what decoding does for a rule: keeps it, `DURING`, a part of it, `HINDERED`, or nothing, `AFTER`.

    A length in characters is no bound in tokens (one token may be many characters, or a part of one), so `max_length`
    is checked afterwards; spans, subjects and languages are not rules on the next token either.
    """
    if fixes_format(rule):
        return DURING
    return HINDERED if _fields(rule) else AFTER


def fixes_format(rule: AnyRule) -> bool:
    """Say whether a rule fixes the format of the whole answer."""
    return "structured_outputs" in _fields(rule)


def constraint(rule: AnyRule) -> dict[str, Any]:
    """Return the fields, in vLLM's names, by which a rule reaches into decoding; empty where it does not."""
    return _fields(rule)


def decode_fields(rules: Sequence[AnyRule], request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields to set on the request to the engine, in vLLM's names; they replace the caller's own.

    Raises:
        Refused: the caller asks for a format of its own where a rule fixes the format, or two rules fix it.
    """
    fields: dict[str, Any] = {}
    for rule in rules:
        for name, value in _fields(rule).items():
            if name == "bad_words":
                fields[name] = [*fields.get(name, []), *value]
                continue
            own = next((field for field in OUTPUT_FORMATS if request.get(field) is not None), None)
            if own is not None:
                raise Refused(f"rule `{rule.id}` fixes the answer's format", hint=f"leave `{own}` out of the request")
            if name in fields:
                raise Refused(f"rule `{rule.id}` fixes a format that another rule has fixed", hint="exempt one of them")
            fields[name] = value
    return fields


def _fields(rule: AnyRule) -> dict[str, Any]:
    if isinstance(rule, JsonSchemaRule):
        return {"structured_outputs": {"json": rule.schema_}}
    if isinstance(rule, ChoiceRule):
        return {"structured_outputs": {"choice": list(rule.choices)}}
    if isinstance(rule, FormatRule):
        return {"structured_outputs": {"regex": rule.source}}
    if isinstance(rule, TermsRule) and rule.decode == "bad_words":
        return {"bad_words": list(rule.terms)}
    return {}
