"""Specs: every mistake is named with its file, line, field and cure."""

from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from registry.errors import NotFound, SpecError
from registry.specs import Spec, dump, load, parse


class Square(Spec):
    type: Literal["square"]
    side: int


class Round(Spec):
    type: Literal["round"]
    radius: float


class Shape(Spec):
    name: str
    colour: str = "red"
    parts: tuple[Annotated[Square | Round, Field(discriminator="type")], ...] = ()
    weights: dict[str, float] = {}


SQUARE = "name: a\nparts:\n  - type: square\n"
GOOD = "name: a\nparts:\n  - {type: square, side: 3}\n"


def problem(text):
    with pytest.raises(SpecError) as caught:
        parse(text, Shape, file="s.yaml")
    return caught.value


def test_a_good_spec_parses_and_has_a_digest():
    spec = parse(GOOD, Shape)
    assert spec.parts[0].side == 3
    assert spec.digest == parse(dump(spec), Shape).digest
    assert spec.digest != parse("name: b\n", Shape).digest


@pytest.mark.parametrize(
    ("text", "line", "field", "message", "hint"),
    [
        ("name: a\ncolor: blue\n", 2, "color", "unknown key", "did you mean `colour`?"),
        ("colour: blue\n", 1, "name", "required field is missing", "add it"),
        (
            "name: a\nparts:\n  - type: square\n    sides: 3\n    side: 3\n",
            4,
            "parts.0.square.sides",
            "unknown key",
            "side",
        ),
        (f"{SQUARE}    side: big\n", 4, "parts.0.square.side", "integer", "found 'big'"),
        ("name: [1\n", 2, None, "not valid YAML", "quotes"),
        ("- a\n- b\n", 1, None, "found list", "fields: `name`"),
        ("", 1, None, "found nothing", "fields"),
        ("name: a\nname: b\n", 2, "name", "given twice", "last"),
        ("name: a\nweights: {x: much}\n", 2, "weights.x", "number", "found 'much'"),
    ],
)
def test_a_mistake_is_named_with_line_and_cure(text, line, field, message, hint):
    error = problem(text)
    assert (error.file, error.line, error.field) == ("s.yaml", line, field)
    assert message in error.message
    assert hint in error.hint


def test_missing_folder_and_binary_files(tmp_path):
    with pytest.raises(NotFound, match="no spec file"):
        load(tmp_path / "absent.yaml", Shape)
    with pytest.raises(NotFound, match="is a folder"):
        load(tmp_path, Shape)
    (tmp_path / "x.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(SpecError, match="not UTF-8"):
        load(tmp_path / "x.yaml", Shape)


@given(
    name=st.text(min_size=1, max_size=20),
    weights=st.dictionaries(
        st.text(min_size=1, max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=3
    ),
    parts=st.lists(st.builds(Square, type=st.just("square"), side=st.integers(-(2**53), 2**53)), max_size=3),
)
def test_spec_to_yaml_to_spec_is_identity(name, weights, parts):
    spec = Shape(name=name, parts=tuple(parts), weights=weights)
    assert parse(dump(spec), Shape) == spec
