"""The library of JSON schemas, loaded without a grammar of addresses that no rule asks for.

That grammar (of the formats `iri` and `iri-reference`, which a schema here only notes) costs a start 1.3 s and 20 MB.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

_GRAMMAR = "rfc3987_syntax"


@cache
def _library() -> Any:
    """Return `jsonschema.validators`; whoever needs the grammar can import it later."""
    kept_out = "jsonschema" not in sys.modules and _GRAMMAR not in sys.modules
    if kept_out:
        sys.modules[_GRAMMAR] = None  # type: ignore[assignment]  # Python's way to say that there is none
    try:
        from jsonschema import validators
    finally:
        if kept_out:
            del sys.modules[_GRAMMAR]
    return validators


def mistake(schema: dict[str, Any]) -> str:
    """Return why this is no JSON schema, `` where it is one."""
    library = _library()
    from jsonschema.exceptions import SchemaError

    try:
        library.validator_for(schema).check_schema(schema)
    except SchemaError as error:
        return str(error.message)
    return ""


def fits(schema: dict[str, Any], value: Any) -> bool:
    """Say whether a value fits a schema."""
    return bool(_library().validator_for(schema)(schema).is_valid(value))
