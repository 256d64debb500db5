"""Content-addressed bytes: blobs keyed by BLAKE3, folders by a manifest whose SHA-256 is what certificates bind.

Adding is temporary file, hash, fsync, link: a crash leaves a stray temporary file, never a half-written object.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from registry.errors import NotFound, SpecError, Tampered
from registry.records import Manifest, ManifestEntry, canonical, plain

CHUNK = 1 << 20


class Artifacts:
    """The object store under `root`: `ab/cdef...` files, mode 0444, and `manifests/<hex>.json`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self) -> None:
        """Make the folders."""
        (self.root / "tmp").mkdir(parents=True, exist_ok=True)
        (self.root / "manifests").mkdir(exist_ok=True)

    def path(self, digest: str) -> Path:
        """Return where the object with a `blake3:<hex>` digest lies, whether or not it is there."""
        algorithm, _, name = digest.partition(":")
        if algorithm != "blake3" or len(name) != 64 or not name.isalnum():
            raise NotFound(f"`{digest}` is not an object digest", hint="objects are named `blake3:<64 hex digits>`")
        return self.root / name[:2] / name[2:]

    def add_bytes(self, data: bytes, media_type: str = "application/octet-stream") -> str:
        """Store bytes; return their `blake3:<hex>` digest once they are on disk."""
        name = blake3(data, max_threads=blake3.AUTO).hexdigest()
        target = self.root / name[:2] / name[2:]
        if not target.exists():
            self._publish(target, iter([data]))
        return f"blake3:{name}"

    def read_bytes(self, digest: str) -> bytes:
        """Return the bytes of an object. Raises NotFound, or Tampered when they do not hash to their name."""
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"no object `{digest}`", hint="`hallmark verify` lists what is missing") from None
        if "blake3:" + blake3(data, max_threads=blake3.AUTO).hexdigest() != digest:
            raise Tampered(f"object `{digest}` does not hash to its name", hint=f"restore `{path}` from a copy")
        return data

    def add_file(self, path: Path, name: str) -> ManifestEntry:
        """Store one file; return its manifest entry under the relative path `name`."""
        temporary = self._temporary()
        fast, standard, size = blake3(), hashlib.sha256(), 0
        try:
            with path.open("rb") as source, temporary.open("xb") as sink:
                while chunk := source.read(CHUNK):
                    fast.update(chunk)
                    standard.update(chunk)
                    sink.write(chunk)
                    size += len(chunk)
                sink.flush()
                os.fsync(sink.fileno())
            self._link(temporary, self.root / fast.hexdigest()[:2] / fast.hexdigest()[2:])
        finally:
            temporary.unlink(missing_ok=True)
        media = "application/vnd.safetensors" if name.endswith(".safetensors") else mimetypes.guess_type(name)[0]
        return ManifestEntry(
            path=name,
            size=size,
            mode=0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644,
            blake3="blake3:" + fast.hexdigest(),
            sha256="sha256:" + standard.hexdigest(),
            media_type=media or "application/octet-stream",
        )

    def add_tree(self, folder: Path) -> Manifest:
        """Store every file of a folder and its manifest; return the manifest. Links and special files are refused."""
        entries = [self.add_file(path, name) for name, path in _files(folder)]
        if not entries:
            raise SpecError(f"`{folder}` holds no file", hint="an artifact has at least one file")
        manifest = Manifest(tuple(sorted(entries, key=lambda entry: entry.path)))
        self._publish(self._manifest_path(manifest.id), iter([canonical(plain(manifest))]))
        return manifest

    def manifest(self, manifest_id: str) -> Manifest:
        """Return a stored manifest. Raises NotFound, or Tampered when it does not hash to its id."""
        path = self._manifest_path(manifest_id)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"no manifest `{manifest_id}`", hint="was it registered in this workspace?") from None
        if "sha256:" + hashlib.sha256(data).hexdigest() != manifest_id:
            raise Tampered(f"manifest `{manifest_id}` does not hash to its id", hint=f"restore `{path}` from a copy")
        return Manifest(tuple(ManifestEntry(**entry) for entry in json.loads(data)["entries"]))

    def verify(self, manifest_id: str) -> list[str]:
        """Return one line per missing or altered file of a manifest; an empty list means every byte is as recorded."""
        problems = []
        for entry in self.manifest(manifest_id).entries:
            try:
                self._copy(entry, None)
            except (Tampered, NotFound) as error:
                problems.append(error.message)
        return problems

    def checkout(self, manifest_id: str, dest: Path) -> Path:
        """Copy a manifest's files into the new folder `dest`, read-only, hashing every byte as it is copied.

        What is verified is what lands: a later change to the store cannot reach the copy.

        Raises:
            Tampered: a file differs from the manifest; names it. Nothing is left at `dest`.
            NotFound: the manifest or an object is missing.
        """
        manifest = self.manifest(manifest_id)
        dest.mkdir(parents=True, mode=0o700)
        try:
            for entry in manifest.entries:
                target = dest / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                self._copy(entry, target)
        except (Tampered, NotFound):
            remove_tree(dest)
            raise
        return dest

    def _copy(self, entry: ManifestEntry, target: Path | None) -> None:
        """Hash one object with both digests, copying it to `target` unless that is None."""
        fast, standard, size = blake3(), hashlib.sha256(), 0
        source_path = self.path(entry.blake3)
        try:
            source = source_path.open("rb")
        except FileNotFoundError:
            raise NotFound(f"`{entry.path}` is missing from the store", hint=f"restore `{source_path}`") from None
        with source:
            sink = target.open("xb") if target else None
            try:
                while chunk := source.read(CHUNK):
                    fast.update(chunk)
                    standard.update(chunk)
                    size += len(chunk)
                    if sink:
                        sink.write(chunk)
            finally:
                if sink:
                    sink.close()
        if (
            size != entry.size
            or f"blake3:{fast.hexdigest()}" != entry.blake3
            or (f"sha256:{standard.hexdigest()}" != entry.sha256)
        ):
            raise Tampered(
                f"`{entry.path}` was altered: its bytes do not match the manifest",
                hint=f"restore `{source_path}` from a copy, or roll back to another release",
            )
        if target:
            target.chmod(entry.mode & 0o555)

    def _manifest_path(self, manifest_id: str) -> Path:
        algorithm, _, name = manifest_id.partition(":")
        if algorithm != "sha256" or len(name) != 64 or not name.isalnum():
            raise NotFound(f"`{manifest_id}` is not a manifest id", hint="manifests are named `sha256:<64 hex digits>`")
        return self.root / "manifests" / f"{name}.json"

    def _temporary(self) -> Path:
        return self.root / "tmp" / f"{os.getpid()}-{secrets.token_hex(8)}"

    def _publish(self, target: Path, chunks: Iterator[bytes]) -> None:
        temporary = self._temporary()
        try:
            with temporary.open("xb") as sink:
                for chunk in chunks:
                    sink.write(chunk)
                sink.flush()
                os.fsync(sink.fileno())
            self._link(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _link(self, temporary: Path, target: Path) -> None:
        """Give a finished temporary file its name; an object already there wins."""
        target.parent.mkdir(exist_ok=True)
        temporary.chmod(0o444)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return
        sync_folder(target.parent)


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


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, and a crash loses neither."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as sink:
        sink.write(data)
        sink.flush()
        os.fsync(sink.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    if not folder.is_dir():
        raise NotFound(f"no folder `{folder}`", hint="name the folder that holds the files")
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise SpecError(f"`{path}` is a link or special file", hint="an artifact holds plain files only")
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path
