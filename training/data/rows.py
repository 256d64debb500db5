"""A row of a dataset, and the digest of many in order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

COLUMNS = ("id", "text", "source", "path", "kind")


@dataclass(frozen=True, slots=True)
class Row:
    """One text with where it came from. `path` names the file inside its source; rows of one file share it."""

    id: str
    text: str
    source: str
    path: str
    kind: str


def make_row(text: str, *, source: str, path: str, kind: str, ordinal: int) -> Row:
    """Return a row whose id is 32 hex digits of BLAKE2b over its place and its text.

    Raises:
        UnicodeEncodeError: the text holds a lone surrogate, which no file can store.
    """
    place = f"{kind}\0{source}\0{path}\0{ordinal}\0"
    digest = hashlib.blake2b((place + text).encode(), digest_size=16).hexdigest()
    return Row(digest, text, source, path, kind)


def rows_digest(splits: Mapping[str, Sequence[Row]]) -> str:
    """Return `sha256:<hex>` of the ordered rows of all splits, taken by split name; independent of file formats."""
    state = hashlib.sha256()
    for split in sorted(splits):
        for row in splits[split]:
            line = json.dumps([split, *asdict(row).values()], ensure_ascii=False, separators=(",", ":"))
            state.update(line.encode() + b"\n")
    return f"sha256:{state.hexdigest()}"


def texts(rows: Iterable[Row]) -> list[str]:
    """Return the texts of rows."""
    return [row.text for row in rows]
