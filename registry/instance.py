"""One DuckDB instance a process, in memory, to which projection files are attached: a file opens in 1 ms, not in 20.

A file is attached while somebody holds its lock (`registry/pair.py`) and detached right after. Readers of one file in
several threads share it. What a fork left, or a fatal error made useless, is never used again.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

THREADS = 2


class Instance:
    """An in-memory DuckDB with the files attached to it now, by path: the name of each and how many use it."""

    def __init__(self) -> None:
        import duckdb

        scratch = Path(tempfile.gettempdir()) / f"hallmark-{os.getpid()}"  # made only when a query outgrows memory
        config = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false",
                  "threads": str(THREADS), "temp_directory": str(scratch)}  # fmt: skip
        self.root = duckdb.connect(":memory:", config=config)
        self.fatal = (duckdb.FatalException, duckdb.InternalException)
        self._attached: dict[Path, tuple[str, int]] = {}
        self._mutex = threading.Lock()
        self._count = 0

    @contextmanager
    def attached(self, path: Path, *, read_only: bool) -> Iterator[Any]:
        """Yield a connection of its own whose tables are those of a file. Raises duckdb.Error."""
        name = self._attach(path, read_only)
        try:
            cursor = self.root.cursor()
            try:
                cursor.execute(f"USE {name}")
                yield cursor
                if not read_only:
                    cursor.execute(f"CHECKPOINT {name}")  # here a full disk is told in words; in DETACH it is not
            finally:
                cursor.close()
        except BaseException:
            with suppress(Exception):  # the failure that matters is already on its way
                self._detach(path)
            raise
        self._detach(path)

    def _attach(self, path: Path, read_only: bool) -> str:
        with self._mutex:
            name, users = self._attached.get(path, ("", 0))
            if not users:
                self._count += 1
                name = f"projection{self._count}"
                quoted = str(path).replace("'", "''")
                self.root.execute(f"ATTACH '{quoted}' AS {name}{' (READ_ONLY)' if read_only else ''}")
            self._attached[path] = (name, users + 1)
            return name

    def _detach(self, path: Path) -> None:
        with self._mutex:
            name, users = self._attached[path]
            if users > 1:
                self._attached[path] = (name, users - 1)
                return
            del self._attached[path]
            self.root.execute(f"DETACH {name}")


_instance: Instance | None = None
_making = threading.Lock()


@contextmanager
def opened(path: Path, *, read_only: bool) -> Iterator[Any]:
    """Yield a connection to a projection file; the caller holds the file's lock. Raises duckdb.Error."""
    global _instance
    with _making:
        instance = _instance = _instance or Instance()
    try:
        with instance.attached(path, read_only=read_only) as connection:
            yield connection
    except instance.fatal:
        with _making:
            if _instance is instance:
                _instance = None
        raise


def _forget() -> None:
    """After a fork: the instance's threads stayed with the parent, so not even its end may be waited for here."""
    global _instance, _making
    if _instance is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_instance))
    _instance, _making = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
