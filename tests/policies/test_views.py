"""Views and codings: what a rule reads besides the text as it is, where a match then lies, what is held for it."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.enforcement.closure import Automaton
from policies.enforcement.codings import Base64Strand, HexStrand, UrlStrand
from policies.enforcement.normalize import VIEWS
from policies.enforcement.pattern import parse
from tests.policies.enforcing import CODINGS, enforcer_of, streamed

KEY = {"kind": "regex", "pattern": r"\bghp_[A-Za-z0-9]{8,36}", "type": "key"}
SECRET = "ghp_Ab3dE6gH9kL2"
EVERY = {**KEY, "decoded": ["base64", "hex", "url"]}


@pytest.mark.parametrize(
    ("written", "views"),
    [
        (SECRET, {"exact", "plain", "folded", "lookalike"}),
        (SECRET[:6] + "\u200b" + SECRET[6:], {"plain", "folded", "lookalike"}),
        ("".join(chr(ord(char) + 0xFEE0) for char in SECRET), {"plain", "folded", "lookalike"}),
        (SECRET.upper(), {"folded", "lookalike"}),
        (SECRET.replace("p", "p\u0301"), {"folded", "lookalike"}),
        (SECRET.replace("p", "\u0440").replace("A", "\u0391").replace("E", "\u0415"), {"lookalike"}),
        (
            "".join(chr(0x1D400 + ord(c) - 65) if "A" <= c <= "Z" else c for c in SECRET),
            {"plain", "folded", "lookalike"},
        ),
        (SECRET.replace("h", "\u04bb").replace("9", "\u0669"), {"lookalike"}),
    ],
)
def test_what_each_view_sees_through(written: str, views: set[str]) -> None:
    text = f"it is {written}, yes"
    for view in VIEWS:
        enforcer = enforcer_of({**KEY, "view": view})
        expected = "it is [REDACTED:key], yes" if view in views else text
        assert enforcer.check_output(text).text == expected
        assert streamed(enforcer, list(text))[0] == expected


@given(st.characters(codec="utf-8"))
def test_views_keep_ascii_and_do_not_change_what_they_made(char: str) -> None:
    for name, view in VIEWS.items():
        seen = view[ord(char)]
        assert "".join(view[ord(each)] for each in seen) == seen
        if char.isascii() and name in ("exact", "plain"):
            assert seen == char
        if char.isascii() and name in ("folded", "lookalike"):
            assert seen == char.lower()


@pytest.mark.parametrize("junk", ["", "x", "xy", "xyz", "key="])
@pytest.mark.parametrize("write", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("padded", [True, False])
def test_base64_at_every_alignment_with_and_without_padding(junk: str, write, padded: bool) -> None:
    data = f"{junk} {SECRET} and more".encode()
    coded = write(data).decode()
    coded = coded if padded else coded.rstrip("=")
    text = f'{{"data": "{coded}"}}'
    start = data.index(b"ghp_")
    first, last = 10 + start * 8 // 6, 10 + -(-(start + len(SECRET)) * 8 // 6)
    enforcer = enforcer_of(EVERY)
    piece = enforcer.check_output(text)
    assert piece.text == text[:first] + "[REDACTED:key]" + text[last:]
    assert [(hit.start, hit.end) for hit in piece.hits] == [(first, last)]
    assert streamed(enforcer, list(text)) == (piece.text, piece.hits, None)


@pytest.mark.parametrize("lead", ["", "0", "ab"])
def test_hex_at_both_alignments(lead: str) -> None:
    text = f"x{lead}{SECRET.encode().hex()} z"
    enforcer = enforcer_of(EVERY)
    expected = f"x{lead}[REDACTED:key] z" if lead != "ab" else None
    piece = enforcer.check_output(text)
    if expected is not None:
        assert piece.text == expected
    assert streamed(enforcer, list(text)) == (piece.text, piece.hits, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=ghp%5FAb3dE6gH9kL2&b=1", "a=[REDACTED:key]&b=1"),
        ("%67%68%70%5f%41%62%33%64%45%36%67%48 z", "[REDACTED:key] z"),
        ("%2Dghp_Ab3dE6gH9kL2", "%2D[REDACTED:key]"),
        ("100%ghp_Ab3dE6gH9kL2", "100%[REDACTED:key]"),
        ("%4ghp%5FAb3dE6gH9kL2", "%4ghp%5FAb3dE6gH9kL2"),
        ("%%67hp_Ab3dE6gH9kL2%", "%[REDACTED:key]%"),
    ],
)
def test_percent_escapes(text: str, expected: str) -> None:
    enforcer = enforcer_of(EVERY)
    assert enforcer.check_output(text).text == expected
    assert streamed(enforcer, list(text))[0] == expected
    for cut in range(len(text)):
        assert streamed(enforcer, [text[:cut], text[cut:]])[0] == expected


def test_bytes_that_are_not_text_belong_to_no_match() -> None:
    enforcer = enforcer_of({**KEY, "pattern": "a[^b]{1,3}c", "decoded": ["base64", "hex", "url"]})
    for middle, found in ((b"\xff", False), (b"\x00", False), (b"-", True), (b"\t", True)):
        for coded in (base64.b64encode(b"a" + middle + b"c").decode(), (b"a" + middle + b"c").hex()):
            assert ("REDACTED" in enforcer.check_output(f"({coded})").text) is found


@settings(max_examples=150, deadline=None)
@given(st.text("aQ0_-/+=% 4f\u00e9", max_size=20), st.data())
def test_strands_decode_as_the_definition_has_it(text: str, data: st.DataObject) -> None:
    automaton = Automaton(parse("a"))
    for coding, cls, pattern in (("base64", Base64Strand, "[A-Za-z0-9+/_-]+"), ("hex", HexStrand, "[0-9A-Fa-f]+")):
        expected = iter(CODINGS[coding](text))
        for run in re.finditer(pattern, text):
            for skipped in range(4 if coding == "base64" else 2):
                strand = cls(automaton, run.start() + skipped)
                rest = run[0][skipped:]
                cut = data.draw(st.integers(0, len(rest)))
                strand.feed(rest[:cut])
                strand.feed(rest[cut:])
                places = [(strand.source(place), strand.source_end(place + 1)) for place in range(strand.size)]
                reading = next(expected)
                assert [char if char != "\ud800" else "" for char in strand.text] == [each[0] for each in reading]
                assert places == [each[1:] for each in reading]
    url = UrlStrand(automaton, 0, "")
    cut = data.draw(st.integers(0, len(text)))
    for part in (text[:cut], text[cut:]):
        url.feed(part)
    url.finish()
    (reading,) = CODINGS["url"](text)
    assert [char if char != "\ud800" else "" for char in url.text] == [each[0] for each in reading]
    assert [(url.source(place), url.source_end(place + 1)) for place in range(url.size)] == [r[1:] for r in reading]


def test_words_are_not_held_for_what_they_might_decode_to() -> None:
    stream = enforcer_of(EVERY).stream()
    held = []
    for piece in (
        "The",
        " quick",
        " brown",
        " fox",
        " jumps",
        " over",
        " the",
        " lazy",
        " dog",
        ".",
        " Understand",
        "ably",
    ):
        stream.push(piece)
        held.append(stream.held)
    assert max(held) <= 4
    assert held[9] == 0


def test_a_long_run_is_released_while_it_goes_on() -> None:
    stream = enforcer_of(EVERY).stream()
    released = 0
    for _ in range(200):
        released += len(stream.push("QUJD" * 5).text)
        assert stream.held <= 40
    assert released >= 200 * 20 - 40
