"""Walk a source and turn its files into rows; a file that cannot be read is quarantined with its reason."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from registry.errors import NotFound
from training.data import python_text
from training.data.damage import corrupt
from training.data.rows import Row, make_row
from training.data.spec import DataSpec, Source

SUFFIXES = {"python_stdlib": (".py",), "folder": (".py", ".txt", ".md")}
NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})
MANUAL = "pydoc_data"
TOO_LONG = 8_000_000


@dataclass(frozen=True, slots=True)
class Found:
    """The files of one source: what they are called, what they hold, and what could not be read."""

    source: Source
    root: Path
    files: tuple[tuple[str, bytes], ...]
    unreadable: tuple[dict[str, str], ...]
    digest: str
    """`sha256:<hex>` over paths and contents, unreadable files included by name."""

    def described(self) -> dict[str, str | int]:
        """Return what the dataset record keeps of a source: name, kind, licence, version, digest, files, damage."""
        stdlib = self.source.kind == "python_stdlib"
        return {
            "name": self.source.name,
            "kind": self.source.kind,
            "licence": self.source.licence or "PSF-2.0",
            "version": sys.version if stdlib else "",
            "digest": self.digest,
            "files": len(self.files),
            "corrupt": f"{self.source.corrupt.mode}:{self.source.corrupt.lines}" if self.source.corrupt else "",
        }


@dataclass(slots=True)
class Extraction:
    """Rows in order of path and place, files that gave none for a reason, and rows dropped on the way."""

    rows: list[Row] = field(default_factory=list)
    quarantined: list[dict[str, str]] = field(default_factory=list)
    too_short: int = 0


def find(source: Source, folder: Path) -> Found:
    """Read the files of a source; `folder` is what its `path` is relative to.

    Raises:
        NotFound: the source's folder is not there, or nothing in it matches.
    """
    root = Path(sysconfig.get_paths()["stdlib"]) if source.kind == "python_stdlib" else folder / str(source.path)
    if not root.is_dir():
        raise NotFound(f"source `{source.name}`: no folder `{root}`", hint="`path` is relative to the spec file")
    files, unreadable = [], []
    state = hashlib.sha256()
    for name, path in _walk(root, source):
        try:
            data = path.read_bytes()
        except OSError as error:
            unreadable.append({"source": source.name, "path": name, "reason": f"not readable: {error.strerror}"})
            state.update(f"{name}\0unreadable\n".encode("utf-8", "surrogateescape"))
            continue
        files.append((name, data))
        state.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\n".encode("utf-8", "surrogateescape"))
    if not files and not unreadable:
        raise NotFound(f"source `{source.name}`: no file matches in `{root}`", hint="check `include` and `exclude`")
    return Found(source, root, tuple(files), tuple(unreadable), f"sha256:{state.hexdigest()}")


def _walk(root: Path, source: Source) -> Iterator[tuple[str, Path]]:
    skip = NOT_LIBRARY if source.kind == "python_stdlib" else frozenset({"__pycache__", ".git"})
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - skip)
        for path in (Path(folder) / name for name in sorted(names)):
            name = path.relative_to(root).as_posix()
            if path.suffix not in SUFFIXES[source.kind] or not path.is_file():
                continue
            wanted = any(fnmatch.fnmatch(name, pattern) for pattern in source.include)
            if wanted and not any(fnmatch.fnmatch(name, pattern) for pattern in source.exclude):
                yield name, path


def extract(found: Found, spec: DataSpec) -> Iterator[Extraction]:
    """Yield one Extraction per file of a source, in order; rows shorter than `min_bytes` are counted and left out."""
    yield Extraction(quarantined=list(found.unreadable))
    for name, data in found.files:
        try:
            texts = _texts(name, data, found.source, spec.row_bytes)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no detail'}"
            quarantined = {"source": found.source.name, "path": _printable(name), "reason": _printable(reason)[:200]}
            yield Extraction(quarantined=[quarantined])
            continue
        out = Extraction()
        for ordinal, (kind, text) in enumerate(texts):
            if kind not in found.source.rows:
                continue
            if len(text.strip()) < spec.min_bytes:
                out.too_short += 1
                continue
            out.rows.append(make_row(text, source=found.source.name, path=name, kind=kind, ordinal=ordinal))
        yield out


def _texts(name: str, data: bytes, source: Source, limit: int) -> list[tuple[str, str]]:
    """Return (kind, text) of one file. Raises SyntaxError or ValueError when it cannot be read as what it claims."""
    if len(data) > TOO_LONG:
        raise ValueError(f"longer than {TOO_LONG} bytes")
    if b"\0" in data:
        raise ValueError("holds a NUL byte: not text")
    name.encode()  # a file name that is no text cannot be recorded
    if not name.endswith(".py"):
        return [("general", part) for part in python_text.paragraphs(data.decode("utf-8-sig"), limit)]
    text = python_text.decode(data)
    tree = python_text.parse(text)
    if MANUAL in name.split("/"):
        return [
            ("general", part) for topic in python_text.topics(tree) for part in python_text.paragraphs(topic, limit)
        ]
    code = python_text.sections(text, tree, limit)
    if source.corrupt:
        code = [corrupt(section, source.corrupt) for section in code]
    general = [part for doc in python_text.docstrings(tree) for part in python_text.paragraphs(doc, limit)]
    general = [part for part in general if _storable(part)]
    return [("domain", section) for section in code] + [("general", part) for part in general]


def _storable(text: str) -> bool:
    """Say whether a text can be written as UTF-8: a docstring with escapes may hold lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
