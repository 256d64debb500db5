"""`verify`: what a target is, and whether every byte, signature and link of it is as recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry import seals
from registry.attestation import verify_certificate, verify_release
from registry.errors import HallmarkError, NotFound, SpecError, Tampered, UnknownName
from registry.records import (
    Adapter,
    Asset,
    Candidate,
    Certificate,
    Dataset,
    EvalRun,
    GateDecision,
    ModelVersion,
    PolicyBundle,
    Record,
    Suite,
)
from registry.workspace import Workspace

RECORDS: dict[str, type[Record]] = {
    "version": ModelVersion, "dataset": Dataset, "suite": Suite, "bundle": PolicyBundle, "adapter": Adapter,
    "candidate": Candidate, "certificate": Certificate,
}  # fmt: skip
"""What can be verified by name, in the order in which a name is tried."""
PARTS = ("weights", "adapter", "bundle")


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked and what is wrong; no problem means verified."""

    target: str
    checked: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 verified, 1 not."""
        return 1 if self.problems else 0

    def lines(self) -> list[str]:
        """Return the result as readable lines."""
        if self.problems:
            return [f"NOT VERIFIED  {self.target}", *[f"  {problem}" for problem in self.problems]]
        return [f"verified  {self.target}", *[f"  {item}" for item in self.checked]]


@dataclass(slots=True)
class _Findings:
    """What several checks found: each runs, whatever the ones before it found."""

    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def check(self, check: Callable[[], str | list[str]]) -> None:
        """Run one check: a sentence is what it verified, a list names what is wrong, and so does an error."""
        try:
            found = check()
        except HallmarkError as error:
            found = [error.message]
        if isinstance(found, str):
            self.checked.append(found)
        else:
            self.problems += [problem for problem in found if problem not in self.problems]

    def of(self, target: str) -> Verification:
        """Return the result."""
        return Verification(target, tuple(self.checked), tuple(self.problems))


def verify(ws: Workspace, target: str, *, certificate: str = "") -> Verification:
    """Verify `log`, an alias, an asset by name or id, or a folder: an evidence bundle, or weights.

    Args:
        ws: the workspace.
        target: what; an alias may be written `@alias`.
        certificate: for a folder of weights, what its files must hash to: a certificate, alias or version.

    Raises:
        UnknownName: there is nothing of that name.
        SpecError: a folder of weights without a certificate.
    """
    if target == "log":
        return verify_log(ws)
    folder = Path(target)
    if certificate:
        return verify_folder(ws, folder, certificate)
    if ws_alias(ws, target):
        return _release(ws, target.removeprefix("@"))
    for kind, record_type in RECORDS.items():
        try:
            asset = ws.resolve(target, kind)
        except (UnknownName, NotFound):
            continue
        return _certificate(ws, asset) if kind == "certificate" else _asset(ws, asset, record_type)
    if (folder / "index.json").is_file():
        return verify_bundle(folder, ws.settings.workspace_id)
    if folder.is_dir():
        raise SpecError(f"`{target}` is a folder", hint="say what its files must be: `--certificate ID`")
    aliases = sorted(path.stem for path in (ws.root / "releases").glob("*.json"))
    raise UnknownName("target", target, ["log", *aliases])


def ws_alias(ws: Workspace, name: str) -> bool:
    """Say whether a name is an alias."""
    return (ws.root / "releases" / f"{name.removeprefix('@')}.json").is_file() if "/" not in name else False


def verify_log(ws: Workspace) -> Verification:
    """Walk the whole journal against itself, its checkpoints and the projection."""
    from governance.log import verify_log as walk

    return walk(ws)


def verify_bundle(
    folder: Path,
    root: str,
    *,
    weights: Path | None = None,
    checkpoint: Path | None = None,
    at: datetime | None = None,
) -> Verification:
    """Verify an evidence bundle as the stand-alone verifier does, from the workspace id alone.

    Raises NotFound for what is no folder, OSError for what cannot be read.
    """
    from registry import verifier

    for place in (folder, weights):
        if place and not place.is_dir():
            raise NotFound(f"no folder `{place}`", hint="name the folder of the bundle, or of the weights")
    found = verifier.verify(folder, root, weights, checkpoint, at)
    return Verification(f"evidence bundle {folder}", tuple(found.checked), tuple(found.problems))


def verify_folder(ws: Workspace, folder: Path, ref: str) -> Verification:
    """Verify that a folder holds exactly the weights of a certificate that holds. Raises NotFound, UnknownName."""
    from governance.evidence import certificate_of
    from registry.verifier import Broken, compare, hashed

    if not folder.is_dir():
        raise NotFound(f"no folder `{folder}`", hint="name the folder that holds the weights")
    asset = (
        ws.resolve(ws.release(ref.removeprefix("@")).certificate, "certificate")
        if ws_alias(ws, ref)
        else (certificate_of(ws, ref))
    )
    found = _Findings()

    def same() -> str | list[str]:
        manifest = ws.artifacts.manifest(ws.resolve(asset.body["candidate"], "candidate").body["weights"])
        wanted = {entry.path: entry.sha256.removeprefix("sha256:") for entry in manifest.entries}
        try:
            compare(wanted, hashed(folder))
        except Broken as error:
            return list(error.args)
        return f"{len(wanted)} files hash to what the certificate binds"

    found.check(lambda: _holds(ws, asset.id))
    found.check(same)
    return found.of(f"folder {folder} against certificate {asset.id[7:19]}")


def _release(ws: Workspace, alias: str) -> Verification:
    found = _Findings()

    def pointed() -> str:
        verify_release(ws, alias)
        return f"alias `{alias}` points where the journal says"

    found.check(pointed)
    try:
        asset = ws.resolve(ws.release(alias).certificate, "certificate")
    except HallmarkError as error:
        message = error.message
        found.check(lambda: [message])
    else:
        _proof(ws, asset, found)
    return found.of(f"alias {alias}")


def _certificate(ws: Workspace, asset: Asset) -> Verification:
    found = _Findings()
    _proof(ws, asset, found)
    return found.of(f"certificate {asset.id[7:19]}")


def _proof(ws: Workspace, asset: Asset, found: _Findings) -> None:
    """Check everything a certificate rests on: itself, its records in the journal, results, suite, files, signature."""
    from governance import weights_signing

    found.check(lambda: _holds(ws, asset.id))
    candidate = ws.resolve(asset.body["candidate"], "candidate")
    decision = ws.resolve(asset.body["decision"], "decision")
    found.check(lambda: _sealed(ws, decision.id, GateDecision))
    for run in decision.body["eval_runs"]:
        found.check(lambda run=run: _sealed(ws, run, EvalRun))  # type: ignore[misc]
        found.check(lambda run=run: _results(ws, run))  # type: ignore[misc]
    found.check(lambda: _suite(ws, decision.body["suite"]))
    found.check(lambda: _in_journal(ws, asset))
    found.check(lambda: _bytes(ws, [candidate.body.get(part, "none") for part in PARTS]))

    def model_signature() -> str:
        signed = weights_signing.newest(ws, asset.id)
        if signed is None:
            return "weights carry no model signature"
        weights_signing.check(ws, signed)
        return "model signature of the weights verifies"

    found.check(model_signature)


def _holds(ws: Workspace, ident: str) -> str:
    certificate, statement, _ = verify_certificate(ws, ident)
    predicate = statement["predicate"]
    return (
        f"certificate {ident[7:19]} signed, unrevoked, expires {certificate.expires}; verdict {predicate['verdict']},"
        f" {len(predicate['approvals'])} approval(s), {len(statement['subject'])} files bound"
    )


def _sealed(ws: Workspace, ident: str, record_type: type[Record]) -> str:
    ws.get(ident, record_type)
    return f"{record_type.KIND} {ident[7:19]} sealed by `{seals.registration(ws, ident).principal.name}`"


def _results(ws: Workspace, run: str) -> str:
    results = ws.get(run, EvalRun).results
    try:
        ws.artifacts.read_bytes(results)
    except HallmarkError as error:
        raise type(error)(f"result rows of eval_run {run[7:19]}: {error.message}", hint=error.hint) from None
    return f"result rows of eval_run {run[7:19]} hash to their name"


def _suite(ws: Workspace, ident: str) -> str | list[str]:
    try:
        suite = ws.get(ident, Suite)
    except UnknownName:
        return f"suite {ident[7:19]} is not registered here"
    problems = ws.artifacts.verify(suite.manifest)
    return [f"suite `{suite.name}`: {problem}" for problem in problems] or f"suite `{suite.name}` as registered"


def _in_journal(ws: Workspace, certificate: Asset) -> str | list[str]:
    """The records lie in the segments as the projection read them."""
    from governance.evidence import frames, records_of

    rows = ws.store.query(
        "SELECT seq, kind, subject, hash FROM event WHERE list_contains(?, seq)", [records_of(ws, certificate)]
    )
    wanted: dict[int, dict[str, Any]] = {row["seq"]: row for row in rows}
    for seq, payload in enumerate(frames(ws), 1):
        if seq in wanted and hashlib.sha256(payload).hexdigest() == wanted[seq]["hash"]:
            del wanted[seq]
    if wanted:
        return [
            f"record {seq} of the journal (`{row['kind']}` of `{str(row['subject'])[:19]}`) is not what it was"
            for seq, row in sorted(wanted.items())
        ]
    return f"{len(rows)} records lie in the journal as they were read"


def _asset(ws: Workspace, asset: Asset, record_type: type[Record]) -> Verification:
    found = _Findings()

    def content() -> str:
        ws.get(asset.id, record_type)
        return f"{asset.kind} hashes to its id"

    found.check(content)
    parts = PARTS if asset.kind == "candidate" else ("manifest",)
    found.check(lambda: _bytes(ws, [asset.body.get(part, "none") for part in parts]))
    return found.of(f"{asset.kind} {asset.id[7:19]}")


def _bytes(ws: Workspace, manifests: list[str]) -> str | list[str]:
    present = [manifest for manifest in manifests if manifest != "none"]
    problems = []
    for manifest in present:
        try:
            problems += ws.artifacts.verify(manifest)
        except (NotFound, Tampered) as error:
            problems.append(error.message)
    if problems:
        return problems
    return f"{sum(len(ws.artifacts.manifest(part).entries) for part in present)} files hash to their manifest"


def moment(text: str) -> datetime:
    """Return a time given as ISO 8601, UTC where it names no zone. Raises SpecError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise SpecError(f"`{text}` is no time", hint="e.g. 2026-12-31T12:00:00+00:00") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
