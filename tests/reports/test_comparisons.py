"""The picture of a paired comparison: well-formed, self-contained, everything inside, any text is safe."""

import copy
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import NotFound
from reports import comparisons

NUMBERS = st.none() | st.floats(-1e9, 1e9, allow_nan=False)
ITEM = {"sample_id": "ab" * 16, "first": 0.0, "second": 1.0, "difference": -1.0, "asked": "why?", "wanted": "so",
        "first_answer": "no", "second_answer": "yes"}  # fmt: skip
FIGURES = {"estimate": -0.1, "lower": -0.15, "upper": -0.06, "threshold": -0.05, "candidate": 0.6, "baseline": 0.7,
           "n": 1000, "scale": "absolute", "unit": "", "slice": ""}  # fmt: skip
ROW = {"kpi": "accuracy", "figures": FIGURES, "regressions": 20, "improvements": 3, "problems": [], "slices": [],
       "worst": [ITEM], "best": []}  # fmt: skip
TABLE = {"suite": "s", "first": "sha256:a", "second": "sha256:b", "level": 0.05, "rows": [ROW]}


def table(**figures):
    found = copy.deepcopy(TABLE)
    found["rows"][0]["figures"] |= figures
    return found


def marks(drawing, tag):
    return [each for each in ET.fromstring(drawing).iter() if each.tag.endswith(f"}}{tag}")]


def words(drawing):
    return [each.text for each in marks(drawing, "text")]


def test_a_loss_beyond_the_margin_lies_left_of_the_dashed_line_and_is_marked():
    drawing = comparisons.draw(table())
    margin = next(each for each in marks(drawing, "line") if each.get("class") == "margin")
    bar = next(each for each in marks(drawing, "line") if each.get("class") == "bar")
    assert float(bar.get("x1")) < float(bar.get("x2")) < float(margin.get("x1")) < comparisons.MIDDLE
    assert [each.get("class") for each in marks(drawing, "g")] == ["worse"]
    assert "-0.1  [-0.15, -0.06]" in words(drawing)


@pytest.mark.parametrize(
    ("figures", "tone"),
    [
        ({"lower": -0.04, "upper": 0.1, "estimate": 0.0}, "better"),
        ({"lower": -0.06, "upper": 0.1, "estimate": 0.0}, "open"),
        ({"lower": None, "upper": None}, "open"),
        ({"threshold": None, "lower": 0.01, "upper": 0.1, "estimate": 0.05}, "better"),
    ],
)
def test_the_tone_says_what_is_shown(figures, tone):
    assert [each.get("class") for each in marks(comparisons.draw(table(**figures)), "g")] == [tone]


def test_what_was_asked_and_answered_is_shown():
    said = words(comparisons.draw(TABLE))
    assert "accuracy: 1 of 20 samples that got worse" in said
    assert {"why?", "so", "no", "yes"} <= set(said)
    assert "why?" not in words(comparisons.draw(TABLE, items=0))


def test_a_row_without_figures_says_why():
    found = copy.deepcopy(TABLE)
    found["rows"][0] |= {"figures": None, "problems": ["the candidate has 1 error sample(s)"]}
    assert "the candidate has 1 error sample(s)" in words(comparisons.draw(found))


def test_slices_share_the_scale_of_their_kpi():
    found = copy.deepcopy(TABLE)
    found["rows"][0]["slices"] = [{**FIGURES, "slice": "language=de", "estimate": -0.3, "lower": -0.4, "upper": -0.2}]
    drawing = comparisons.draw(found)
    dots = [float(each.get("cx")) for each in marks(drawing, "circle")]
    assert comparisons.MIDDLE - dots[1] == pytest.approx(3 * (comparisons.MIDDLE - dots[0]), rel=1e-3)
    assert "language=de (n 1,000)" in words(drawing)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_everything_stays_inside(estimate, lower, upper, threshold):
    drawing = comparisons.draw(table(estimate=estimate, lower=lower, upper=upper, threshold=threshold))
    for each in ET.fromstring(drawing).iter():
        for name in ("x1", "x2", "cx", "x"):
            if each.get(name):
                assert -1 <= float(each.get(name)) <= comparisons.WIDTH + 1


@given(st.text(max_size=60))
def test_any_text_is_safe(text):
    found = copy.deepcopy(TABLE)
    found |= {"suite": text, "first": text}
    found["rows"][0] |= {"kpi": text, "worst": [{**ITEM, "asked": text, "first_answer": f"</text><script>{text}"}]}
    drawing = comparisons.draw(found)
    assert ET.fromstring(drawing).tag.endswith("svg")
    assert "<script" not in drawing + comparisons.page(found)


def test_it_loads_nothing_and_is_the_same_bytes():
    page = comparisons.page(TABLE)
    assert page == comparisons.page(copy.deepcopy(TABLE))
    assert not re.search(r"(src|href)=|url\(|@import", page)
    assert "default-src 'none'" in page


def test_a_png_needs_a_browser(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound, match="no Chromium") as caught:
        comparisons.png(TABLE)
    assert ".svg" in caught.value.hint


@pytest.mark.slow
def test_a_browser_draws_it():
    try:
        drawn = comparisons.png(TABLE)
    except NotFound:
        pytest.skip("no Chromium on this machine")
    assert drawn[:8] == b"\x89PNG\r\n\x1a\n"
