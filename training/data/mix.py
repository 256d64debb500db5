"""Which sequence every training step sees: a function of seed and step, so that resuming needs only the step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from registry.errors import SpecError
from training.data.words import Indices, permutation

BLOCK = 1000
"""Slots over which the proportions of sources are exact."""


class Mix:
    """Sources mixed by weight. Slot `g` of the whole run belongs to step `g // batch`.

    In every block of 1,000 slots each source has its share, rounded so that no error adds up; inside a block the order
    is shuffled. The k-th slot of a source takes sequence `permutation(seed, source, epoch)[k mod n]`: each epoch of a
    source shows all its sequences once, in a new order.
    """

    def __init__(self, sizes: Mapping[str, int], weights: Mapping[str, float], *, seed: int, batch: int) -> None:
        """Mix sources of `sizes` sequences by `weights` (any positive scale; at least 0.2 % each)."""
        self.names = sorted(name for name, weight in weights.items() if weight > 0)
        self.sizes = [sizes[name] for name in self.names]
        if not self.names or min(self.sizes) < 1:
            raise SpecError("a source of the mixture has no sequence", field="data", hint="give it more text")
        total = sum(weights[name] for name in self.names)
        shares = [weights[name] / total for name in self.names]
        if min(shares) < 2 / BLOCK:
            raise SpecError(
                "a source has less than 0.2 % of the mixture", field="data", hint="leave it out, or raise it"
            )
        self.bounds = np.concatenate([[0.0], np.cumsum(shares)])
        self.bounds[-1] = 1.0
        self.seed, self.batch = seed, batch
        self._orders: dict[tuple[int, int], Indices] = {}
        self._block: tuple[int, Indices, Indices] = (-1, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))

    def step(self, step: int) -> list[tuple[str, int]]:
        """Return the (source, sequence) of each slot of a step, counted from 0."""
        return [self.slot(slot) for slot in range(step * self.batch, (step + 1) * self.batch)]

    def slot(self, slot: int) -> tuple[str, int]:
        """Return the (source, sequence) of one slot."""
        block, offset = divmod(slot, BLOCK)
        if self._block[0] != block:
            self._block = (block, *self._lay_out(block))
        source, rank = int(self._block[1][offset]), int(self._block[2][offset])
        epoch, place = divmod(rank, self.sizes[source])
        return self.names[source], int(self._order(source, epoch)[place])

    def _lay_out(self, block: int) -> tuple[Indices, Indices]:
        """Return, per slot of a block, its source and how many slots of that source came before it in the run."""
        before, after = self._counts(block), self._counts(block + 1)
        source: Indices = np.repeat(np.arange(len(self.names)), after - before)[permutation(BLOCK, self.seed, 1, block)]
        rank: Indices = np.empty(BLOCK, dtype=np.int64)
        for index, first in enumerate(before):
            mine = source == index
            rank[mine] = first + np.arange(int(mine.sum()))
        return source, rank

    def _counts(self, block: int) -> Indices:
        """Return how many slots each source has had before a block; they sum to BLOCK * block exactly."""
        counts: Indices = np.diff(np.floor(self.bounds * (BLOCK * block) + 0.5).astype(np.int64))
        return counts

    def _order(self, source: int, epoch: int) -> Indices:
        key = (source, epoch)
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != source}
            self._orders[key] = permutation(self.sizes[source], self.seed, 2, source, epoch)
        return self._orders[key]
