"""Rollback drills: everything a rollback does except the move, timed, and recorded whether it would have worked."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from governance import roles
from governance.promotion import check_bytes, target_of
from registry import aliases
from registry.attestation import verify_certificate
from registry.errors import HallmarkError, NotFound, Refused
from registry.records import Asset, Candidate
from registry.workspace import Workspace

DRILLED = "rollback.drilled"


@dataclass(frozen=True, slots=True)
class Drill:
    """What a drill found: `problems` is empty where the rollback would have worked. `seconds` is how long it took."""

    alias: str
    certificate: str
    version: str
    checked: tuple[str, ...]
    problems: tuple[str, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 where a rollback would work, 1 where it would not."""
        return 1 if self.problems else 0

    def lines(self) -> list[str]:
        """Return the outcome as readable lines."""
        word = "would not work" if self.problems else "works"
        return [
            f"rollback of {self.alias} to certificate {self.certificate[7:19]} {word} ({self.seconds:.2f} s)",
            *[f"  {line}" for line in (*self.checked, *self.problems)],
        ]


def drill(ws: Workspace, alias: str, *, to: str | None = None, actor: str | None = None, reason: str = "") -> Drill:
    """Go through a rollback without moving the alias: certificate, bytes, engine; record `rollback.drilled`.

    Args:
        ws: the workspace.
        alias: which alias.
        to: version it would point at; default the release before the current one.
        actor: an operator.
        reason: kept with the outcome.

    Raises:
        Refused: the actor may not roll back.
        NotFound: there is nothing to go back to.
    """
    principal = roles.require(ws, "rollback", alias, actor)
    begun = time.perf_counter()
    if aliases.head(ws, alias) is None:
        raise NotFound(f"alias `{alias}` was never promoted", hint="promote a version to it first")
    target = target_of(ws, alias, to)
    candidate = ws.resolve(target.body["candidate"], "candidate")
    steps: list[tuple[str, Callable[[], None]]] = [
        ("certificate signed, approved, unexpired, unrevoked", lambda: _check_certificate(ws, target)),
        ("every byte is what was certified", lambda: check_bytes(ws, candidate)),
        ("an engine of the proven version can load the folder", lambda: _check_engine(ws, candidate)),
    ]
    checked, problems = [], []
    for line, step in steps:
        try:
            step()
        except HallmarkError as error:
            problems.append(error.message)
        else:
            checked.append(line)
    seconds = round(time.perf_counter() - begun, 3)
    found = Drill(alias, target.id, target.body["version"], tuple(checked), tuple(problems), seconds)
    body = {"certificate": found.certificate, "version": found.version, "works": not problems, "problems": problems,
            "seconds": seconds, "reason": reason}  # fmt: skip
    ws.record(DRILLED, alias, body, actor=principal.name)
    return found


def _check_certificate(ws: Workspace, target: Asset) -> None:
    verify_certificate(ws, target.id)


def _check_engine(ws: Workspace, candidate: Asset) -> None:
    """Raise what the start of an endpoint would: no such engine, another version, a folder it refuses, a bad bundle."""
    from policies import bundle
    from policies.engines import folder, launch

    record = ws.get(candidate.id, Candidate)
    installed = launch.ENGINES.load(record.engine).version()
    if record.engine_version not in (installed, installed.partition(",")[0].rpartition(" ")[2]):
        raise Refused(
            f"engine `{record.engine}` is version {installed}, the candidate was proven with {record.engine_version}",
            hint="install the version it was proven with",
        )
    with tempfile.TemporaryDirectory(prefix="drill-", dir=ws.work("drills")) as scratch:
        weights = _linked(ws, record.weights, Path(scratch) / "weights")
        folder.check(weights)
        if record.adapter != "none":
            folder.check_adapters({"adapter": _linked(ws, record.adapter, Path(scratch) / "adapter")}, weights)
        bundle.load(ws.artifacts.checkout(record.bundle, Path(scratch) / "bundle"))


def _linked(ws: Workspace, manifest: str, place: Path) -> Path:
    """Return a folder with a link for each file of a manifest: enough to look at, without copying gigabytes."""
    for entry in ws.artifacts.manifest(manifest).entries:
        target = place / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(ws.artifacts.path(entry.blake3))
    return place
