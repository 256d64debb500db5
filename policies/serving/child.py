"""An endpoint in a child process, for an evaluation under a permit: started, awaited, stopped by its parent.

The child is told its callers on standard input, as hashes; the key itself never leaves the parent. It ends when that
input closes, so that it cannot outlive a killed parent.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policies.access.callers import create_key
from registry import errors
from registry.errors import EngineFailure, HallmarkError
from registry.protocols import Progress, silent
from registry.workspace import Workspace

START_SECONDS = 1200.0
STOP_SECONDS = 60.0
KINDS = ("Tampered", "Refused", "Locked", "SpecError", "NotFound", "EngineFailure", "NotYet")


class Endpoint:
    """A running guarded endpoint (registry.protocols.GuardedEndpoint). Use `start`, then `close`, or a `with` block."""

    def __init__(self, process: subprocess.Popen[str], url: str, api_key: str, permit: str) -> None:
        self._process = process
        self.base_url = f"{url}/v1"
        self.api_key = api_key
        self.permit = permit
        self.headers: Mapping[str, str] = {}

    @classmethod
    def start(
        cls, ws: Workspace, *, permit: str, engine: str = "auto", caller: str = "evaluator",
        groups: Sequence[str] = ("evaluators",), progress: Progress = silent, timeout_s: float = START_SECONDS,
    ) -> Endpoint:  # fmt: skip
        """Start an endpoint for the candidate of a permit and wait until it answers.

        `caller` and `groups` are those of a temporary key: an evaluation sees the policies that such a caller meets.

        Raises:
            HallmarkError: as `serve` raises in the child; EngineFailure when the child ended without saying why.
        """
        key, key_id, key_hash = create_key()
        row = {"name": caller, "groups": list(groups), "attributes": {}, "key_id": key_id, "key_hash": key_hash}
        with tempfile.TemporaryDirectory(prefix="hallmark-") as folder:
            report, logfile = Path(folder) / "report.json", Path(folder) / "log"
            command = [sys.executable, "-P", "-m", "policies.serve", "--workspace", str(ws.root), "--permit", permit,
                       "--engine", engine, "--report", str(report)]  # fmt: skip
            with logfile.open("w") as out:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=out, stderr=out, text=True, env=_environment(), cwd=folder
                )
            try:
                _tell(process, {"callers": [row]})
                url = _await_report(process, report, logfile, timeout_s, progress)
            except BaseException:
                _end(process)
                raise
        return cls(process, url, key, permit)

    def close(self) -> None:
        """Let running requests end, and wait until the child has written its decisions and is gone."""
        _end(self._process)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the child: `python -P -m policies.serve --workspace W (--permit P | --alias A) --report FILE`."""
    from policies.serve import run
    from policies.serving.plan import Plan, Upkeep

    parser = argparse.ArgumentParser(prog="policies.serve")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--alias")
    parser.add_argument("--permit")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--report", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    told = json.loads(sys.stdin.readline() or "{}")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    plan = Plan(
        chosen.alias, chosen.permit, chosen.engine, chosen.host, chosen.port,
        "strict" if chosen.strict else "group", tuple(told.get("callers", ())), told.get("engine_options", {}),
        upkeep=Upkeep(**told.get("upkeep", {})),
    )  # fmt: skip
    ws = None
    try:
        ws = Workspace.open(chosen.workspace)
        run(ws, plan, _reporter(chosen.report), lambda url: _write(chosen.report, {"url": url}))
    except HallmarkError as error:
        kind = next((name for name in KINDS if isinstance(error, getattr(errors, name))), "EngineFailure")
        _write(chosen.report, {"error": kind, "message": error.message, "hint": error.hint})
        sys.exit(error.exit_code)
    finally:
        if ws is not None:
            ws.close()


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _reporter(report: Path) -> Progress:
    def tell(stage: str, done: float, total: float | None = None, note: str = "") -> None:
        _write(report, {"stage": stage, "done": done, "total": total, "note": note})

    return tell


def _write(report: Path, value: dict[str, Any]) -> None:
    """Replace the report in one step; a parent that is gone does not read it any more."""
    if report.parent.is_dir():
        fresh = report.with_suffix(".new")
        fresh.write_text(json.dumps(value))
        fresh.replace(report)


def _tell(process: subprocess.Popen[str], value: dict[str, Any]) -> None:
    if process.stdin is not None:
        process.stdin.write(json.dumps(value) + "\n")
        process.stdin.flush()


def _await_report(
    process: subprocess.Popen[str], report: Path, logfile: Path, timeout_s: float, progress: Progress
) -> str:
    """Return the URL the child reports; pass its progress on, raise what it raises."""
    end = time.monotonic() + timeout_s
    last: dict[str, Any] = {}
    while time.monotonic() < end:
        gone = process.poll() is not None
        said = json.loads(report.read_text()) if report.exists() else {}
        if "url" in said:
            return str(said["url"])
        if "error" in said:
            raise getattr(errors, said["error"])(said["message"], hint=said["hint"])
        if gone:
            raise EngineFailure("the endpoint ended before it was ready", hint=_tail(logfile))
        if said and said != last:
            last = said
            progress(said["stage"], said["done"], said["total"], said["note"])
        time.sleep(0.02)
    raise EngineFailure(f"the endpoint was not ready within {timeout_s:g} s", hint=_tail(logfile))


def _tail(logfile: Path) -> str:
    lines = logfile.read_text(errors="replace").strip().splitlines()
    return "its last words: " + " | ".join(lines[-3:]) if lines else "it said nothing"


def _end(process: subprocess.Popen[str]) -> None:
    """Ask the child to stop, then make it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(paths)}
