"""Manifests as they are read: every field checked before one of them names a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from registry.errors import Tampered
from registry.files import digest, path_problems
from registry.records import Manifest, ManifestEntry

T = TypeVar("T")
R = TypeVar("R")
HEX = frozenset("0123456789abcdef")
MODES = frozenset({0o644, 0o755})


def hex_of(name: str, algorithm: str) -> str | None:
    """Return the 64 hex digits of `<algorithm>:<hex>`, None for anything else."""
    prefix, _, digits = name.partition(":")
    return digits if prefix == algorithm and len(digits) == 64 and HEX.issuperset(digits) else None


def parse(manifest_id: str, data: bytes) -> Manifest:
    """Return the manifest a text holds. Raises Tampered when its fields or paths are none a manifest may have."""
    try:
        entries = tuple(ManifestEntry(**entry) for entry in json.loads(data)["entries"])
    except (ValueError, KeyError, TypeError):
        raise _refused(manifest_id, "is no manifest") from None
    for problem in path_problems(entry.path for entry in entries):
        raise _refused(manifest_id, f"is refused: {problem}")
    for entry in entries:
        if not _is_sound(entry):
            raise _refused(manifest_id, f"has an entry `{entry.path}` that no store writes")
    return Manifest(entries)


def difference(descriptor: int, entry: ManifestEntry, *, thorough: bool = False) -> str:
    """Return what is wrong with an open file that a manifest describes; empty when its bytes are as recorded."""
    altered = f"`{entry.path}` was altered: its bytes do not match the manifest"
    try:
        if os.fstat(descriptor).st_size != entry.size or digest(descriptor) != (entry.blake3, entry.size):
            return altered
        if thorough and digest(descriptor, "sha256") != (entry.sha256, entry.size):
            return altered
    except OSError as error:
        return f"`{entry.path}` cannot be read: {(error.strerror or str(error)).lower()}"
    return ""


def each(items: Iterable[T], work: Callable[[T], R]) -> list[R]:
    """Return the results of `work` in order, computed on the cores there are; the first error ends it."""
    todo = list(items)
    if len(todo) < 2:
        return [work(item) for item in todo]
    pool = ThreadPoolExecutor(min(2 * cores(), len(todo)))
    try:
        return list(pool.map(work, todo))
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_sound(entry: ManifestEntry) -> bool:
    return (
        type(entry.size) is int
        and entry.size >= 0
        and entry.mode in MODES
        and isinstance(entry.media_type, str)
        and isinstance(entry.blake3, str)
        and isinstance(entry.sha256, str)
        and hex_of(entry.blake3, "blake3") is not None
        and hex_of(entry.sha256, "sha256") is not None
    )


def _refused(manifest_id: str, why: str) -> Tampered:
    return Tampered(f"manifest `{manifest_id[:19]}` {why}", hint="take the artifact from a source you trust")
