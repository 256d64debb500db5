"""Normalised words as stable 64-bit hashes, and hashes of runs of words: what duplicates and overlaps are found by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Hashes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"
Indices: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
WORD = re.compile(r"\w+")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class WordHashes(dict[str, int]):
    """Word to the first 8 bytes of its BLAKE2b: the same on every machine and in every process."""

    def __missing__(self, word: str) -> int:
        """Hash a word on first use."""
        data = word.encode("utf-8", "surrogatepass")
        value = self[word] = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
        return value

    def of(self, text: str) -> Hashes:
        """Return the hashes of the words of a text, lower-cased, punctuation dropped, in order."""
        words = WORD.findall(text.lower())
        hashes: Hashes = np.fromiter((self[word] for word in words), dtype=np.uint64, count=len(words))
        return hashes


def runs(words: Hashes, length: int) -> Hashes:
    """Return one hash per run of `length` neighbouring words: max(0, n - length + 1) of them, order-sensitive."""
    count = len(words) - length + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    total: Hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(length):  # Horner's rule modulo 2^64
        total = total * MULTIPLIER + words[offset : offset + count]
    return mix64(total)


def mix64(values: Hashes) -> Hashes:
    """Return SplitMix64's finaliser of each value: a bijection whose output bits all depend on all input bits."""
    out = values.copy()
    out ^= out >> np.uint64(30)
    out *= np.uint64(0xBF58476D1CE4E5B9)
    out ^= out >> np.uint64(27)
    out *= np.uint64(0x94D049BB133111EB)
    out ^= out >> np.uint64(31)
    return out


def permutation(count: int, *seeds: int) -> Indices:
    """Return a permutation of range(count) that depends on the seeds alone, not on any library's generator."""
    state = np.array([len(seeds)], dtype=np.uint64)
    for seed in seeds:
        state = mix64(state * MULTIPLIER + np.uint64(seed & (2**64 - 1)))
    keys = mix64(mix64(np.arange(count, dtype=np.uint64) * MULTIPLIER + state[0]))
    order: Indices = np.argsort(keys, kind="stable")
    return order


def hash_all(texts: Sequence[str]) -> list[Hashes]:
    """Return the word hashes of many texts, sharing one table."""
    table = WordHashes()
    return [table.of(text) for text in texts]
