"""Keys and values of a batch whose rows come and go: one padded buffer per layer, rows always dense from 0."""

from __future__ import annotations

from typing import Any

ROW_STEP, LENGTH_STEP = 8, 128


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


class KeyValues:
    """The cache object given to a transformers model as `past_key_values`.

    A row is one sequence; position p of a row holds its p-th token, whatever the other rows hold. A prefill writes new
    rows after the present ones and attends to itself only; a decoding step appends one token to every row. Buffers are
    [rows, heads, length, head size] per layer, made on first use and regrown to what is needed; unwritten places are
    zero, because a masked NaN would still spoil the sum.
    """

    is_compileable = False

    def __init__(self, layers: int) -> None:
        self.rows = 0
        """Rows in use."""
        self.is_sliding = [False] * layers
        self._keys: list[Any] = [None] * layers
        self._values: list[Any] = [None] * layers
        self._have = (0, 0)
        self._window = 0
        self._first = 0
        self._index: Any = None
        self._positions: Any = None

    def begin_prefill(self, count: int, length: int) -> None:
        """Prepare to write `count` new rows, in use from `end_prefill` on; no row is longer than `length`."""
        self._reserve(self.rows + count, length)
        self._first, self._positions = self.rows, None

    def end_prefill(self, count: int) -> None:
        """Take the rows written by a prefill into use."""
        self.rows += count

    def begin_decode(self, positions: Any, longest: int) -> int:
        """Prepare to append one token to every row at `positions` [rows]; return the length of the attended window."""
        import torch

        self._reserve(self.rows, longest)
        self._window = min(_up(longest, 16), self._have[1])
        self._positions = positions
        if self._index is None or self._index.shape[0] != self.rows:
            self._index = torch.arange(self.rows, device=positions.device)
        return self._window

    def drop(self, row: int, *, spoiled: bool = False) -> None:
        """Free a row: the last row moves into its place. A `spoiled` row may hold values that are no numbers."""
        last = self.rows - 1
        for buffer in (*self._keys, *self._values):
            if row != last:
                buffer[row] = buffer[last]
            if spoiled:
                buffer[last] = 0
        self.rows = last

    def wipe(self) -> None:
        """Forget everything, e.g. after a failure that may have left values that are no numbers."""
        self._keys, self._values = [None] * len(self._keys), [None] * len(self._values)
        self.rows, self._have = 0, (0, 0)

    def bytes_per_token(self) -> int:
        """Return what one token of one row costs over all layers; known after the first prefill."""
        buffers = [buffer for buffer in (*self._keys, *self._values) if buffer is not None]
        return sum(buffer.shape[1] * buffer.shape[3] * buffer.element_size() for buffer in buffers)

    def _reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` tokens, no less than in use; what is unused is zero."""
        if rows <= self._have[0] and length <= self._have[1]:
            return
        self._have = (_up(rows, ROW_STEP), _up(length, LENGTH_STEP))
        for buffers in (self._keys, self._values):
            for layer, old in enumerate(buffers):
                if old is not None:
                    fresh = old.new_zeros((self._have[0], old.shape[1], self._have[1], old.shape[3]))
                    span = min(old.shape[2], self._have[1])
                    fresh[: self.rows, :, :span] = old[: self.rows, :, :span]
                    buffers[layer] = fresh

    # What transformers' models call.

    def update(self, key: Any, value: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Store new keys and values [rows, heads, tokens, size] of a layer; return those to attend to."""
        if self._keys[layer] is None:
            rows, length = self._have
            self._keys[layer] = key.new_zeros((rows, key.shape[1], length, key.shape[3]))
            self._values[layer] = value.new_zeros((rows, value.shape[1], length, value.shape[3]))
        keys, values = self._keys[layer], self._values[layer]
        if self._positions is None:
            last, length = self._first + key.shape[0], key.shape[2]
            keys[self._first : last, :, :length] = key
            values[self._first : last, :, :length] = value
            return key, value
        keys[self._index, :, self._positions] = key[:, :, 0]
        values[self._index, :, self._positions] = value[:, :, 0]
        return keys[: self.rows, :, : self._window], values[: self.rows, :, : self._window]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens come before a prefill: none. Decoding passes positions and masks itself."""
        return 0 if self._positions is None else self._window - 1

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return the position of a prefill's first token."""
        return self.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return (length, offset) of the keys that a prefill attends to."""
        return (query_length, 0) if self._positions is None else (self._window, 0)
