"""Garbage collection of the object store: what nothing names goes, after a grace period, and never while it is needed.

Order is what makes it safe. First the time is taken and the oldest add in flight; then objects older than both are
listed; then the journal is read; then each is deleted behind the gate if it is still as old. An add that finds an
object touches it behind the same gate, so it is either seen to be young or is stored anew.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from governance import roles
from governance.retention import mark_withdrawn, withdrawn_manifests
from registry.errors import Locked, NotFound, SpecError, Tampered
from registry.protocols import Progress, silent
from registry.workspace import Workspace

GRACE_H = 24.0
DIGEST = re.compile(r"[0-9a-f]{64}")
BATCH = 500
"""Deletions between two looks at the journal, during which the store is locked."""
NAMED_IN_EVENT = 1000
SILENT_KINDS = ("objects.collected", "source.withdrawn")
"""Events that keep hashes of what is gone: being named there keeps nothing."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection deleted or would delete, and how many files it spared because they are young."""

    count: int
    bytes: int
    digests: tuple[str, ...]
    strays: int
    kept_young: int
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """One file of the object store: its digest, where it lies, its size in bytes."""

    digest: str
    path: Path
    size: int


def collect(
    ws: Workspace,
    *,
    grace_h: float = GRACE_H,
    dry_run: bool = False,
    actor: str | None = None,
    progress: Progress = silent,
) -> Collected:
    """Delete the objects and manifests that nothing names and that are older than the grace period.

    Raises:
        Refused: the actor may not.
        Locked: another collection runs.
        Tampered: a signature that decides what is kept does not hold; nothing was deleted.
    """
    if grace_h < 0:
        raise SpecError("the grace period cannot be negative", hint="give hours with `--older-than`")
    principal = roles.require(ws, "collect", "objects", actor)
    with _alone(ws):
        now = ws.artifacts.inflight.now()
        oldest = ws.artifacts.inflight.oldest()
        cutoff = min(now - grace_h * 3600, now if oldest is None else oldest)
        old, young = _candidates(ws, cutoff)
        strays = _strays(ws, cutoff)
        if dry_run:
            named = _named(ws, young)
            gone = [item for item in old if item.digest.partition(":")[2] not in named]
        else:
            mark_withdrawn(ws)
            gone = list(_delete(ws, old, young, cutoff, progress))
            for path in strays:
                path.unlink(missing_ok=True)
        found = Collected(
            len(gone), sum(item.size for item in gone), tuple(item.digest for item in gone), len(strays), len(young),
            dry_run,
        )  # fmt: skip
        if gone and not dry_run:
            body = {"count": found.count, "bytes": found.bytes, "digests": list(found.digests[:NAMED_IN_EVENT])}
            ws.record("objects.collected", "objects", body, actor=principal.name)
    return found


def stored(ws: Workspace) -> Iterator[Stored]:
    """Yield every object and manifest of the store, whatever its age."""
    for path in ws.artifacts.root.glob("??/*"):
        name = path.parent.name + path.name
        if DIGEST.fullmatch(name):
            yield Stored(f"blake3:{name}", path, path.lstat().st_size)
    for path in (ws.artifacts.root / "manifests").glob("*.json"):
        if DIGEST.fullmatch(path.stem):
            yield Stored(f"sha256:{path.stem}", path, path.lstat().st_size)


def _candidates(ws: Workspace, cutoff: float) -> tuple[list[Stored], set[str]]:
    """Return the files older than the cutoff, and the digests of the younger ones. Manifests come first."""
    old, young = [], set()
    for item in stored(ws):
        try:
            is_old = item.path.lstat().st_mtime < cutoff
        except FileNotFoundError:
            continue
        if is_old:
            old.append(item)
        else:
            young.add(item.digest)
    return sorted(old, key=lambda item: (item.digest.startswith("blake3:"), item.digest)), young


