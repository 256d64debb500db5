"""The batches of a run: packed sequences of every source, mixed by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.data.mix import Mix
from training.data.pack import Packed, Tokens, pack


class Batches:
    """Batch `step` of a run, whatever was asked before: `tokens`, `positions` and `labels` of (batch, length)."""

    def __init__(
        self,
        documents: Mapping[str, Sequence[Sequence[int]]],
        weights: Mapping[str, float],
        *,
        length: int,
        batch: int,
        seed: int,
    ) -> None:
        """Pack each source's token lists and mix the sources by weight."""
        self.packed: dict[str, Packed] = {name: pack(docs, length, seed=seed) for name, docs in documents.items()}
        self._labels: dict[str, Tokens] = {name: packed.labels() for name, packed in self.packed.items()}
        self.mix = Mix({name: len(p) for name, p in self.packed.items()}, weights, seed=seed, batch=batch)

    def arrays(self, step: int) -> tuple[Tokens, Tokens, Tokens]:
        """Return int32 tokens, positions and labels of one step."""
        slots = self.mix.step(step)
        tokens: Tokens = np.stack([self.packed[name].tokens[index] for name, index in slots])
        positions: Tokens = np.stack([self.packed[name].positions[index] for name, index in slots])
        labels: Tokens = np.stack([self._labels[name][index] for name, index in slots])
        return tokens, positions, labels

    def tensors(self, step: int, device: str) -> tuple[Any, Any, Any]:
        """Return the arrays of one step as int64 tensors on a device."""
        import torch

        return tuple(torch.from_numpy(array).to(device, torch.int64) for array in self.arrays(step))
