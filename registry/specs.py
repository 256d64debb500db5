"""YAML specs to frozen pydantic models, with the file, the line and the field of every mistake."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from registry.errors import HallmarkError, NotFound, SpecError
from registry.records import digest_of


class Spec(pydantic.BaseModel):
    """A YAML document that says what: frozen, closed to unknown keys, hashed into the records made from it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the canonical JSON of all fields, defaults included."""
        return digest_of(self.model_dump(mode="json"))


S = TypeVar("S", bound=Spec)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader in C, ten times as fast, where PyYAML was built with it."""


def load(path: Path, model: type[S]) -> S:
    """Return the spec in a YAML file.

    Raises:
        NotFound: the file is not there.
        SpecError: it is not YAML, not UTF-8, or does not fit the model; names file, line and field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"no spec file `{path}`", hint="check the path, or start from `hallmark init`") from None
    except IsADirectoryError:
        raise NotFound(f"`{path}` is a folder, not a spec file", hint="name the YAML file inside it") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text (byte {error.start})", file=str(path), hint="save the file as UTF-8") from None
    return parse(text, model, file=str(path))


def parse(text: str, model: type[S], *, file: str = "<text>") -> S:
    """Return the spec in a YAML text; `file` names it in errors."""
    try:
        node, value = _read(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        line = mark.line + 1 if mark else None
        raise SpecError(f"not valid YAML: {problem}", file=file, line=line, hint="check quotes and indents") from None
    if not isinstance(value, dict):
        found = "nothing" if value is None else type(value).__name__
        raise SpecError(
            f"expected a mapping of fields, found {found}", file=file, line=1, hint=f"fields: {_names(model)}"
        )
    _refuse_duplicate_keys(node, file)
    try:
        return model.model_validate(value)
    except pydantic.ValidationError as error:
        raise _spec_error(error, node, model, file) from None


def _read(text: str) -> tuple[Any, Any]:
    """Return the nodes of a YAML text, which know their lines, and its value. Raises yaml.YAMLError."""
    try:
        return yaml.compose(text, Loader=_LOADER), yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe one
    except (yaml.YAMLError, UnicodeEncodeError):  # the slow one says better what is wrong
        return yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)


def dump(spec: Spec) -> str:
    """Return a spec as YAML that parses back to an equal spec."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=False)


def _names(model: type[pydantic.BaseModel]) -> str:
    return ", ".join(f"`{name}`" for name in model.model_fields)


def _spec_error(error: pydantic.ValidationError, node: Any, model: type[Spec], file: str) -> SpecError:
    problems = error.errors(include_url=False)
    first = next((found for found in problems if found["type"] == "extra_forbidden"), problems[0])
    location = first["loc"]
    line = _line(node, location)
    name = ".".join(str(part) for part in location)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, HallmarkError):
        return SpecError(cause.message + more, file=file, line=line, field=name or None, hint=cause.hint)
    if first["type"] == "extra_forbidden":
        return SpecError("unknown key" + more, file=file, line=line, field=name, hint=_near(model, node, location))
    if first["type"] == "missing":
        return SpecError("required field is missing" + more, file=file, line=line, field=name, hint="add it")
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = first.get("input")
    hint = (
        f"found {given!r}" if isinstance(given, str | int | float | bool) or given is None else "see the field's schema"
    )
    return SpecError(message + more, file=file, line=line, field=name or None, hint=hint)


def _near(model: type[pydantic.BaseModel], node: Any, location: tuple[Any, ...]) -> str:
    """Return `did you mean ...` from the fields of the model that owns the unknown key."""
    known = _fields_at(model, location[:-1])
    near = difflib.get_close_matches(str(location[-1]), known, n=2, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(f"`{name}`" for name in near) + "?"
    return "known keys: " + ", ".join(f"`{name}`" for name in known) if known else "remove it"


def _fields_at(model: type[pydantic.BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Return field names of the model (or union of models) at a location."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    nodes = [schema]
    for part in location:
        nodes = [found for node in nodes for found in _step(node, part, definitions)]
    names = [name for node in _expand(nodes, definitions) for name in node.get("properties", {})]
    return sorted(set(names))


def _expand(nodes: list[dict[str, Any]], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for node in nodes:
        if "$ref" in node:
            found += _expand([definitions[node["$ref"].rsplit("/", 1)[1]]], definitions)
        elif "anyOf" in node or "oneOf" in node:
            found += _expand(node.get("anyOf", []) + node.get("oneOf", []), definitions)
        else:
            found.append(node)
    return found


def _step(node: dict[str, Any], part: Any, definitions: dict[str, Any]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for option in _expand([node], definitions):
        if isinstance(part, int):
            out += [option["items"]] if isinstance(option.get("items"), dict) else []
        elif part in option.get("properties", {}):
            out.append(option["properties"][part])
        elif option.get("properties", {}).get("type", {}).get("const") == part:
            out.append(option)  # pydantic puts the tag of a discriminated union into the location
        elif isinstance(option.get("additionalProperties"), dict):
            out.append(option["additionalProperties"])
    return out


def _line(node: Any, location: tuple[Any, ...]) -> int | None:
    """Return the 1-based line of the deepest part of a location that the document has."""
    line: int | None = node.start_mark.line + 1 if node is not None else None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                continue  # a union's tag, or a missing field: stay at the parent
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _refuse_duplicate_keys(node: Any, file: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise SpecError(
                    "key is given twice",
                    file=file,
                    line=key.start_mark.line + 1,
                    field=str(key.value),
                    hint="keep one of the two: YAML would silently take the last",
                )
            seen.add(key.value)
            _refuse_duplicate_keys(value, file)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicate_keys(item, file)
