"""The pattern language: what is in it, what is refused and with which words."""

from __future__ import annotations

import pytest

from policies.enforcement.pattern import Chars, PatternError, lengths, literal, parse


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a*", "unbounded repeat"),
        ("a+", "unbounded repeat"),
        ("a{3,}", "unbounded repeat"),
        ("a{0,5000}", "unbounded repeat"),
        ("(?=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"(a)\1", "back-references"),
        ("^a", "anchors"),
        (r"a\bb", "outer ends"),
        ("(?i)a", "view: folded"),
        ("(?i:a)", "view: folded"),
        ("a?", "may match nothing"),
        ("a|b?", "may match nothing"),
        ("(?:a{1,2000}){1,2000}", "4096 is the most"),
        ("(", "not a regular expression"),
        (r"[^\s\S]a", "excludes every character"),
        ("a{0}b", "matches nothing"),
        ("(?>a)", "not in the language"),
    ],
)
def test_outside_of_the_language(pattern: str, words: str) -> None:
    with pytest.raises(PatternError, match=words):
        parse(pattern)


@pytest.mark.parametrize(
    ("pattern", "edges"),
    [
        ("ab", [(False, False)]),
        (r"\bab\b", [(True, True)]),
        (r"\b(?:ab|c)\b", [(True, True), (True, True)]),
        (r"\bab|cd\b", [(True, False), (False, True)]),
        (r"\bab\b|\bac", [(True, True), (True, False)]),
    ],
)
def test_word_edges_belong_to_alternatives(pattern: str, edges: list[tuple[bool, bool]]) -> None:
    assert [(branch.left, branch.right) for branch in parse(pattern)] == edges


@pytest.mark.parametrize(
    ("pattern", "expected"), [("a{2,5}b", (3, 6)), ("(?:ab|c)?d", (1, 3)), (r"\d{1,3}(?:\.\d{2}){0,2}", (1, 9))]
)
def test_lengths(pattern: str, expected: tuple[int, int]) -> None:
    assert lengths(parse(pattern)[0].body) == expected


def test_classes_are_ascii_and_complements_leave_surrogates_out() -> None:
    assert parse(r"\d")[0].body == Chars(((48, 57),))
    body = parse("[^a]")[0].body
    assert isinstance(body, Chars)
    assert not any(low <= 0xD800 <= high for low, high in body.ranges)


def test_folded_classes_and_literals() -> None:
    assert parse("[A-Z]", view="folded")[0].body == Chars(((97, 122),))
    assert parse("\u00df", view="folded")[0].longest == 2
    with pytest.raises(PatternError, match="invisible"):
        parse("a\u200b", view="folded")


def test_terms_have_edges_where_words_stand_apart() -> None:
    assert (
        literal("ab", view="folded", whole_words=True).left,
        literal("-ab", view="folded", whole_words=True).left,
    ) == (
        True,
        False,
    )
    assert not literal("\u6b66\u5668", view="folded", whole_words=True).left
    with pytest.raises(PatternError, match="empty on its view"):
        literal("\u200b", view="folded", whole_words=True)
