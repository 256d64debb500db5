"""The leak benchmark in small: thousands of chunkings of every kind, nothing leaked, different or missed."""

from __future__ import annotations

import pytest

from benchmarks.leak import batch
from benchmarks.leak_peer import leaked
from benchmarks.leak_texts import Text

FEW = {"small": 2500, "default": 250, "views": 250, "surfaces": 40}
MANY = {"small": 10_000, "default": 1200, "views": 1200, "surfaces": 160}


def assert_clean(kind: str, seed: int, count: int) -> None:
    tally = batch(kind, seed, count)
    assert tally.chunkings >= count
    assert tally.chunks > tally.chunkings
    assert tally.planted > 0 or kind in ("small", "surfaces")
    assert (tally.leaked, tally.different, tally.missed) == (0, 0, 0)


@pytest.mark.parametrize("kind", FEW)
def test_nothing_leaks_from_any_chunking(kind: str) -> None:
    assert_clean(kind, 1, FEW[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", MANY)
def test_nothing_leaks_from_many_more(kind: str) -> None:
    assert_clean(kind, 2, MANY[kind])


def test_a_leak_would_be_counted() -> None:
    made = Text("the key is ghp_Ab3dE6gH9kL2, all of it", ((11, 27),))
    assert leaked(made, "the key is [REDACTED:key], all of it") == (0, 0)
    assert leaked(made, "the key is ghp_Ab3dE[REDACTED:key], all of it") == (1, 9)
    assert leaked(made, made.text) == (1, 16)
