"""Markdown, step summary, SARIF and JSON: structure, escaping, and that none of them hides a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import reports
from registry.errors import UnknownName
from registry.records import canonical
from reports import json_, markdown, phrases, sarif, summary
from reports.views import Views


def read(text: str) -> str:
    """Return Markdown as HTML, raw HTML let through as hosts do at worst."""
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def test_markdown_tells_verdict_refusal_and_controls(doc: dict[str, Any]) -> None:
    page = read(markdown.render(doc))
    assert "<h1>code-model:2: PASS</h1>" in page
    assert "0.02 is allowed" in page
    assert page.count("<h2>") == 12
    assert "<td>partial</td>" in page
    assert "hallmark log verify" in page


def test_markdown_tables_keep_their_columns_with_hostile_text(dirty_doc: dict[str, Any]) -> None:
    page = read(markdown.render(dirty_doc))
    assert "<script" not in page
    assert "href" not in page
    for table in page.split("<table>")[1:]:
        rows = table.split("</table>")[0].split("<tr>")[1:]
        widths = {row.count("<td") + row.count("<th>") + row.count("<th ") for row in rows}
        assert len(widths) == 1


@given(st.text(max_size=80))
def test_escaped_text_is_only_text(text: str) -> None:
    page = read("start " + markdown.escape(text) + " end")
    assert page.startswith("<p>start")
    assert page.count("<") == 2


def test_summary_of_the_refused_decision(world: Any) -> None:
    text = summary.render(Views(world.ws).decision(world.refused.id))
    page = read(text)
    assert "Hallmark gate: FAIL" in page
    assert "<strong>next_line</strong> FAIL" in page
    assert page.count("<tr>") == 5
    assert world.refused.id in text


def test_summary_with_hostile_text(hostile: Any) -> None:
    page = read(summary.render(Views(hostile.ws).decision(hostile.refused.id)))
    assert "<script" not in page
    assert "href" not in page
    assert page.count("<tr>") == 5


def test_sarif_has_what_the_standard_requires(world: Any) -> None:
    log = json.loads(sarif.render(Views(world.ws).decision(world.refused.id)))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(rules) == len(set(rules))
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [
        ("verdict", "error"), ("next_line", "error"), ("domain_bpb", "error"), ("general_bpb", "warning"),
    ]  # fmt: skip
    for result in run["results"]:
        assert result["ruleId"] in rules
        assert result["message"]["text"]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "suite.yaml"
    assert json.loads(sarif.render(Views(world.ws).decision(world.passed.id)))["runs"][0]["results"] == []


def test_json_is_the_canonical_bundle(doc: dict[str, Any]) -> None:
    text = json_.render(doc)
    assert json.loads(text) == doc
    assert text.encode() == canonical(doc)


@pytest.mark.parametrize("format", ["html", "json", "md"])
def test_render_writes_every_format(world: Any, tmp_path: Path, format: str) -> None:
    path = reports.render(world.ws, "dossier", "code-model:2", format=format, out=tmp_path)
    assert path == tmp_path / f"dossier-code-model-2.{format}"
    assert "code-model:2" in path.read_text(encoding="utf-8")


def test_render_writes_the_file_named_and_replaces_it(world: Any, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "x.md"
    for ref in ("code-model:1", "code-model:2"):
        assert reports.render(world.ws, "dossier", ref, format="md", out=out) == out
        assert out.read_text(encoding="utf-8").startswith(f"# {ref}: ")
    assert [path.name for path in out.parent.iterdir()] == ["x.md"]
    asked = world.ws.store.query("SELECT seq FROM asset WHERE id = ?", [world.passed.id])[0]["seq"]
    reports.render(world.ws, "dossier", "code-model:2", format="md", out=out, upto=asked - 1)
    assert out.read_text(encoding="utf-8").startswith("# code-model:2: NOT JUDGED")


def test_render_ci_returns_and_writes(world: Any, tmp_path: Path) -> None:
    for name in reports.CI_FORMATS:
        text = reports.render_ci(world.ws, world.refused.id, format=name, out=tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8") == text


def test_unknown_names_are_told(world: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown format `htm`"):
        reports.render(world.ws, "dossier", "code-model", format="htm", out=tmp_path)
    with pytest.raises(UnknownName, match="unknown document"):
        reports.render(world.ws, "dosier", "code-model", out=tmp_path)
    with pytest.raises(UnknownName):
        reports.render_ci(world.ws, "nothing", format="junit")


@pytest.mark.parametrize("table", [reports.DOCUMENTS, reports.FORMATS, reports.CI_FORMATS])
def test_every_entry_of_the_tables_loads(table: Any) -> None:
    assert all(callable(table.load(name)) for name in table)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (1234567, "1,234,567"), (None, "n/a"), (-0.0, "0"), (-0.5, "\u22120.5"),
     (1e-7, "1e\u221207"),
     (True, "n/a"), (float("nan"), "n/a"), (25344.0, "25,344"), (3, "3")],
)  # fmt: skip
def test_numbers(value: Any, text: str) -> None:
    assert phrases.number(value) == text


def test_percent_size_short_and_counts() -> None:
    assert phrases.percent(0.0247) == "2.47 %"
    assert phrases.percent(1.0) == "100 %"
    assert phrases.size(1536) == "1.5 KiB"
    assert phrases.short("sha256:" + "ab" * 32) == "ababababab"
    assert phrases.short("operator") == "operator"
    assert (phrases.counted(1, "file"), phrases.counted(2, "file")) == ("1 file", "2 files")
