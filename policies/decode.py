"""What of a bundle the engine can already enforce while it decodes, and which rules can only be checked afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policies.rules import AnyRule, FormatRule, JsonSchemaRule, TermsRule
from registry.errors import Refused

AFTER = "checked after decoding"
DURING = "enforced while decoding, checked afterwards"
OUTPUT_FORMATS = ("structured_outputs", "response_format")
"""Fields by which a caller asks for a format of its own."""


def stage(rule: AnyRule) -> str:
    """Return whether decoding itself keeps a rule, `DURING`, or only the check of what it wrote, `AFTER`."""
    return DURING if _fields(rule) else AFTER


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
    if isinstance(rule, FormatRule):
        return {"structured_outputs": {"choice": list(rule.choices)}}
    if isinstance(rule, TermsRule) and rule.decode == "bad_words":
        return {"bad_words": list(rule.terms)}
    return {}
