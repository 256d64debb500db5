"""Files as the artifact store needs them: plain ones only, copied in the kernel, hashed, replaced and made durable."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from blake3 import blake3

from registry.errors import NotFound, SpecError, Tampered

CHUNK = 1 << 20
"""Bytes hashed at a time: both algorithms let other threads run during one, and it fits a core's cache."""
SPAN = 1 << 28
"""Bytes the kernel is asked to copy at a time."""
PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Hasher(Protocol):
    """What `hashlib` and `blake3` objects share."""

    def update(self, data: memoryview, /) -> object:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""


def open_plain(path: Path, label: str) -> int:
    """Return a descriptor of a plain file, following no link.

    Raises:
        NotFound: there is no such file; named by `label`.
        Tampered: it is a link, a folder or a special file, or it cannot be read.
    """
    try:
        descriptor = os.open(path, PLAIN)
    except FileNotFoundError:
        raise NotFound(f"{label} is missing from the store", hint=f"restore `{path}`") from None
    except OSError as error:
        raise Tampered(f"{label} cannot be read: {_reason(error)}", hint=f"restore `{path}` from a copy") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Tampered(f"{label} is not a plain file", hint=f"restore `{path}` from a copy")
    return descriptor


def digest(descriptor: int, algorithm: str = "blake3") -> tuple[str, int]:
    """Return (`<algorithm>:<hex>`, size in bytes) of an open file from its start on; the algorithm may be `sha256`."""
    state: Hasher = hashlib.sha256() if algorithm == "sha256" else blake3()
    buffer = memoryview(bytearray(CHUNK))
    size = 0
    while count := os.preadv(descriptor, [buffer], size):
        state.update(buffer[:count])
        size += count
    return f"{algorithm}:{state.hexdigest()}", size


def copy(source: int, sink: int) -> None:
    """Copy an open file into another, inside the kernel where the file systems can (a shared extent where they will).

    The caller hashes what landed, not what was read: the two may differ when somebody writes meanwhile.
    """
    try:
        while os.copy_file_range(source, sink, SPAN):
            pass
    except OSError:
        pass  # not between these file systems; what is left is copied below, and a full disk shows there again
    while data := os.read(source, CHUNK):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(sink, rest) :]


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """Lend a descriptor of a file somebody else made, and its state, following no link.

    Raises:
        NotFound: it cannot be opened.
        SpecError: it is a link or special file.
    """
    try:
        descriptor = os.open(path, PLAIN)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SpecError(f"`{path}` is a link or special file", hint="an artifact holds plain files only") from None
        raise NotFound(f"cannot read `{path}`: {error.strerror}", hint="check the path and who owns it") from None
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise SpecError(f"`{path}` is a link or special file", hint="an artifact holds plain files only")
        yield descriptor, state
    finally:
        os.close(descriptor)


def write_new(path: Path, data: bytes) -> None:
    """Write a new read-only file and make its bytes durable."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    with os.fdopen(descriptor, "wb", buffering=0) as sink:
        rest = memoryview(data)
        while rest:
            rest = rest[sink.write(rest) :]
        os.fchmod(descriptor, 0o444)
        os.fsync(descriptor)


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable."""
    descriptor = os.open(path, PLAIN)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_whole(path: Path, name: str) -> bool:
    """Say whether an object is a plain file that hashes to its name."""
    try:
        descriptor = open_plain(path, f"object `{name}`")
    except (NotFound, Tampered):
        return False
    try:
        return digest(descriptor)[0] == name
    except OSError:
        return False
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Delete a folder with the read-only files and folders in it; a missing one is fine."""
    if not folder.exists():
        return
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    folder.rmdir()


def replace_file(path: Path, data: bytes, mode: int = 0o644, *, durable: bool = True) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, and a crash loses neither.

    Without `durable` nothing is synced: for what can be made again, since a power cut may leave the old file or none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(data)
            sink.flush()
            if durable:
                os.fsync(sink.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def plain_files(folder: Path) -> list[tuple[str, Path]]:
    """Return (relative path, path) of every file below a folder, sorted.

    Raises:
        NotFound: there is no such folder.
        SpecError: a link or special file is in it, or a name that no artifact may carry.
    """
    if not folder.is_dir():
        raise NotFound(f"no folder `{folder}`", hint="name the folder that holds the files")
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise SpecError(f"`{path}` is a link or special file", hint="an artifact holds plain files only")
        if path.is_file():
            found.append((path.relative_to(folder).as_posix(), path))
    problem = next(path_problems(name for name, _ in found), None)
    if problem:
        raise SpecError(f"`{folder}`: {problem}", hint="rename the file: every machine must be able to keep it")
    return found


def path_problems(paths: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong with the relative paths of one artifact: leaving the folder, and clashes between names.

    Names clash when they are equal after Unicode normalisation and case folding, as some file systems hold them, or
    when one is a file where another needs a folder.
    """
    names = list(paths)
    files: dict[str, str] = {}
    for name in names:
        if why := _unsafe(name):
            yield f"path {_shown(name)} {why}"
            continue
        key = _folded(name)
        if key in files:
            yield f"paths {_shown(files[key])} and {_shown(name)} are one file to some file systems"
        files[key] = name
    for key, name in files.items():
        for parent in PurePosixPath(key).parents:
            if str(parent) in files:
                yield f"path {_shown(files[str(parent)])} is a file and the folder of {_shown(name)}"


def _unsafe(name: str) -> str:
    """Say why a path may not stand in a manifest; empty when it may."""
    if not isinstance(name, str) or not name:
        return "is no name"
    if any(unicodedata.category(char) in {"Cc", "Cs"} for char in name):
        return "holds control characters or bytes that are no text"
    if "\\" in name or name.startswith("/"):
        return "is not relative with forward slashes"
    if any(part in {"", ".", ".."} for part in name.split("/")):
        return "leaves the folder or is not in its shortest form"
    return ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _shown(name: object) -> str:
    return f"`{str(name).encode('unicode_escape', 'backslashreplace').decode()}`"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
