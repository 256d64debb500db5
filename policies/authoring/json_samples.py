"""JSON out of a schema, and near-misses of it: drawn by seed, each judged by the schema itself."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from policies.authoring.samples import draw
from policies.enforcement.pattern import PatternError, parse

DEEPEST = 8
_TRIES = 12
Maker = Callable[[dict[str, Any], dict[str, Any], random.Random, int], Any]
"""Returns a value for (schema, root schema, random numbers, depth)."""
_WORDS = ("alpha", "birch", "copper", "delta", "ember", "fjord", "grain", "harbour")


def instances(schema: dict[str, Any], *, seed: int, count: int) -> Iterator[str]:
    """Yield up to `count` JSON texts that fit a schema, keys in the schema's order; fewer where drawing misses it."""
    accepts = _validator(schema)
    rng = random.Random(f"instances {seed}")  # noqa: S311 (drawn texts, no secrets)
    for _ in range(count):
        for _ in range(_TRIES):
            value = _value(schema, schema, rng, 0)
            if accepts(value):
                yield _written(value)
                break


def near_misses(schema: dict[str, Any], *, seed: int, count: int) -> Iterator[tuple[str, str]]:
    """Yield up to `count` (form, text) that fit a schema almost: another type, a key too few, no end, words around."""
    accepts = _validator(schema)
    rng = random.Random(f"near misses {seed}")  # noqa: S311 (drawn texts, no secrets)
    found = 0
    for text in instances(schema, seed=seed, count=count * _TRIES):
        form, change = rng.choice(_CHANGES)
        changed = change(text, rng)
        try:
            fits = accepts(json.loads(changed, parse_constant=_refuse))
        except (ValueError, RecursionError):
            fits = False
        if not fits:
            yield form, changed
            found += 1
            if found == count:
                return


def _written(value: Any) -> str:
    """Return a value as JSON without white space, as engines that decode under a schema write it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _validator(schema: dict[str, Any]) -> Callable[[Any], bool]:
    from jsonschema.validators import validator_for

    validator: Any = validator_for(schema)
    fits: Any = validator(schema).is_valid
    return lambda value: bool(fits(value))


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _value(schema: Any, root: dict[str, Any], rng: random.Random, depth: int) -> Any:
    """Return a value for a schema; what it cannot read is left to the validator to refuse."""
    if not isinstance(schema, dict):
        return rng.choice(_WORDS)
    if "$ref" in schema:
        return _value(_resolve(root, schema["$ref"]), root, rng, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return _value({**_without(schema, word), **rng.choice(schema[word])}, root, rng, depth + 1)
    if "allOf" in schema:
        return _value(_merged(schema, root), root, rng, depth + 1)
    kind = schema.get("type") or ("object" if "properties" in schema else "array" if "items" in schema else "string")
    kind = rng.choice(kind) if isinstance(kind, list) else kind
    make: Maker = _MAKERS.get(kind, _text)
    return make(schema, root, rng, depth)


def _object(schema: dict[str, Any], root: dict[str, Any], rng: random.Random, depth: int) -> dict[str, Any]:
    required, known = schema.get("required", []), schema.get("properties", {})
    chance = 0.7 if depth < DEEPEST else 0.0
    names = [name for name in known if name in required or rng.random() < chance]
    names += [name for name in required if name not in known]
    return {name: _value(known.get(name, {}), root, rng, depth + 1) for name in names}


def _array(schema: dict[str, Any], root: dict[str, Any], rng: random.Random, depth: int) -> list[Any]:
    low = schema.get("minItems", 0)
    high = schema.get("maxItems", low + 3)
    size = rng.randint(low, max(low, min(high, low + 3))) if depth < DEEPEST else low
    before = schema.get("prefixItems", [])
    items = [before[place] if place < len(before) else schema.get("items", {}) for place in range(size)]
    return [_value(item, root, rng, depth + 1) for item in items]


def _text(schema: dict[str, Any], root: dict[str, Any], rng: random.Random, depth: int) -> str:
    if "pattern" in schema:
        try:
            return draw(rng.choice(parse(schema["pattern"].removeprefix("^").removesuffix("$"))).body, rng)
        except PatternError:
            return rng.choice(_WORDS)
    low = schema.get("minLength", 0)
    text = rng.choice(_WORDS)
    while len(text) < low:
        text += " " + rng.choice(_WORDS)
    return text[: max(low, schema.get("maxLength", len(text)))]


def _number(schema: dict[str, Any], root: dict[str, Any], rng: random.Random, depth: int) -> float:
    low, high = _bounds(schema)
    return round(low + (high - low) * rng.random(), 3)


def _integer(schema: dict[str, Any], root: dict[str, Any], rng: random.Random, depth: int) -> int:
    low, high = _bounds(schema)
    step = schema.get("multipleOf", 1)
    return int(rng.randint(int(-(-low // step)), int(high // step)) * step) if low <= high else int(low)


def _bounds(schema: dict[str, Any]) -> tuple[float, float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1 if "exclusiveMinimum" in schema else None)
    high = schema.get("maximum", schema.get("exclusiveMaximum", 1) - 1 if "exclusiveMaximum" in schema else None)
    if low is None:
        low = high - 100 if high is not None else 0
    return low, high if high is not None else low + 100


_MAKERS: dict[str, Maker] = {
    "object": _object,
    "array": _array,
    "string": _text,
    "number": _number,
    "integer": _integer,
    "boolean": lambda schema, root, rng, depth: rng.random() < 0.5,
    "null": lambda schema, root, rng, depth: None,
}


def _resolve(root: dict[str, Any], reference: str) -> Any:
    value: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if part:
            value = value[part.replace("~1", "/").replace("~0", "~")] if isinstance(value, dict) else value[int(part)]
    return value


def _merged(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    out = _without(schema, "allOf")
    for part in schema["allOf"]:
        part = _resolve(root, part["$ref"]) if "$ref" in part else part
        properties = {**out.get("properties", {}), **part.get("properties", {})}
        required = [*out.get("required", []), *part.get("required", [])]
        out = {**out, **part, **({"properties": properties} if properties else {}), "required": required}
    return out


def _without(schema: dict[str, Any], word: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != word}


def _cut(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(1, len(text))] if len(text) > 1 else text + "{"


def _wrapped(text: str, rng: random.Random) -> str:
    return rng.choice(("Here you are: {}", "```json\n{}\n```", "{} Anything else?", "{},")).replace("{}", text)


def _another_type(text: str, rng: random.Random) -> str:
    value = json.loads(text)
    places = list(_places(value))
    if not places:
        return _written([value])
    holder, key = rng.choice(places)
    holder[key] = [holder[key]] if isinstance(holder[key], str) else str(holder[key])
    return _written(value)


def _key_gone(text: str, rng: random.Random) -> str:
    value = json.loads(text)
    if isinstance(value, dict) and value:
        value.pop(rng.choice(list(value)))
    return _written(value)


def _key_more(text: str, rng: random.Random) -> str:
    value = copy.deepcopy(json.loads(text))
    if isinstance(value, dict):
        value["unasked"] = rng.choice(_WORDS)
    return _written(value)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield value, key
        yield from _places(item)


_CHANGES: tuple[tuple[str, Callable[[str, random.Random], str]], ...] = (
    ("cut off", _cut),
    ("words around", _wrapped),
    ("another type", _another_type),
    ("key gone", _key_gone),
    ("key too many", _key_more),
)
