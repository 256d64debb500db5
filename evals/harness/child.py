"""Start a harness in a child process of its own: heavy libraries, crashes and telemetry stay out of this one.

The child reports JSON lines on its standard output; when this process dies, its standard input closes and it ends.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import evals
from registry.errors import EngineFailure, HallmarkError, NotFound, SpecError
from registry.protocols import Progress

log = logging.getLogger(__name__)

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONIOENCODING": "utf-8",
}
"""What every harness child runs with: no hub, no telemetry, no bars of its own.

inspect-ai reports somewhere only if a variable names a hook for it; all its variables are dropped below.
"""

_DROPPED = ("INSPECT_", "OPENAI_", "ANTHROPIC_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "HTTPS_PROXY",
            "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "PYTHONPATH", "PYTHONSTARTUP")  # fmt: skip

_ERRORS: dict[str, type[HallmarkError]] = {"SpecError": SpecError, "NotFound": NotFound}
"""Errors of a child that the user can act on in the same way here; any other is an EngineFailure."""


def environment(scratch: Path) -> dict[str, str]:
    """Return a child's environment: ours without foreign keys and proxies, offline, caches inside `scratch`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED)}
    places = {
        "HF_HOME": str(scratch / "hf"),
        "XDG_CACHE_HOME": str(scratch / "cache"),
        "XDG_DATA_HOME": str(scratch / "data"),
        "PYTHONPATH": str(Path(evals.__file__).parents[1]),
        "NO_PROXY": "*",
    }
    return {**kept, **OFFLINE, **places}


def run_child(
    module: str, request: Mapping[str, Any], *, scratch: Path, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Run `python -P -m module` on a request; yield each message it sends other than progress.

    Args:
        module: the child's module; it reads the request with `evals.children.link.open_link`.
        request: plain JSON data; it may hold a key, so it travels by a private file, not by the command line.
        scratch: an existing folder; the child's caches and logs go there.
        progress: told what the child reports.

    Raises:
        EngineFailure: the child crashed, was killed, or ended without saying that it was done; shows its last words.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix="child-") as name:
        folder = Path(name)
        file = folder / "request.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(request), encoding="utf-8")
        with (folder / "stderr").open("w+b") as errors:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, env=environment(scratch), cwd=folder,
            )  # fmt: skip
            try:
                yield from _messages(child, progress)
                code = child.wait()
            finally:
                _end(child)
            if code:
                raise _failure(module, f"ended with status {code}", errors)


def _messages(child: subprocess.Popen[bytes], progress: Progress) -> Iterator[dict[str, Any]]:
    assert child.stdout is not None  # noqa: S101 - opened as a pipe above
    finished = False
    for line in child.stdout:
        if not line.endswith(b"\n"):
            break  # killed in the middle of a message
        message = json.loads(line)
        if message["type"] == "progress":
            progress(message["stage"], message["done"], message["total"], message["note"])
        elif message["type"] == "failure":
            raise _ERRORS.get(message["error"], EngineFailure)(message["message"], hint=message["hint"])
        elif message["type"] == "finished":
            finished = True
        else:
            yield message
    if not finished and child.wait() == 0:
        raise EngineFailure("a harness child ended without finishing", hint="run the evaluation again")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Close the pipes; a child still running then ends by itself, or is killed after a second."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
    try:
        child.wait(timeout=1)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _failure(module: str, what: str, errors: Any) -> EngineFailure:
    errors.seek(0)
    tail = errors.read().decode("utf-8", "replace").strip().splitlines()
    log.error("%s %s:\n%s", module, what, "\n".join(tail[-40:]))
    last = f": {tail[-1].strip()[:300]}" if tail else ""
    return EngineFailure(f"`{module}` {what}{last}", hint="the log holds its last lines; nothing was recorded")
