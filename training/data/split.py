"""Which files are held out: decided by a hash of the file's place, never by windows of text."""

from __future__ import annotations

import hashlib


def held_out(source: str, path: str, *, share: float, seed: int) -> bool:
    """Say whether a file belongs to the hold-out.

    All rows of a file go the same way, and a file keeps its side when other files come or go. Over many files the share
    held out tends to `share`.
    """
    digest = hashlib.sha256(f"{seed}\0{source}\0{path}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
