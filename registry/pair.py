"""Two projection files used in turn: readers open the current one, the writer brings the other up to date and flips.

A reader holds a shared lock on a file beside the one it reads, the writer an exclusive one; both are the kernel's, so a
killed process leaves nothing held. DuckDB alone would let one writer exclude every reader and one reader every writer.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson

from registry.order import Progress
from registry.records import sha256
from registry.segment import Mark

COPY_FACTOR = 16
"""Bytes of a database that are copied in the time that one byte of journal is ingested, about."""
LEAST_LAG = 256 << 10


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which file readers open: `current` and `standby` are file numbers, `progress` what the current one holds.

    `behind` is up to how many journal bytes the standby has; `size` how many events the current one has.
    """

    current: int
    standby: int
    behind: int
    size: int
    progress: Progress = field(default_factory=Progress)


@lru_cache(maxsize=1)
def schema_digest() -> str:
    """Return what tells this release's tables from another's: a projection of other tables is made again."""
    return sha256(files("registry").joinpath("schema.sql").read_bytes())


class Pair:
    """The projection files `projection-<number>.duckdb` under `root` and the pointer `current`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pointer_path = root / "current"

    def path(self, number: int) -> Path:
        """Return where a projection file lies."""
        return self.root / f"projection-{number}.duckdb"

    def pointer(self) -> Pointer | None:
        """Return the pointer; None where none can be read, or its file is gone or has other tables."""
        try:
            value = orjson.loads(self.pointer_path.read_bytes())
            if value["schema"] != schema_digest():
                return None
            marks = {name: Mark(*mark) for name, mark in value["marks"].items()}
            found = Pointer(value["current"], value["standby"], value["behind"], value["size"],
                            Progress(value["offset"], marks))  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if self.path(found.current).exists() else None

    @contextmanager
    def reading(self) -> Iterator[Path | None]:
        """Hold the current file against writers and yield its path; None where it flipped meanwhile: try again."""
        pointer = self.pointer()
        held = self._hold(pointer.current, fcntl.LOCK_SH) if pointer else None
        try:
            here = pointer is not None and held is not None and self.path(pointer.current).exists()
            yield self.path(pointer.current) if pointer and here else None
        finally:
            if held is not None:
                os.close(held)

    @contextmanager
    def writing(self, *, fresh: bool = False) -> Iterator[tuple[Path, Pointer | None]]:
        """Hold the file to ingest into and yield (its path, the pointer now); call under the store's lock.

        It is the standby, unless a reader holds that or catching up costs more than copying the current file. The path
        has no file where there is nothing to start from, and with `fresh`.
        """
        pointer = self.pointer()
        number, held = (0, None) if fresh else self._standby(pointer)
        if held is None:
            number = self._next_number()
            if pointer and not fresh:
                self._copy(pointer.current, number)
            held = self._hold(number, fcntl.LOCK_EX, create=True)
        try:
            yield self.path(number), pointer
        finally:
            if held is not None:
                os.close(held)

    def flip(self, path: Path, progress: Progress, size: int, pointer: Pointer | None) -> None:
        """Make a file the current one and the one before it the standby; drop all others that nobody reads."""
        number = int(path.stem.partition("-")[2])
        old = pointer.current if pointer else 0
        behind = pointer.progress.bytes() if pointer else 0
        self._write(Pointer(number, old, behind, size, progress))
        self._clean({number, old})

    def forget(self, path: Path) -> None:
        """Drop a file that cannot be used, and its write-ahead log; call while holding it."""
        path.unlink(missing_ok=True)
        Path(f"{path}.wal").unlink(missing_ok=True)

    def _standby(self, pointer: Pointer | None) -> tuple[int, int | None]:
        if pointer is None or not self.path(pointer.standby).exists():
            return 0, None
        lag = pointer.progress.bytes() - pointer.behind
        if lag > max(LEAST_LAG, self.path(pointer.current).stat().st_size // COPY_FACTOR):
            return 0, None
        return pointer.standby, self._hold(pointer.standby, fcntl.LOCK_EX)

    def _hold(self, number: int, how: int, *, create: bool = False) -> int | None:
        """Return a descriptor that locks a file, None where someone else holds it or it is gone."""
        flags = (os.O_RDWR | os.O_CREAT if create else os.O_RDONLY) | os.O_CLOEXEC
        try:
            descriptor = os.open(self._lock_path(number), flags, 0o644)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def _copy(self, source: int, target: int) -> None:
        temporary = self.root / f".copy-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            shutil.copyfile(self.path(source), temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self.path(target))
        finally:
            temporary.unlink(missing_ok=True)

    def _clean(self, kept: set[int]) -> None:
        for path in self.root.glob(".copy-*"):
            path.unlink(missing_ok=True)
        for number in self._numbers() - kept:
            held = self._hold(number, fcntl.LOCK_EX, create=True)
            if held is not None:
                self.forget(self.path(number))
                self._lock_path(number).unlink(missing_ok=True)
                os.close(held)

    def _write(self, pointer: Pointer) -> None:
        """Replace the pointer file. Not synced: after a power cut an unreadable one only means a rebuild."""
        marks = {name: [mark.end, mark.count, mark.hash] for name, mark in pointer.progress.marks.items()}
        value: dict[str, Any] = {"current": pointer.current, "standby": pointer.standby, "behind": pointer.behind,
                                 "size": pointer.size, "offset": pointer.progress.offset, "marks": marks,
                                 "schema": schema_digest()}  # fmt: skip
        temporary = self.root / f".current-{os.getpid()}"
        temporary.write_bytes(orjson.dumps(value))
        temporary.replace(self.pointer_path)

    def _numbers(self) -> set[int]:
        found = set()
        for path in self.root.glob("projection-*"):
            with suppress(ValueError):
                found.add(int(path.name.partition("-")[2].partition(".")[0]))
        return found

    def _next_number(self) -> int:
        return max(self._numbers(), default=0) + 1

    def _lock_path(self, number: int) -> Path:
        return self.root / f"projection-{number}.lock"
