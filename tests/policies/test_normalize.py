"""The folded view: piecewise, stable, and blind to disguises."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.enforcement.normalize import clean, fold, has_word_edges, is_word, origins

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(texts, texts)
def test_the_fold_of_a_text_is_the_fold_of_its_pieces(one: str, other: str) -> None:
    assert fold(one + other) == fold(one) + fold(other)


@given(texts)
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@given(texts)
def test_compatibility_forms_fold_alike(text: str) -> None:
    assert fold(unicodedata.normalize("NFKC", text)) == fold(text) == fold(unicodedata.normalize("NFD", text))


@given(texts)
def test_every_folded_character_knows_where_it_came_from(text: str) -> None:
    places = origins(text)
    view = fold(text)
    if places is None:
        assert len(view) == len(text)
    else:
        assert [fold(text[place]) for place in dict.fromkeys(places)] == [fold(char) for char in text if fold(char)]
        assert len(places) == len(view)


@pytest.mark.parametrize(
    "text",
    [
        "BOMB",
        "b\u200bo\u00admb",
        "\uff42\uff4f\uff4d\uff42",
        "b\u00f3mb",
        "bo\u0301mb",
        "\U0001d41bomb",
        "bom\ufe0fb",
        "bom\U000e0062b",
    ],
)
def test_disguises(text: str) -> None:
    assert fold(text) == "bomb"


def test_surrogates_are_replaced_in_place() -> None:
    assert clean("a\udc00b\ud83d\udc00") == "a\ufffdb\ufffd\ufffd"
    assert clean("\U0001f600") == "\U0001f600"


def test_words() -> None:
    assert [is_word(char) for char in ["a", "\u00e9", "\u6b66", "_", "1", "-", " ", ""]] == [True] * 5 + [False] * 3
    assert [has_word_edges(char) for char in ["a", "\u00e9", "\u6b66", "\u0e01", "-"]] == [
        True,
        True,
        False,
        False,
        False,
    ]
