"""The forest plot: what passes lies right of the line, everything stays inside, any text is safe."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import charts
from reports.decoding import kpi
from reports.facts import Kpi

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


def row(rule: str = "noninferior", line: float | None = -0.02, verdict: str = "PASS", **more: object) -> Kpi:
    body = {
        "kpi": "k",
        "rule": rule,
        "threshold": line,
        "verdict": verdict,
        "estimate": 0.1,
        "lower": 0.05,
        "upper": 0.15,
    }
    return kpi({**body, **more})


def test_a_passing_bar_lies_right_of_the_line_and_zero_is_marked() -> None:
    found = charts.bar(row())
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.zero is not None
    assert charts.MIDDLE < found.zero < found.low < found.estimate < found.high


def test_lower_is_better_is_turned_round() -> None:
    found = charts.bar(row("max_rate", 0.05, estimate=0.01, lower=0.0, upper=0.03))
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert charts.MIDDLE < found.low < found.estimate < found.high
    assert found.zero is None


def test_a_failing_bar_lies_left_of_the_line() -> None:
    found = charts.bar(row(verdict="FAIL", estimate=-0.3, lower=-0.4, upper=-0.2))
    assert found is not None
    assert found.high is not None
    assert found.high < charts.MIDDLE


@pytest.mark.parametrize(("verdict", "better"), [("PASS", -1), ("FAIL", 1)])
def test_a_ceiling_is_told_from_a_floor_by_its_verdict(verdict: str, better: int) -> None:
    assert row("floor", 2.0, verdict, estimate=1.5, lower=1.4, upper=1.6).better == better


def test_no_numbers_no_bar() -> None:
    assert charts.bar(row(estimate=None)) is None
    assert charts.bar(row("advisory", None)) is None
    assert "no estimate" in charts.forest([row(estimate=None)])


def test_an_open_end_becomes_an_arrow() -> None:
    drawing = charts.forest([row(upper=None)])
    assert drawing.count("fp-arrow") == 1
    assert charts.forest([row()]).count("fp-arrow") == 0


@given(FINITE, FINITE, FINITE, FINITE)
def test_everything_stays_inside_and_parses(line: float, a: float, b: float, c: float) -> None:
    low, middle, high = sorted((a, b, c))
    item = row("noninferior", line, estimate=middle, lower=low, upper=high)
    found = charts.bar(item)
    assert found is not None
    for x in (found.estimate, found.low, found.high):
        assert x is not None
        assert charts.LEFT <= x <= charts.RIGHT
    ET.fromstring(charts.forest([item]))


@given(st.text(max_size=40))
def test_any_name_is_only_text(name: str) -> None:
    drawing = charts.forest([replace(row(), id=name), row()], title=name)
    root = ET.fromstring(drawing)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "rect", "text", "line", "path"}


def test_same_numbers_same_bytes() -> None:
    assert charts.forest([row(), row("max_rate", 0.05)]) == charts.forest([row(), row("max_rate", 0.05)])
