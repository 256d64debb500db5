"""The page is one safe file: everything escaped, nothing fetched, every link inside leads somewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from reports import evidence, html, outline

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page into tags, attributes and texts; complains about tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def text(doc: dict[str, Any]) -> str:
    return html.render(doc)


@pytest.fixture(scope="module")
def dirty(dirty_doc: dict[str, Any]) -> str:
    return html.render(dirty_doc)


def test_sections_in_order_under_one_heading(text: str) -> None:
    page = Page(text)
    assert page.open == []
    headings = [tag for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings.count("h1") == 1
    assert headings[0] == "h1"
    ids = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert ids == [name for name, _ in html.SECTIONS]
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in page.tags}
    assert ("html", {"lang": "en"}) in page.tags


def test_verdict_refusal_and_plot_are_there(text: str) -> None:
    said = " ".join(Page(text).texts)
    assert "code-model:2 passed the gate" in said
    assert "0.02 is allowed" in said
    assert "1 request without an outcome" in said
    assert text.count('<svg class="forest"') == 1
    assert 'aria-label="Forest plot of the newest decision. next_line: PASS' in text


@pytest.mark.parametrize("which", ["text", "dirty"])
def test_nothing_is_fetched_and_nothing_runs(which: str, request: pytest.FixtureRequest) -> None:
    page = Page(request.getfixturevalue(which))
    tags = {tag for tag, _ in page.tags}
    assert tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base", "form", "audio", "video"})
    assert page.attributes("src") == []
    assert all(link.startswith("#") for link in page.attributes("href"))
    for _, attrs in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attrs)
    assert "url(" not in request.getfixturevalue(which).split("</style>")[0]
    assert "@import" not in request.getfixturevalue(which).split("</style>")[0]


@pytest.mark.parametrize("which", ["text", "dirty"])
def test_links_lead_somewhere_and_ids_are_unique(which: str, request: pytest.FixtureRequest) -> None:
    page = Page(request.getfixturevalue(which))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.attributes("href")} <= set(ids)


def test_hostile_text_is_shown_as_text(dirty: str) -> None:
    assert "<script" not in dirty
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in dirty
    page = Page(dirty)
    assert page.open == []
    assert any("<script>alert('x')</script>" in data for data in page.texts)


def test_the_policy_allows_only_our_style_sheet(text: str) -> None:
    css = text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    (policy,) = [a["content"] for t, a in Page(text).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_both_themes_and_print(text: str) -> None:
    assert "@media (prefers-color-scheme: dark)" in text
    assert "@media print" in text


def test_same_bundle_same_bytes(text: str, doc: dict[str, Any]) -> None:
    assert html.render(doc) == text


def test_a_version_without_anything_still_renders(world: Any) -> None:
    decided = world.ws.store.query("SELECT min(seq) AS seq FROM asset WHERE kind = 'version'")[0]["seq"]
    page = html.render(evidence.build(world.ws, "anchor:1", upto=decided))
    assert "NOT JUDGED" in page
    assert "Nobody has approved" in page
    assert "No certificate" in page


def test_every_citation_is_in_the_index(text: str, doc: dict[str, Any]) -> None:
    for ref in outline.index(doc):
        assert f'id="{outline.anchor(ref["ref"])}"' in text
        assert ref["ref"] in text
