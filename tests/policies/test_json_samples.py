"""JSON out of schemas: instances fit, near-misses do not, both the same by seed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema.validators import validator_for

from policies.authoring.json_samples import instances, near_misses

SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {"type": "object", "required": ["name", "tags"], "additionalProperties": False, "properties": {
        "name": {"type": "string", "minLength": 3, "maxLength": 9},
        "size": {"type": "integer", "minimum": 2, "maximum": 9},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1}, "odd": {"type": ["null", "boolean"]}}},
    "reference": {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "required": ["value"], "properties": {
        "value": {"type": "number", "exclusiveMinimum": 0}, "next": {"$ref": "#/$defs/node"}}}}},
    "choice": {"oneOf": [{"type": "integer", "multipleOf": 5}, {"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"}]},
    "merged": {"allOf": [{"type": "object", "required": ["a"], "properties": {"a": {"const": 1}}},
                         {"properties": {"b": {"type": "string"}}, "required": ["b"]}]},
}  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_instances_fit_and_near_misses_do_not(schema: dict[str, Any]) -> None:
    valid = validator_for(schema)(schema).is_valid
    texts = list(instances(schema, seed=1, count=20))
    assert len(texts) >= 15
    assert all(valid(json.loads(text)) for text in texts)
    missed = list(near_misses(schema, seed=1, count=20))
    assert len(missed) >= 10
    assert all(not _fits(valid, text) for _, text in missed)
    assert {"cut off", "words around"} <= {form for form, _ in missed}


def _fits(valid: Any, text: str) -> bool:
    try:
        return bool(valid(json.loads(text)))
    except ValueError:
        return False


def test_the_same_seed_makes_the_same_texts() -> None:
    schema = SCHEMAS["object"]
    first = list(instances(schema, seed=3, count=10)), list(near_misses(schema, seed=3, count=10))
    assert (list(instances(schema, seed=3, count=10)), list(near_misses(schema, seed=3, count=10))) == first
    assert list(instances(schema, seed=4, count=10)) != first[0]


def test_keys_come_in_the_schemas_order_and_without_white_space() -> None:
    for text in instances(SCHEMAS["object"], seed=0, count=10):
        names = list(json.loads(text))
        assert names == [name for name in SCHEMAS["object"]["properties"] if name in names]
        assert text == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)


def test_a_schema_that_nothing_fits_makes_nothing() -> None:
    assert list(instances({"type": "string", "minLength": 5, "maxLength": 2}, seed=0, count=3)) == []
