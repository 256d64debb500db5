"""Places outside the workspace where checkpoints are kept: a folder, a git repository, an HTTP endpoint.

What lies there is what a cut or rewritten log is held against, so nothing is replaced there but `latest.txt`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.artifacts import replace_file, sync_folder
from registry.errors import HallmarkError, NotFound, SpecError
from registry.notes import MAX_NOTE

DEADLINE_S = 60.0
"""Seconds a git command or an HTTP request may take."""
LATEST = "latest.txt"

Notes = list[tuple[str, bytes]]
"""Pairs of the place a note was found at and its bytes."""
Check = Callable[[Notes], int]
"""Given what is published already, return the size of the newest of it, or raise."""


def read(source: str) -> Notes:
    """Return the notes at a file, a folder or git repository (every `*.txt`), or an `http(s)://` URL.

    Raises NotFound where there is none, HallmarkError with git's or the server's words.
    """
    if _is_http(source):
        return [(source, _request("GET", source))]
    if _is_git(source):
        with _clone(source, None) as (folder, _):
            found = _notes_in(folder, source)
    else:
        path = Path(source)
        found = _notes_in(path, source) if path.is_dir() else [(source, _read_file(path))]
    if not found:
        raise NotFound(f"`{source}` holds no checkpoint", hint="checkpoints are files named `*.txt`")
    return found


def write(target: str, size: int, note: str, scratch: Path, check: Check) -> str:
    """Put a note of a tree of `size` at a target, after `check` saw what is there; return where it is.

    A folder and a git repository get `<size>.txt` and, unless a newer one is published, `latest.txt`. An endpoint gets
    `PUT <target>/<size>`. What is published for this size already stays as it is.

    Raises HallmarkError with git's or the server's words, and what `check` raises.
    """
    if _is_http(target):
        place = f"{target.rstrip('/')}/{size}"
        _request("PUT", place, note.encode())
        return place
    if not _is_git(target):
        folder = Path(target)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _place(folder, size, note, check)
        except OSError as error:
            raise HallmarkError(f"cannot write to `{target}`: {error}", hint="name a folder you may write to") from None
        return str(folder / f"{size}.txt")
    with _clone(target, scratch) as (folder, branch):
        if _place(folder, size, note, check):
            _git(folder, "add", "--all")
            _git(folder, "commit", "--quiet", "--message", f"Checkpoint over {size} records")
            _git(folder, "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}")
    return f"{target} {size}.txt"


def _place(folder: Path, size: int, note: str, check: Check) -> bool:
    """Write the files of one note; return whether anything was written."""
    mine = folder / f"{size}.txt"
    published = [(str(path), _read_file(path)) for path in (folder / LATEST, mine) if path.exists()]
    newest = check(published)
    changed = False
    if not mine.exists():
        replace_file(mine, note.encode())
        changed = True
    if size > newest or not (folder / LATEST).exists():
        replace_file(folder / LATEST, note.encode())
        changed = True
    sync_folder(folder)
    return changed


def _notes_in(folder: Path, source: str) -> Notes:
    """Return every distinct note of a folder, `1.txt` before `10.txt`, `latest.txt` only where it is not among them."""
    names = sorted((path.name for path in folder.glob("*.txt") if path.is_file()), key=_natural)
    found: dict[bytes, str] = {}
    for name in names:
        found.setdefault(_read_file(folder / name), f"{source}/{name}")
    return [(place, data) for data, place in found.items()]


def _natural(name: str) -> tuple[int, int, str]:
    match = re.fullmatch(r"([0-9]+)\.txt", name)
    return (0, int(match[1]), name) if match else (1, 0, name)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_NOTE + 1)
    except FileNotFoundError:
        raise NotFound(f"no file `{path}`", hint="name a checkpoint's file, folder, URL or git repository") from None


# ---- HTTP ------------------------------------------------------------------------------------------------------


def _is_http(place: str) -> bool:
    return place.startswith(("http://", "https://")) and not _is_git(place)


def _request(method: str, url: str, data: bytes | None = None) -> bytes:
    import http.client
    import urllib.error
    import urllib.request

    headers = {"Content-Type": "text/plain; charset=utf-8"} if data is not None else {}
    try:
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 (`_is_http` saw the scheme)
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310
            body: bytes = answer.read(MAX_NOTE + 1)
            return body
    except urllib.error.HTTPError as error:
        raise HallmarkError(
            f"{method} {url} answered {error.code} {error.reason}", hint="see that the endpoint takes this request"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise HallmarkError(f"{method} {url} failed: {reason}", hint="see that the endpoint is up") from None


# ---- git -------------------------------------------------------------------------------------------------------


def _is_git(place: str) -> bool:
    return place.startswith("git+") or place.split("#")[0].endswith(".git")


@contextmanager
def _clone(target: str, scratch: Path | None) -> Iterator[tuple[Path, str]]:
    """Yield a shallow clone of a repository and its branch (`#branch`, else the default one); removed afterwards."""
    url, _, branch = target.removeprefix("git+").partition("#")
    if not url or url.startswith("-"):
        raise SpecError(f"`{target}` names no git repository", hint="e.g. git+https://host/logs.git#main")
    if "://" not in url and Path(url).exists():
        url = str(Path(url).resolve())
    folder = Path(tempfile.mkdtemp(prefix="clone-", dir=scratch))
    try:
        _git(folder, "init", "--quiet")
        _git(folder, "remote", "add", "origin", url)
        heads = _git(folder, "ls-remote", "--symref", "origin", "HEAD", f"refs/heads/{branch or 'main'}")
        if not branch:
            named = re.search(r"^ref: refs/heads/(\S+)\s+HEAD$", heads, re.MULTILINE)
            branch = named[1] if named else "main"
        if re.search(rf"\srefs/heads/{re.escape(branch)}(\s|$)", f" {heads}"):
            _git(folder, "fetch", "--quiet", "--depth", "1", "origin", f"refs/heads/{branch}")
            _git(folder, "checkout", "--quiet", "--detach", "FETCH_HEAD")
        yield folder, branch
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _git(folder: Path, *words: str) -> str:
    """Run git in a folder, free of the user's hooks and prompts; return what it printed. Raises HallmarkError."""
    options = {"user.name": "hallmark", "user.email": "hallmark@localhost", "commit.gpgsign": "false",
               "core.hooksPath": os.devnull, "core.autocrlf": "false", "core.symlinks": "false"}  # fmt: skip
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_DIR")}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "GIT_DIR": str(folder / ".git"), "GIT_WORK_TREE": str(folder)}
    try:
        done = subprocess.run(
            ["git", *settings, *words], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise HallmarkError("`git` is not installed", hint="install git, or publish to a folder") from None
    except subprocess.TimeoutExpired:
        raise HallmarkError(f"git {words[0]} took longer than {DEADLINE_S:g} s", hint="see that it answers") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-600:]
        raise HallmarkError(f"git {words[0]} failed: {said}", hint="see that the repository can be read and pushed to")
    return done.stdout
