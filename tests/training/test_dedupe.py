from __future__ import annotations

from training.data.dedupe import exact, near
from training.data.words import hash_all

BODY = [f"word{i} follows word{i * 7 % 31} and number {i}" for i in range(60)]


def flags(texts: list[str], threshold: float) -> list[bool]:
    return near(hash_all(texts), threshold)


def test_exact_ignores_trailing_blanks_only():
    assert exact(["a\nb\n", "a  \nb", " a\nb", "a\nb\n\n"]) == [False, True, False, True]


def test_near_copy_is_dropped_and_the_first_stays():
    original = "\n".join(BODY)
    copy = original.replace("word3 ", "changed ")
    assert flags([original, copy, "\n".join(reversed(BODY[:30]))], 0.8) == [False, True, False]
    assert flags([original, copy], 1.0) == [False, False]


def test_short_and_empty_texts():
    assert flags(["one two", "one two", "", "", "three"], 0.8)[:2] == [False, True]


def test_similarity_below_the_threshold_stays():
    half = "\n".join([*BODY[:30], *(line.replace("word", "other") for line in BODY[30:])])
    assert flags(["\n".join(BODY), half], 0.8) == [False, False]
    assert flags(["\n".join(BODY), half], 0.31) == [False, True]
