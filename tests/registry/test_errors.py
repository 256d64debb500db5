"""Errors carry a cure and an exit code."""

import pytest

from registry import errors
from registry.plugins import Plugins


def test_names_outside_a_set_offer_near_ones():
    assert errors.UnknownName("engine", "vlm", ["vllm", "transformers"]).hint == "did you mean `vllm`?"
    assert errors.UnknownName("engine", "zzz", ["vllm"]).hint == "known: vllm"
    assert errors.UnknownName("engine", "zzz", []).hint == "known: none"


def test_a_spec_error_reads_as_place_field_message():
    error = errors.SpecError("too big", file="a.yaml", line=3, field="x.y", hint="make it smaller")
    assert str(error) == "a.yaml:3: `x.y`: too big"


@pytest.mark.parametrize(
    ("kind", "code"),
    [(errors.Tampered, 1), (errors.Refused, 1), (errors.NotYet, 3), (errors.Locked, 2), (errors.NotFound, 2)],
)
def test_exit_codes(kind, code):
    assert kind("x").exit_code == code


def test_a_missing_extra_names_the_install_line():
    assert errors.MissingExtra("weasyprint", "pdf").hint == "pip install 'hallmark-platform[pdf]'"


def test_plugins_load_by_name_and_offer_near_ones():
    table = Plugins("record", "hallmark.test", {"dataset": "registry.records:Dataset"})
    assert table.load("dataset").KIND == "dataset"
    assert list(table) == ["dataset"]
    assert "dataset" in table
    assert len(table) == 1
    with pytest.raises(errors.UnknownName, match="unknown record `datset`"):
        table.load("datset")
