"""A text in numbers: what they say, what they do not, and that a key is needed to compare them with a guess."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.traits import DIMENSIONS, MOST_CHARS, describe, distance, embed

ENGLISH = "The answer is in the file that you have read, and it is not long."


@pytest.mark.parametrize(
    ("text", "script", "language"),
    [
        (ENGLISH, "latin", "en"),
        ("Das ist nicht so einfach, wie man denkt, und der Weg ist weit.", "latin", "de"),
        ("Le chat est dans la maison et les enfants sont avec lui.", "latin", "fr"),
        ("Это не так просто, как кажется сначала.", "cyrillic", ""),
        ("这不是一个简单的问题需要仔细考虑很多事情。", "han", ""),
        ("これはかんたんなもんだいではありませんよ。", "kana", ""),
        ("def compute(argument): return argument + 1", "latin", ""),
        ("1234567890 + 1234567890 = 2469135780", "", ""),
    ],
)
def test_script_and_language(text, script, language):
    found = describe(text)
    assert (found["script"], found["language"]) == (script, language)


def test_entropy_by_hand():
    assert describe("ab" * 20)["entropy"] == 1.0
    assert describe("a" * 40)["entropy"] == 0.0
    assert describe("".join(chr(0x4E00 + n) for n in range(64)))["entropy"] == 6.0


def test_of_a_short_text_nothing_is_said():
    assert describe("yes") == {}
    assert describe("a" * 16) != {}


def test_only_the_beginning_counts():
    begin = ENGLISH * 200
    assert describe(begin[:MOST_CHARS] + "x" * 999) == describe(begin[:MOST_CHARS])


@given(st.text(max_size=200), st.binary(min_size=1, max_size=16))
def test_any_text_has_bounded_numbers(text, key):
    found = embed(text, key)
    assert len(found) == DIMENSIONS
    assert all(-1 <= number <= 1 for number in found)
    described = describe(text, key)
    assert not described or 0 <= described["entropy"] <= math.log2(MOST_CHARS)
    assert describe(text, key) == described


def test_like_texts_lie_near_and_the_key_moves_them():
    near = embed(ENGLISH.replace("long", "short"))
    far = embed("SELECT count(*) FROM orders WHERE total > 100 GROUP BY day;")
    assert distance(embed(ENGLISH), near) < distance(embed(ENGLISH), far)
    assert distance(embed(ENGLISH), embed(ENGLISH)) == 0
    assert embed(ENGLISH, b"one") != embed(ENGLISH, b"other")
