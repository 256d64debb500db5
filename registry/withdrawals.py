"""What was taken back: withdrawn sources and persons that no later dataset may hold, and tombstoned assets.

A person's name never enters the journal: only a keyed digest of its words, whose key lies in the workspace beside it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry import seals
from registry.errors import Refused, SpecError, Tampered

if TYPE_CHECKING:
    from registry.workspace import Workspace

SALT = "withdrawals.salt"
WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """One `source.withdrawn`: `what` is `source`, `dataset`, `file` or `person`; `target` is empty for a person.

    `datasets` are the ids of the datasets that held it then.
    """

    what: str
    target: str
    digests: tuple[str, ...]
    datasets: tuple[str, ...]
    person: str
    words: int
    reason: str
    ts: str
    by: str


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One asset whose bytes are withdrawn; its record and hashes stay."""

    asset: str
    manifest: str
    reason: str
    ts: str
    by: str


def withdrawals(ws: Workspace) -> list[Withdrawal]:
    """Return all withdrawals, oldest first. Raises Tampered or Refused when one is not signed as it must be."""
    found = []
    for event in seals.sealed(ws, "source.withdrawn"):
        body = event.body
        found.append(
            Withdrawal(
                body["what"], body["target"], tuple(body["digests"]), tuple(body["datasets"]), body["person"],
                body["words"], body["reason"], event.ts, event.principal.name,
            )
        )  # fmt: skip
    return found


def tombstones(ws: Workspace) -> dict[str, Tombstone]:
    """Return tombstones by asset id. Raises Tampered or Refused when one is not signed as it must be."""
    return {
        e.subject: Tombstone(e.subject, e.body["manifest"], e.body["reason"], e.ts, e.principal.name)
        for e in seals.sealed(ws, "asset.tombstoned")
    }


def refuse_tombstoned(ws: Workspace, *idents: str) -> None:
    """Raise Refused when one of these assets was withdrawn."""
    gone = tombstones(ws)
    for ident in idents:
        if ident in gone:
            found = gone[ident]
            raise Refused(
                f"`{ident[:19]}` was withdrawn by `{found.by}` on {found.ts[:19]}: {found.reason}",
                hint="use another version; `hallmark lineage` shows what it was made from",
            )


def refuse_datasets(ws: Workspace, idents: Iterable[str]) -> None:
    """Raise Refused when one of these datasets holds something that was withdrawn: nothing new is made from it."""
    refuse_tombstoned(ws, *(wanted := list(idents)))
    for found in withdrawals(ws):
        for ident in wanted:
            if ident in found.datasets:
                what = "a person's rows" if found.what == "person" else f"{found.what} `{found.target}`"
                raise Refused(
                    f"dataset `{ident[:19]}` holds {what}, withdrawn by `{found.by}` on {found.ts[:19]}:"
                    f" {found.reason}",
                    hint="build it again without that, and train on the new one",
                )


def refuse_sources(ws: Workspace, sources: Iterable[Mapping[str, Any]]) -> None:
    """Raise Refused, by name, when one of a dataset's described sources was withdrawn."""
    known = [found for found in withdrawals(ws) if found.what == "source"]
    for source in sources:
        for found in known:
            if found.target in names_of(source) or source.get("digest") in found.digests:
                raise Refused(
                    f"source `{source.get('name')}` was withdrawn by `{found.by}` on {found.ts[:19]}: {found.reason}",
                    hint="take it out of the spec",
                )


def refuse_rows(ws: Workspace, rows: Iterable[tuple[str, str, str]]) -> None:
    """Raise Refused when a row (source, path, text) is of a withdrawn file, or holds a withdrawn person's words.

    Raises Tampered when persons were withdrawn and the key of their digests is gone: then nobody can tell.
    """
    known = withdrawals(ws)
    files = {found.target: found for found in known if found.what == "file"}
    persons = {(found.words, found.person): found for found in known if found.what == "person"}
    salt = read_salt(ws) if persons else b""
    lengths = sorted({words for words, _ in persons})
    for source, path, text in rows if known else ():
        found = files.get(path) or files.get(f"{source}/{path}")
        if found is None and persons:
            hits = (persons.get((size, mark)) for size in lengths for mark in _marks(salt, text, size))
            found = next((hit for hit in hits if hit), None)
        if found:
            raise Refused(
                f"`{path}` of source `{source}` holds what `{found.by}` withdrew on {found.ts[:19]}: {found.reason}",
                hint="take the file out of the source, or the passage out of the file",
            )


def names_of(source: Mapping[str, Any]) -> set[str]:
    """Return what a dataset's source may be called: its name, its path, its digest."""
    return {str(source[key]) for key in ("name", "path", "digest") if source.get(key)}


def words_of(text: str) -> list[str]:
    """Return the words of a text as they are compared: letters, digits and `_`, without case or presentation."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def holds_words(text: str, wanted: Sequence[str]) -> bool:
    """Say whether a text has these words in this order, whatever stands between them that is no word."""
    found = words_of(text)
    size = len(wanted)
    return any(found[place : place + size] == list(wanted) for place in range(len(found) - size + 1))


def person_mark(ws: Workspace, text: str) -> tuple[str, int]:
    """Return (keyed digest, number of words) of a person's text. Raises SpecError for a text without a word."""
    words = words_of(text)
    if not words or len("".join(words)) < 4:
        raise SpecError("`--person` needs a name or number of at least four letters", hint="give the text in full")
    return _mark(make_salt(ws), words), len(words)


def make_salt(ws: Workspace) -> bytes:
    """Return the workspace's key of persons' digests, made on first use and readable by its owner alone."""
    path = ws.root / SALT
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_salt(ws)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    return read_salt(ws)


def read_salt(ws: Workspace) -> bytes:
    """Return the key of persons' digests. Raises Tampered when it is gone or cut short."""
    path = ws.root / SALT
    data = path.read_bytes() if path.is_file() else b""
    if len(data) != 32:
        raise Tampered(
            f"`{path}` is not the key that persons' withdrawals were made with", hint="restore it from a copy"
        )
    return data


def _marks(salt: bytes, text: str, size: int) -> Iterable[str]:
    words = words_of(text)
    return (_mark(salt, words[place : place + size]) for place in range(len(words) - size + 1))


def _mark(salt: bytes, words: Sequence[str]) -> str:
    return "hmac-sha256:" + hmac.digest(salt, " ".join(words).encode(), hashlib.sha256().name).hex()