def _strays(ws: Workspace, cutoff: float) -> list[Path]:
    """Return temporary files that a crash left: no add that is alive began before the cutoff."""
    folder = ws.artifacts.root / "tmp"
    return [path for path in folder.iterdir() if re.fullmatch(r"(clock-)?\d+-[0-9a-f]{16}", path.name)
            and path.lstat().st_mtime < cutoff]  # fmt: skip


def _delete(ws: Workspace, old: list[Stored], young: set[str], cutoff: float, progress: Progress) -> Iterator[Stored]:
    """Delete what nothing names, looking at the journal again for every batch; yield what went."""
    for start in range(0, len(old), BATCH):
        with ws.store.lock():  # no hold is placed between the look and the deletion
            named = _named(ws, young)
            for item in old[start : start + BATCH]:
                if item.digest.partition(":")[2] in named:
                    continue
                with ws.artifacts.inflight.gate(collecting=True):
                    try:
                        if item.path.lstat().st_mtime >= cutoff:
                            continue
                        item.path.unlink()
                    except FileNotFoundError:
                        continue
                yield item
        progress("collect", min(start + BATCH, len(old)), len(old))


def _named(ws: Workspace, young: set[str]) -> set[str]:
    """Return the hex digests that must stay: named by events and pointers, and those in manifests that stay.

    The manifest of a withdrawn artifact stays, for its hashes; what it lists does not, unless something else names it.
    """
    named = {digest.partition(":")[2] for digest in young}
    named |= _in_events(ws) | _in_envelopes(ws) | _in_pointers(ws)
    doomed = {manifest.partition(":")[2] for manifest in withdrawn_manifests(ws)}
    for path in (ws.artifacts.root / "manifests").glob("*.json"):
        if path.stem in named and path.stem not in doomed:
            try:
                entries = ws.artifacts.manifest(f"sha256:{path.stem}").entries
            except (NotFound, Tampered):  # a damaged manifest keeps whatever it may name, until it is restored
                named |= set(DIGEST.findall(path.read_text(encoding="utf-8", errors="replace")))
                continue
            named |= {entry.blake3.partition(":")[2] for entry in entries}
    return named


def _in_events(ws: Workspace) -> set[str]:
    """Return every 64 hex digits in the body of an event, but of those that keep hashes of what is gone."""
    silent_kinds = ", ".join(f"'{kind}'" for kind in SILENT_KINDS)
    rows = ws.store.query(
        "SELECT DISTINCT unnest(regexp_extract_all(CAST(body AS VARCHAR), '[0-9a-f]{64}')) AS digest FROM event"  # noqa: S608 (our own names)
        f" WHERE kind NOT IN ({silent_kinds})"
    )
    return {row["digest"] for row in rows}


def _in_envelopes(ws: Workspace) -> set[str]:
    """Return the digests inside signed envelopes, whose payloads are base64."""
    rows = ws.store.query("SELECT body FROM event WHERE contains(CAST(body AS VARCHAR), '\"payload\"')")
    return {
        digest for row in rows for payload in _payloads(orjson.loads(row["body"])) for digest in DIGEST.findall(payload)
    }


def _payloads(value: Any) -> Iterator[str]:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo += item
        elif isinstance(item, dict):
            todo += item.values()
            if isinstance(item.get("payload"), str):
                try:
                    yield base64.b64decode(item["payload"]).decode(errors="replace")
                except binascii.Error:
                    continue


def _in_pointers(ws: Workspace) -> set[str]:
    return {digest for path in (ws.root / "releases").glob("*.json")
            for digest in DIGEST.findall(path.read_text(encoding="utf-8", errors="replace"))}  # fmt: skip


@contextmanager
def _alone(ws: Workspace) -> Iterator[None]:
    """Run as the only collection of this store. Raises Locked."""
    descriptor = os.open(ws.artifacts.root / "tmp" / "collecting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked("another collection runs on this store", hint="wait for it to finish") from None
        yield
    finally:
        os.close(descriptor)
