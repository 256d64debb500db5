"""A harness child that stays alive over several requests, so that a model is loaded once for all looks."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from evals.harness.child import environment
from registry.errors import EngineFailure, HallmarkError, NotFound, SpecError
from registry.protocols import Progress

log = logging.getLogger(__name__)

_ERRORS: dict[str, type[HallmarkError]] = {"SpecError": SpecError, "NotFound": NotFound}
"""Errors of a child that the user can act on in the same way here; any other is an EngineFailure."""


class Conversation:
    """One child that answers request after request; it starts with the first.

    Args:
        module: the child's module; it serves with `evals.children.link.serve_session`.
        opening: what the child is told when it starts, plain JSON data; it may hold a key, so it travels by a private
            file.
        scratch: an existing folder; the child's caches and logs go there.
        progress: told what the child reports.
    """

    def __init__(self, module: str, opening: Mapping[str, Any], *, scratch: Path, progress: Progress) -> None:
        self._module, self._opening, self._progress = module, opening, progress
        self._scratch = scratch
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def ask(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Send one request and yield each message it brings other than progress. The child is ended on any error.

        Raises:
            SpecError, NotFound: as the child says; it is alive and may be asked again.
            EngineFailure: it failed, crashed or was killed; the next request starts a new one.
        """
        opened = self._child is not None
        try:
            if not opened:
                self._start()
                yield from self._messages()
                opened = True
            self._write(request)
            yield from self._messages()
        except BaseException as error:
            if not opened or not isinstance(error, SpecError | NotFound):
                self.close()  # it is dead, or in the middle of what nobody waits for
            raise

    def close(self) -> None:
        """End the child: it leaves when its input closes, or is killed after two seconds."""
        child, self._child = self._child, None
        if child is not None:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    _close(pipe)
            try:
                child.wait(timeout=2)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self._errors is not None:
            self._errors.close()
            self._errors = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=self._scratch, prefix="child-")
        folder = Path(self._folder.name)
        file = folder / "request.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(self._opening), encoding="utf-8")
        self._errors = (folder / "stderr").open("w+b")
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", self._module, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, env=environment(self._scratch), cwd=folder,
        )  # fmt: skip

    def _write(self, request: Mapping[str, Any]) -> None:
        assert self._child is not None  # noqa: S101 - started by `ask`
        assert self._child.stdin is not None  # noqa: S101 - opened as a pipe
        try:
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def _messages(self) -> Iterator[dict[str, Any]]:
        """Yield messages until the request is answered."""
        assert self._child is not None  # noqa: S101 - started by `ask`
        assert self._child.stdout is not None  # noqa: S101 - opened as a pipe
        for line in self._child.stdout:
            if not line.endswith(b"\n"):
                break  # killed in the middle of a message
            message = json.loads(line)
            match message["type"]:
                case "progress":
                    self._progress(message["stage"], message["done"], message["total"], message["note"])
                case "failure":
                    raise _ERRORS.get(message["error"], EngineFailure)(message["message"], hint=message["hint"])
                case "finished":
                    return
                case _:
                    yield message
        raise self._failure()

    def _failure(self) -> EngineFailure:
        assert self._child is not None  # noqa: S101 - started by `ask`
        assert self._errors is not None  # noqa: S101 - opened with the child
        code = self._child.wait()
        self._errors.seek(0)
        tail = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        log.error("%s ended with status %s:\n%s", self._module, code, "\n".join(tail[-40:]))
        last = f": {tail[-1].strip()[:300]}" if tail else ""
        return EngineFailure(
            f"`{self._module}` ended with status {code}{last}", hint="answers so far are kept; run the evaluation again"
        )


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return  # a request that was never read; the child is gone
