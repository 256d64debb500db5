from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.words import WordHashes, permutation, runs


def test_hashes_are_stable_and_normalised():
    table = WordHashes()
    assert table.of("Hello, WORLD").tolist() == table.of("hello\nworld!").tolist()
    assert table.of("hello").tolist() == [0xA7B6EDA801E5347D]


@given(st.text(max_size=60), st.integers(1, 6))
def test_equal_runs_have_equal_hashes(text, length):
    table = WordHashes()
    words = table.of(text)
    doubled = runs(np.concatenate([words, words]), length)
    mine = runs(words, length)
    assert len(mine) == max(0, len(words) - length + 1)
    assert doubled[: len(mine)].tolist() == mine.tolist()


def test_runs_see_order():
    table = WordHashes()
    assert runs(table.of("a b c"), 3).tolist() != runs(table.of("c b a"), 3).tolist()


@given(st.integers(0, 500), st.integers(0, 2**31))
def test_permutation_is_one(count, seed):
    assert sorted(permutation(count, seed, 1).tolist()) == list(range(count))


def test_permutation_is_pinned():
    assert permutation(8, 7, 2, 0, 0).tolist() == [5, 2, 0, 7, 4, 3, 1, 6]
    assert permutation(50, 1).tolist() != permutation(50, 2).tolist()
    assert permutation(50, 1, 2).tolist() != permutation(50, 2, 1).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_permutation_is_even(seed):
    first = [int(permutation(4, seed, block)[0]) for block in range(4000)]
    counts = np.bincount(first, minlength=4)
    assert counts.min() > 880
    assert counts.max() < 1120
