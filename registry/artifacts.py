"""Content-addressed bytes: blobs keyed by BLAKE3, folders by a manifest whose SHA-256 is what certificates bind.

Adding is a private copy, hashed as it is written, synced and then given its name: a crash leaves a stray temporary
file, never a half-written object. Taking out is a copy that is hashed after it landed. A manifest carries both digests
of every file and its own name is the SHA-256 of its text, so checking BLAKE3 alone checks what the manifest says.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mimetypes
import os
import secrets
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from blake3 import blake3

from registry.errors import HallmarkError, NotFound, Refused, SpecError, Tampered
from registry.files import (
    CHUNK,
    PLAIN,
    copy,
    is_whole,
    open_plain,
    opened,
    plain_files,
    remove_tree,
    replace_file,
    sync_file,
    sync_folder,
    write_new,
)
from registry.inflight import InFlight
from registry.manifests import cores, difference, each, hex_of, parse
from registry.records import Manifest, ManifestEntry, canonical, plain, sha256

__all__ = ["CHUNK", "Artifacts", "remove_tree", "replace_file", "sync_folder"]
SMALL = 1 << 20
"""Bytes up to which a file is read whole: starting a thread and copying costs more than hashing it twice."""
LARGE = 2 << 20
"""Bytes of a larger file that are hashed and written at a time."""


class Artifacts:
    """The object store under `root`: `ab/cdef...` files, mode 0444, and `manifests/<hex>.json`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inflight = InFlight(root / "tmp")

    def create(self) -> None:
        """Make the folders."""
        (self.root / "tmp").mkdir(parents=True, exist_ok=True)
        (self.root / "manifests").mkdir(exist_ok=True)

    def path(self, digest: str) -> Path:
        """Return where the object with a `blake3:<hex>` digest lies, whether or not it is there."""
        name = hex_of(digest, "blake3")
        if name is None:
            raise NotFound(f"`{digest}` is not an object digest", hint="objects are named `blake3:<64 hex digits>`")
        return self.root / name[:2] / name[2:]

    # ---- adding ------------------------------------------------------------------------------------------------

    def add_bytes(self, data: bytes, media_type: str = "application/octet-stream") -> str:
        """Store bytes; return their `blake3:<hex>` digest once they are on disk."""
        name = "blake3:" + blake3(data).hexdigest()
        with self._storing(name) as temporary:
            if not self._has(name):
                write_new(temporary, data)
                self._keep(temporary, self.path(name))
        sync_folder(self.path(name).parent)
        return name

    def add_file(self, path: Path, name: str) -> ManifestEntry:
        """Store one file; return its manifest entry under the relative path `name`."""
        with ThreadPoolExecutor(1) as pool:
            entry = self._add(path, name, pool)
        sync_folder(self.path(entry.blake3).parent)
        return entry

    def add_tree(self, folder: Path) -> Manifest:
        """Store every file of a folder and its manifest; return the manifest once all of it is on disk.

        Raises:
            NotFound: there is no such folder.
            SpecError: a link, a special file, a name no artifact may carry, or no file at all.
            HallmarkError: the disk is full or read-only; nothing half-written is kept.
        """
        files = plain_files(folder)
        if not files:
            raise SpecError(f"`{folder}` holds no file", hint="an artifact has at least one file")
        with ThreadPoolExecutor(cores()) as sums:
            entries = each(files, lambda item: self._add(item[1], item[0], sums))
        for place in sorted({self.path(entry.blake3).parent for entry in entries}):
            sync_folder(place)
        manifest = Manifest(tuple(sorted(entries, key=lambda entry: entry.path)))
        target = self.manifest_path(manifest.id)
        with self._storing(manifest.id) as temporary:
            write_new(temporary, canonical(plain(manifest)))
            self._keep(temporary, target)
        sync_folder(target.parent)
        return manifest

    def _add(self, path: Path, name: str, sums: ThreadPoolExecutor) -> ManifestEntry:
        """Store one file. A large one's SHA-256 is computed by `sums` while BLAKE3 and the sync to disk go on here."""
        media = "application/vnd.safetensors" if name.endswith(".safetensors") else mimetypes.guess_type(name)[0]
        with self._storing(name) as temporary, opened(path) as (source, state):
            mode = 0o755 if state.st_mode & stat.S_IXUSR else 0o644
            data = os.read(source, SMALL + 1) if state.st_size <= SMALL else b""
            if len(data) == state.st_size:  # whole, in memory: what is hashed is what is written
                fast, standard = "blake3:" + blake3(data).hexdigest(), sha256(data)
                size = len(data)
                if not self._has(fast):
                    write_new(temporary, data)
                    self._keep(temporary, self.path(fast))
            else:
                fast, standard, size = _copy_large(source, temporary, sums)
                if not self._has(fast):
                    sync_file(temporary)
                    self._keep(temporary, self.path(fast))
        return ManifestEntry(name, size, mode, fast, standard, media or "application/octet-stream")

    def _has(self, name: str) -> bool:
        """Say whether an object is there and whole, after making it young, so that no collector takes it."""
        target = self.path(name)
        return os.path.lexists(target) and self._touch(target) and is_whole(target, name)

    def _keep(self, temporary: Path, target: Path) -> None:
        """Give a finished, synced temporary file its name; the same bytes, or a damaged object, make room."""
        with self.inflight.gate():
            new = not target.parent.exists()
            if new:
                target.parent.mkdir(exist_ok=True)
            temporary.replace(target)
        if new:
            sync_folder(target.parent.parent)

    def _touch(self, path: Path) -> bool:
        """Make an object young, so that no collector takes it; False where it is not there or not ours to touch."""
        try:
            with self.inflight.gate():
                os.utime(path, follow_symlinks=False)
        except OSError:
            return False  # nothing there, or a store that is only read: nobody collects in it either
        return True

    @contextmanager
    def _storing(self, name: str) -> Iterator[Path]:
        """Lend the path of a temporary file, gone afterwards; a disk that refuses is told in plain words."""
        temporary = self.root / "tmp" / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            self.inflight.begin()
            yield temporary
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            cure = "free some space" if full else f"check who owns `{self.root}`, and that it may be written"
            raise HallmarkError(
                f"cannot store `{name}`: {(error.strerror or str(error)).lower()}",
                hint=f"{cure}; nothing half-written was kept",
            ) from error
        finally:
            with suppress(OSError):  # a store that may not be written holds no temporary file of ours
                temporary.unlink(missing_ok=True)

    # ---- reading -----------------------------------------------------------------------------------------------

    def read_bytes(self, digest: str) -> bytes:
        """Return the bytes of an object. Raises NotFound, or Tampered when they do not hash to their name."""
        path = self.path(digest)
        descriptor = open_plain(path, f"object `{digest}`")
        with os.fdopen(descriptor, "rb") as file:
            data = file.read()
        if "blake3:" + blake3(data, max_threads=blake3.AUTO).hexdigest() != digest:
            raise Tampered(f"object `{digest}` does not hash to its name", hint=f"restore `{path}` from a copy")
        return data

    def manifest(self, manifest_id: str) -> Manifest:
        """Return a stored manifest.

        Raises:
            NotFound: there is none.
            Tampered: it does not hash to its id, or names paths that no folder may hold.
        """
        path = self.manifest_path(manifest_id)
        try:
            with os.fdopen(os.open(path, PLAIN), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise NotFound(f"no manifest `{manifest_id}`", hint="was it registered in this workspace?") from None
        except OSError as error:
            raise Tampered(f"manifest `{manifest_id}` cannot be read: {error.strerror}",
                           hint=f"restore `{path}` from a copy") from None  # fmt: skip
        if "sha256:" + hashlib.sha256(data).hexdigest() != manifest_id:
            raise Tampered(f"manifest `{manifest_id}` does not hash to its id", hint=f"restore `{path}` from a copy")
        return parse(manifest_id, data)

    def verify(self, manifest_id: str, *, thorough: bool = False) -> list[str]:
        """Return one line per missing or altered file of a manifest; an empty list means every byte is as recorded.

        An artifact that was withdrawn has one line, which says so.

        Args:
            manifest_id: which.
            thorough: compute SHA-256 as well as BLAKE3. Either one proves the bytes: the manifest binds both.
        """
        if why := self.withdrawn(manifest_id):
            return [f"withdrawn: {why}"]

        def check(entry: ManifestEntry) -> str:
            try:
                descriptor = open_plain(self.path(entry.blake3), f"`{entry.path}`")
            except (NotFound, Tampered) as error:
                return error.message
            try:
                return difference(descriptor, entry, thorough=thorough)
            finally:
                os.close(descriptor)

        return [line for line in each(self.manifest(manifest_id).entries, check) if line]

    def verify_folder(self, manifest_id: str, folder: Path, *, thorough: bool = False) -> list[str]:
        """Return one line per file of a checked-out folder that is missing, altered, extra, or of another mode."""
        entries = {entry.path: entry for entry in self.manifest(manifest_id).entries}
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
        extra = [
            name for name, path in found.items() if name not in entries and (path.is_symlink() or not path.is_dir())
        ]
        problems = [f"`{name}` is not in the manifest" for name in sorted(extra)]

        def check(entry: ManifestEntry) -> str:
            try:
                descriptor = open_plain(folder / entry.path, f"`{entry.path}`")
            except NotFound:
                return f"`{entry.path}` is missing from the folder"
            except Tampered as error:
                return error.message
            try:
                if bool(os.fstat(descriptor).st_mode & stat.S_IXUSR) != bool(entry.mode & stat.S_IXUSR):
                    return f"`{entry.path}` has another mode than the manifest records"
                return difference(descriptor, entry, thorough=thorough)
            finally:
                os.close(descriptor)

        return problems + [line for line in each(entries.values(), check) if line]

    def checkout(self, manifest_id: str, dest: Path) -> Path:
        """Copy a manifest's files into the new folder `dest`, read-only, hashing the copies that landed.

        What is verified is what is there: a later change to the store cannot reach the copy.

        Raises:
            Tampered: a file differs from the manifest; names it. Nothing is left at `dest`.
            NotFound: the manifest or an object is missing.
            Refused: the artifact was withdrawn.
        """
        manifest = self.manifest(manifest_id)
        if why := self.withdrawn(manifest_id):
            raise Refused(f"artifact `{manifest_id[:19]}` was withdrawn: {why}", hint="use another version")
        self._touch(self.manifest_path(manifest_id))
        for entry in manifest.entries:
            self._touch(self.path(entry.blake3))
        dest.mkdir(parents=True, mode=0o700)
        try:
            for entry in manifest.entries:
                (dest / entry.path).parent.mkdir(parents=True, exist_ok=True)
            each(manifest.entries, lambda entry: self._copy_out(entry, dest / entry.path))
        except BaseException:
            remove_tree(dest)
            raise
        return dest

    def _copy_out(self, entry: ManifestEntry, target: Path) -> None:
        source = open_plain(self.path(entry.blake3), f"`{entry.path}`")
        try:
            landed = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                copy(source, landed)
                os.fchmod(landed, entry.mode & 0o555)
                if problem := difference(landed, entry):
                    raise Tampered(
                        problem,
                        hint=f"restore `{self.path(entry.blake3)}` from a copy, or roll back to another release",
                    )
            finally:
                os.close(landed)
        finally:
            os.close(source)

    def withdrawn(self, manifest_id: str) -> str:
        """Return why a manifest's bytes were withdrawn, empty when they were not: what the journal says, beside it."""
        try:
            return str(json.loads(self.manifest_path(manifest_id).with_suffix(".withdrawn").read_bytes())["reason"])
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError):
            return "its note cannot be read"

    def manifest_path(self, manifest_id: str) -> Path:
        """Return where a manifest lies, whether or not it is there. Raises NotFound for what is no manifest id."""
        name = hex_of(manifest_id, "sha256")
        if name is None:
            raise NotFound(f"`{manifest_id}` is not a manifest id", hint="manifests are named `sha256:<64 hex digits>`")
        return self.root / "manifests" / f"{name}.json"


def _copy_large(source: int, temporary: Path, sums: ThreadPoolExecutor) -> tuple[str, str, int]:
    """Copy an open file into a new one; return both digests and the size of what was written.

    Every buffer is hashed and written while it is in the processor's cache, its SHA-256 by a thread of `sums`.
    """
    fast, standard, size = blake3(), hashlib.sha256(), 0
    buffer = memoryview(bytearray(LARGE))
    with temporary.open("xb", buffering=0) as sink:
        os.fchmod(sink.fileno(), 0o444)
        while count := os.preadv(source, [buffer], size):
            part = buffer[:count]
            pending = sums.submit(standard.update, part)
            try:
                fast.update(part)
                while part:
                    part = part[sink.write(part) :]
            finally:
                pending.result()
            size += count
    return f"blake3:{fast.hexdigest()}", f"sha256:{standard.hexdigest()}", size
