"""Exact duplicates by hash and near duplicates by MinHash; of every group the first row stays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from training.data.words import Hashes, runs

SHINGLE = 5
PERMUTATIONS = 128
SEED = 1
BANDS_OF = ((0.9, 8), (0.8, 16), (0.7, 16), (0.5, 32), (0.0, 64))
"""Similarity from which up, and bands: a pair at the threshold shares a band with a chance above 0.95."""


def exact(texts: Sequence[str]) -> list[bool]:
    """Return True for each text that equals an earlier one, trailing blanks of lines aside."""
    seen: set[bytes] = set()
    out = []
    for text in texts:
        stripped = "\n".join(line.rstrip() for line in text.rstrip().split("\n"))
        digest = hashlib.blake2b(stripped.encode(), digest_size=16).digest()
        out.append(digest in seen)
        seen.add(digest)
    return out


def near(words: Sequence[Hashes], threshold: float) -> list[bool]:
    """Return True for each text whose estimated Jaccard similarity to an earlier kept one reaches `threshold`.

    Similarity is of sets of 5-word shingles, estimated by 128 MinHashes (standard error below 0.045); a text of
    fewer than 5 words is compared by its one run of all of them. At 1.0 nothing is dropped.
    """
    if threshold >= 1 or len(words) < 2:
        return [False] * len(words)
    from rensa import RMinHash, RMinHashLSH

    bands = next(count for floor, count in BANDS_OF if threshold >= floor)
    index = RMinHashLSH(threshold, PERMUTATIONS, bands)
    kept: list[RMinHash] = []
    dropped = []
    for sketch in RMinHash.from_token_sets([_shingles(w) for w in words], PERMUTATIONS, SEED):
        copy = any(kept[earlier].jaccard(sketch) >= threshold for earlier in index.query(sketch))
        dropped.append(copy)
        if not copy:
            index.insert(len(kept), sketch)
            kept.append(sketch)
    return dropped


def _shingles(words: Hashes) -> list[bytes]:
    hashes = np.unique(runs(words, min(SHINGLE, max(len(words), 1))))
    return [bytes(item) for item in hashes.view("V8").tolist()]
