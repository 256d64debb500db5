from __future__ import annotations

import pytest

from registry.errors import SpecError
from registry.specs import dump, parse
from training.data.spec import DataSpec

GOOD = "name: x\nsources: [{kind: python_stdlib, name: py}]\n"


def test_a_spec_survives_yaml_and_keeps_its_digest():
    spec = parse(GOOD, DataSpec)
    assert parse(dump(spec), DataSpec) == spec
    assert parse(dump(spec), DataSpec).digest == spec.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "holdot: 0.1\n", "unknown key"),
        (GOOD + "holdout: 1.5\n", "less than 1"),
        ("name: x\nsources: []\n", "at least 1 item"),
        ("name: x\nsources: [{kind: folder, name: a, licence: MIT}]\n", "needs `path`"),
        ("name: x\nsources: [{kind: folder, name: a, path: b}]\n", "needs `licence`"),
        ("name: x\nsources: [{kind: python_stdlib, name: a, path: b}]\n", "takes no `path`"),
        ("name: x\nsources: [{kind: python_stdlib, name: a}, {kind: python_stdlib, name: a}]\n", "same `name`"),
        ("name: ../x\nsources: [{kind: python_stdlib, name: a}]\n", "pattern"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(SpecError, match=message):
        parse(text, DataSpec)
