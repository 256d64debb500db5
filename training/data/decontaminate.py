"""Drop training rows that repeat the hold-out or a registered suite, and refuse texts that carry a canary."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from registry.errors import Refused
from registry.records import Manifest
from training.data.rows import Row
from training.data.words import Hashes, runs

MIN_STRING = 16


def overlapping(train: Sequence[Hashes], protected: Sequence[Hashes], ngram: int) -> list[bool]:
    """Return True for each training text that shares a run of `ngram` words with any protected text.

    Both are given as word hashes. A text shorter than `ngram` words has no such run and is never dropped.
    """
    grams = [runs(words, ngram) for words in protected]
    known = np.unique(np.concatenate(grams)) if grams else np.empty(0, dtype=np.uint64)
    if not len(known):
        return [False] * len(train)
    out = []
    for words in train:
        mine = runs(words, ngram)
        found = np.minimum(np.searchsorted(known, mine), len(known) - 1)
        out.append(bool(np.any(known[found] == mine)))
    return out


def refuse_canaries(rows: Sequence[Row], canaries: Sequence[str]) -> None:
    """Raise Refused when a row holds a canary: a suite's own text, or text marked never to be trained on."""
    for canary in canaries:
        for row in rows:
            if canary in row.text:
                raise Refused(
                    f"`{row.path}` of source `{row.source}` holds the canary `{canary[:12]}...`: nothing was ingested",
                    hint="the file is evaluation data or marked not for training: add it to `exclude` of its source",
                )


def suite_texts(manifest: Manifest, folder: Path) -> Iterator[str]:
    """Yield every string of at least 16 characters in a suite's `.jsonl`, `.json`, `.parquet` and `.txt` files."""
    for entry in manifest.entries:
        path = folder / entry.path
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    yield from _strings(json.loads(line) if line.strip() else None)
        elif path.suffix == ".json":
            yield from _strings(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".parquet":
            import pyarrow.parquet as pq

            yield from _strings(pq.read_table(path).to_pylist())
        elif path.suffix == ".txt":
            yield path.read_text(encoding="utf-8")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) >= MIN_STRING:
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
