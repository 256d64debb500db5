"""The control tables never claim more than the evidence: laws of judging, and the shipped catalogues."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import SpecError
from reports import compliance, evidence, html, markdown, probes
from reports.compliance import Control, judge
from reports.probes import Finding

RANK = {"missing": 0, "partial": 1, "evidenced": 2}
NAMES = get_args(probes.Name)
STATES = st.sampled_from(["yes", "part", "no", "na"])


def control(needs: list[Any], gaps: tuple[str, ...] = ()) -> Control:
    return Control(id="X.1", title="t", asks="a?", needs=tuple(needs), gaps=gaps)


def judged(states: list[str], gaps: tuple[str, ...] = ()) -> dict[str, Any]:
    names = NAMES[: len(states)]
    ref = {"kind": "event", "ref": "00", "what": "", "seq": 1}
    findings = {
        n: Finding(s, f"{n} {s}", [ref] if s in {"yes", "part"} else []) for n, s in zip(names, states, strict=True)
    }  # type: ignore[arg-type]
    return judge(control(list(names), gaps), findings)


@pytest.mark.parametrize(
    ("states", "gaps", "status"),
    [
        (["yes", "yes"], (), "evidenced"),
        (["yes", "na"], (), "evidenced"),
        (["yes", "no"], (), "partial"),
        (["part"], (), "partial"),
        (["yes"], ("no purpose",), "partial"),
        (["no", "no"], (), "missing"),
        (["no", "na"], (), "missing"),
        (["na"], (), "not_applicable"),
        ([], ("no register",), "missing"),
        ([], (), "missing"),
    ],
)
def test_status(states: list[str], gaps: tuple[str, ...], status: str) -> None:
    assert judged(states, gaps)["status"] == status


@given(st.lists(STATES, max_size=5), st.booleans())
def test_more_missing_never_raises_a_status(states: list[str], gap: bool) -> None:
    gaps = ("a gap",) if gap else ()
    before, after = judged(states, gaps), judged([*states, "no"], gaps)
    if before["status"] in RANK:
        assert RANK[after["status"]] <= RANK[before["status"]]
    assert RANK[judged(states, (*gaps, "another"))["status"]] <= 1 if before["status"] in RANK else True


@given(st.lists(STATES, min_size=1, max_size=5))
def test_what_lacks_is_always_said(states: list[str]) -> None:
    row = judged(states)
    if row["status"] != "evidenced":
        assert row["lacks"]
    if row["status"] in {"evidenced", "partial"}:
        assert row["evidence"]


def test_shipped_catalogues_are_dated_and_say_where_they_come_from() -> None:
    found = compliance.catalogues()
    assert {c.framework for c in found} == {"eu-ai-act", "nist-ai-rmf", "iso-42001"}
    for catalogue in found:
        assert catalogue.source
        assert catalogue.as_of.year >= 2026
        ids = [c.id for c in catalogue.controls]
        assert len(ids) == len(set(ids))
        assert all(c.needs or c.gaps for c in catalogue.controls)
    assert not next(c for c in found if c.framework == "iso-42001").verified


def test_every_probe_is_used_by_a_control() -> None:
    used = {name for catalogue in compliance.catalogues() for control in catalogue.controls for name in control.needs}
    assert used == set(NAMES) == set(probes.PROBES)


def test_a_wrong_catalogue_is_refused_with_its_line(tmp_path: Path) -> None:
    head = "framework: x\ntitle: x\nsource: x\nas_of: 2026-01-01\nverified: true\n"
    text = head + "controls:\n- id: a\n  title: a\n  asks: a\n  needs: [approvd]\n"
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"x.yaml:10"):
        compliance.catalogues(tmp_path)


def test_the_lost_request_and_the_missing_purpose_are_told(doc: dict[str, Any]) -> None:
    eu = next(t for t in doc["compliance"] if t["framework"] == "eu-ai-act")
    rows = {row["id"]: row for row in eu["controls"]}
    assert rows["Art. 12"]["status"] == "partial"
    assert "1 request of 12 without a decision in the log" in rows["Art. 12"]["lacks"]
    assert rows["Annex IV.1"]["lacks"] == ["no statement of the intended purpose is recorded"]
    assert rows["Art. 14"]["status"] == "evidenced"
    assert rows["Annex IV.5"]["status"] == "missing"
    assert sum(eu["counts"].values()) == len(eu["controls"])


def test_an_unreleased_version_has_questions_that_do_not_apply(world: Any) -> None:
    doc = evidence.build(world.ws, "code-model:1")
    nist = next(t for t in doc["compliance"] if t["framework"] == "nist-ai-rmf")
    rows = {row["id"]: row["status"] for row in nist["controls"]}
    assert rows["MEASURE 2.4"] == "not_applicable"
    assert rows["MANAGE 2.4"] == "not_applicable"
    assert rows["MANAGE 1.1"] == "partial"


def test_nothing_is_ever_called_compliant(doc: dict[str, Any]) -> None:
    for text in (html.render(doc), markdown.render(doc)):
        assert "compliant" not in text.lower()
        assert "certified by" not in text.lower()
