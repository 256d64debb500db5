"""Inclusion of patterns: laws against Python's `re` on every short text, word edges, and a walk that is too long."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.authoring import inclusion
from policies.authoring.inclusion import covers
from policies.enforcement.pattern import parse

ATOMS = st.sampled_from(["a", "b", "[ab]", "(?:ab|b)", "a?", "b{1,2}", "(?:a|bb){1,2}"])
PATTERNS = st.lists(ATOMS, min_size=1, max_size=3).map("".join).filter(lambda p: not re.fullmatch(p, ""))
TEXTS = ["".join(text) for size in range(1, 9) for text in itertools.product("ab", repeat=size)]


@settings(max_examples=150, deadline=None)
@given(PATTERNS, PATTERNS)
def test_it_agrees_with_every_text_there_is(strong: str, weak: str) -> None:
    matched = [text for text in TEXTS if re.fullmatch(weak, text)]
    assert covers(parse(strong), parse(weak)) is all(re.fullmatch(strong, text) for text in matched)
    assert covers(parse(strong), parse(weak), inside=True) is all(re.search(strong, text) for text in matched)


@pytest.mark.parametrize(
    ("strong", "weak", "inside", "expected"),
    [
        (r"\babc\b", r"\babc\b", False, True),
        (r"abc", r"\babc\b", False, True),
        (r"\babc", r"abc", False, False),
        (r"abc\b", r"abc", True, False),
        (r"abc\b", r"xabc-", True, True),
        (r"abc\b", r"xabcd", True, False),
        (r"\babc", r"abcd", True, False),
        (r"\babc", r"\babcd", True, True),
        (r"a|b|c", r"[a-c]", False, True),
        (r"a|c", r"[a-c]", False, False),
        (r"\bgh[pousr]_[A-Za-z0-9]{36,255}", r"\bghp_[A-Za-z0-9]{36,255}", False, True),
        (r"\bghp_[A-Za-z0-9]{36,255}", r"\bgh[pousr]_[A-Za-z0-9]{36,255}", False, False),
    ],
)
def test_edges_classes_and_alternatives(strong: str, weak: str, inside: bool, expected: bool) -> None:
    assert covers(parse(strong), parse(weak), inside=inside) is expected


def test_what_is_too_large_is_said_to_be_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inclusion, "MOST_STEPS", 10)
    assert covers(parse("[a-z]{1,200}"), parse("[a-y]{1,200}")) is None
