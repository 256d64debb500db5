"""JSON schemas of rules: what is none is told, and a start does not pay for what no rule asks for."""

from __future__ import annotations

import subprocess
import sys

from policies.enforcement.json_schemas import fits, mistake

START = """\
import sys
from policies.enforcement.rules import JsonSchemaRule
rule = JsonSchemaRule(id="r", kind="json_schema", schema={"type": "object", "required": ["a"]})
assert rule.accepts('{"a": 1}') and not rule.accepts("{}")
assert "jsonschema" in sys.modules
assert "rfc3987_syntax" not in sys.modules
"""


def test_a_schema_is_told_from_what_is_none() -> None:
    assert mistake({"type": "object"}) == ""
    assert mistake({}) == ""
    assert "'text'" in mistake({"type": "text"})
    assert "regex" in mistake({"pattern": "("})
    assert fits({"type": "integer", "minimum": 2}, 2)
    assert not fits({"type": "integer", "minimum": 2}, 1)


def test_a_start_does_not_load_the_grammar_of_addresses() -> None:
    subprocess.run([sys.executable, "-P", "-c", START], check=True, timeout=60)
