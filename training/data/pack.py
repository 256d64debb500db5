"""Documents packed into full sequences whose parts cannot see one another.

Sequences are cut from one stream of documents, so none is padded. Positions start again at 0 with every document and
with every sequence; labels never ask for a token of another document. The model must be called with `position_ids`,
`use_cache=False` and `attention_mask=None`: only then does transformers build the block mask from the positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from registry.errors import SpecError
from training.data.words import permutation

IGNORED = -100
Tokens: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"


@dataclass(frozen=True, slots=True)
class Packed:
    """`tokens` and `positions`, both int32 of shape (sequences, length)."""

    tokens: Tokens
    positions: Tokens

    def __len__(self) -> int:
        """Return how many sequences there are."""
        return len(self.tokens)

    def labels(self) -> Tokens:
        """Return the token to predict at each place, or -100 where the next token belongs to another document."""
        out: Tokens = np.full(self.tokens.shape, IGNORED, dtype=np.int32)
        inside = self.positions[:, 1:] != 0
        out[:, :-1][inside] = self.tokens[:, 1:][inside]
        return out


def pack(documents: Sequence[Sequence[int]], length: int, *, seed: int) -> Packed:
    """Pack token lists in seeded order into sequences of `length`; the last, incomplete sequence is left out.

    Raises:
        SpecError: there is not one full sequence.
    """
    order = permutation(len(documents), seed, 3)
    sizes = np.array([len(documents[i]) for i in order], dtype=np.int64)
    total = int(sizes.sum())
    count = total // length
    if count < 1:
        raise SpecError(
            f"{total} tokens do not fill one sequence of {length}",
            field="sequence_length",
            hint="add text or shorten it",
        )
    stream = np.fromiter((token for i in order for token in documents[i]), dtype=np.int32, count=total)
    starts: Tokens = np.repeat(np.cumsum(sizes) - sizes, sizes)[: count * length]
    place = np.arange(count * length)
    positions = place - np.maximum(starts, place // length * length)
    shape = (count, length)
    return Packed(stream[: count * length].reshape(shape), positions.astype(np.int32).reshape(shape))
