"""`verify`: what a target is, and whether every byte, signature and link of it is as recorded."""

from __future__ import annotations

from dataclasses import dataclass

from registry.attestation import verify_certificate, verify_release
from registry.errors import HallmarkError, NotFound, Refused, Tampered, UnknownName
from registry.journal import ingested_offset, read_order, read_segment
from registry.records import Candidate
from registry.workspace import Workspace


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


def verify(ws: Workspace, target: str) -> Verification:
    """Verify `log`, an alias, or a version, dataset, suite, bundle, candidate or certificate.

    Raises UnknownName when there is nothing of that name.
    """
    if target == "log":
        return verify_log(ws)
    if ws_alias(ws, target):
        return _release(ws, target.removeprefix("@"))
    for kind in ("version", "dataset", "suite", "bundle", "candidate", "certificate"):
        try:
            asset = ws.resolve(target, kind)
        except (UnknownName, NotFound):
            continue
        if kind == "certificate":
            return _certificate(ws, asset.id)
        parts = [asset.body["weights"], asset.body["bundle"]] if kind == "candidate" else [asset.body["manifest"]]
        problems = [problem for part in parts for problem in ws.artifacts.verify(part)]
        files = sum(len(ws.artifacts.manifest(part).entries) for part in parts)
        return Verification(f"{kind} {asset.id[7:19]}", (f"{files} files hash to their manifest",), tuple(problems))
    aliases = sorted(path.stem for path in (ws.root / "releases").glob("*.json"))
    raise UnknownName("target", target, ["log", *aliases])


def ws_alias(ws: Workspace, name: str) -> bool:
    """Say whether a name is an alias."""
    return (ws.root / "releases" / f"{name.removeprefix('@')}.json").is_file() if "/" not in name else False


def verify_log(ws: Workspace) -> Verification:
    """Walk every segment: checksums, chain, and that nothing ingested has gone."""
    count, problems = 0, []
    segments = ws.journal.segments()
    for path in segments:
        try:
            end = 0
            for frame in read_segment(path):
                count, end = count + 1, frame.end
            lost = ingested_offset(path) - end
            if lost > 0:
                problems.append(f"journal segment `{path.name}` lost its last {lost} ingested bytes")
        except Tampered as error:
            problems.append(error.message)
    ingested = {entry["segment"] for entry in read_order(ws.journal.root / "order.log")}
    problems += [f"journal segment `{name}.seg` is missing" for name in sorted(ingested - {p.stem for p in segments})]
    return Verification("log", (f"{count} records in {len(segments)} segments, chain unbroken",), tuple(problems))


def _release(ws: Workspace, alias: str) -> Verification:
    try:
        verified = verify_release(ws, alias)
    except (Refused, Tampered, NotFound) as error:
        return Verification(f"alias {alias}", (), (error.message,))
    found = _bytes(ws, verified.candidate)
    predicate = verified.statement["predicate"]
    lines = (
        f"certificate {verified.certificate.id[7:19]} signed, unrevoked, expires {verified.certificate.expires}",
        f"verdict {predicate['verdict']}, {len(predicate['approvals'])} approval(s)",
        f"{len(verified.statement['subject'])} files hash to what the certificate binds",
    )
    return Verification(f"alias {alias}", lines, tuple(found))


def _certificate(ws: Workspace, ident: str) -> Verification:
    try:
        _, statement, candidate = verify_certificate(ws, ident)
    except HallmarkError as error:
        return Verification(f"certificate {ident[7:19]}", (), (error.message,))
    lines = (f"signed, unrevoked, {len(statement['subject'])} files bound",)
    return Verification(f"certificate {ident[7:19]}", lines, tuple(_bytes(ws, candidate)))


def _bytes(ws: Workspace, candidate: Candidate) -> list[str]:
    return [f"{problem}" for part in (candidate.weights, candidate.bundle) for problem in ws.artifacts.verify(part)]
