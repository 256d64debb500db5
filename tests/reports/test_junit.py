"""JUnit: the shape CI systems read, and the law that nothing but PASS is green."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import junit
from reports.decoding import kpi
from reports.facts import Decision, Kpi
from reports.views import Views

VERDICTS = st.sampled_from(["PASS", "FAIL", "INVALID", "INCONCLUSIVE", "ADVISORY", "NOT_JUDGED"])
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "properties": {"property"},
    "testcase": {"failure", "error", "skipped", "system-out"},
}
NEEDED = {
    "testsuites": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testcase": {"name", "classname", "time"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"message"},
    "property": {"name", "value"},
}


def check(text: str) -> ET.Element:
    """Check a document against the structure of the common JUnit schema; return its root."""
    root = ET.fromstring(text)
    assert root.tag == "testsuites"
    for element in root.iter():
        assert set(element.attrib) == NEEDED.get(element.tag, set()), element.tag
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    for suite in (root, *root.iter("testsuite")):
        cases = list(suite.iter("testcase"))
        assert int(suite.get("tests", "")) == len(cases)
        for tag, name in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(tag, "")) == sum(case.find(name) is not None for case in cases)
        for case in cases:
            assert sum(case.find(name) is not None for name in ("failure", "error", "skipped")) <= 1
    return root


def green(root: ET.Element) -> bool:
    return root.get("failures") == "0" and root.get("errors") == "0"


def decision(verdict: str, rows: list[Kpi]) -> Decision:
    return Decision(
        id="sha256:" + "0" * 64, created="", actor="eva", candidate="sha256:" + "1" * 64, version="",
        version_label="m:1", baseline=None, baseline_label="", suite="s", suite_label="s:1",
        verdict=verdict, bootstrap=False, mode="fixed",
        alpha=0.05, eval_runs=(), differs=(), reasons=(), kpis=tuple(rows), evidence=(),
    )  # fmt: skip


def row(verdict: str) -> Kpi:
    rule = "advisory" if verdict == "ADVISORY" else "noninferior"
    return kpi({"kpi": "k", "rule": rule, "threshold": -0.1, "verdict": verdict, "estimate": 0.0, "lower": -0.05})


def test_the_refused_decision(world: Any) -> None:
    root = check(junit.render(Views(world.ws).decision(world.refused.id)))
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert list(cases) == ["verdict", "next_line", "domain_bpb", "general_bpb", "policy_violations"]
    assert cases["next_line"].find("failure").get("type") == "FAIL"  # type: ignore[union-attr]
    assert "0.02 is allowed" in cases["next_line"].find("failure").get("message")  # type: ignore[union-attr, operator]
    assert cases["general_bpb"].find("failure").get("type") == "INCONCLUSIVE"  # type: ignore[union-attr]
    assert len(cases["policy_violations"].findall("failure")) == 0
    assert not green(root)


def test_the_passed_decision_is_green_with_the_advisory_skipped(world: Any) -> None:
    root = check(junit.render(Views(world.ws).decision(world.passed.id)))
    assert green(root)
    assert [case.get("name") for case in root.iter("testcase") if case.find("skipped") is not None] == ["length"]


def test_hostile_text_stays_xml(hostile: Any) -> None:
    check(junit.render(Views(hostile.ws).decision(hostile.refused.id)))


@pytest.mark.parametrize("verdict", ["FAIL", "INVALID", "INCONCLUSIVE", "", "pass"])
def test_a_verdict_without_kpis_is_never_green(verdict: str) -> None:
    assert not green(check(junit.render(decision(verdict, []))))


def test_invalid_is_an_error() -> None:
    root = check(junit.render(decision("INVALID", [row("INVALID")])))
    assert root.get("errors") == "2"


@given(VERDICTS, st.lists(VERDICTS, max_size=5))
def test_green_means_pass(verdict: str, rows: list[str]) -> None:
    root = check(junit.render(decision(verdict, [row(v) for v in rows])))
    expected = verdict == "PASS" and not any(v in {"FAIL", "INVALID", "INCONCLUSIVE"} for v in rows)
    assert green(root) == expected


@given(st.text(max_size=60))
def test_any_text_gives_xml(text: str) -> None:
    item = replace(row("FAIL"), id=text, reasons=(text,), bound=text)
    check(junit.render(replace(decision("FAIL", [item]), suite_label=text, reasons=(text,))))
