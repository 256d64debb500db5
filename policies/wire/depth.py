"""How deep a JSON body is nested, told without decoding it: in one pass over its brackets, at memory speed."""

from __future__ import annotations

from typing import Any

import numpy as np

MOST = 64
"""Levels that a body may have."""

_BRACKETS = b'"{}[]'
_REST = bytes(set(range(256)) - set(_BRACKETS))
_STEPS: np.ndarray[Any, np.dtype[np.int32]] = np.zeros(256, dtype=np.int32)
_STEPS[[ord("{"), ord("[")]] = 1
_STEPS[[ord("}"), ord("]")]] = -1


def too_deep(body: bytes, most: int = MOST) -> bool:
    """Say whether brackets outside of strings are open more than `most` levels deep at any place of a JSON text.

    What is no JSON may be misjudged: the decoder refuses it either way.
    """
    if body.count(b"{") + body.count(b"[") <= most:
        return False
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _REST)
    outside = b"".join(plain.split(b'"')[::2])
    levels = np.cumsum(_STEPS[np.frombuffer(outside, dtype=np.uint8)])
    return bool(len(levels) and levels.max() > most)
