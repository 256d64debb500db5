"""The platform policy of a workspace: installed under the root key, changed by a majority of the operators' signatures.

An activation in the journal carries its voters' envelopes, and they are counted again whenever the policy is read: one
that was written into the journal by hand opens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import orjson

from governance.permissions import examine
from registry import principals
from registry.access import CedarPolicies
from registry.artifacts import replace_file
from registry.errors import HallmarkError, NotFound, Refused, SpecError, Tampered
from registry.identity import Principal, sign_envelope
from registry.records import canonical, sha256

if TYPE_CHECKING:
    from registry.workspace import Workspace

FILE = "platform.cedar"
SCHEMA = "platform.cedarschema"
VOTE_TYPE = "application/vnd.hallmark.platform-vote+json"
ACTIVATED, VOTED = "platform.activated", "platform.voted"


@dataclass(frozen=True, slots=True)
class Activation:
    """What governs: `digest` of the text, `blob` that keeps it (empty for release 0.1), `previous` digest.

    `turn` counts the activations before this one; `seq` is its place in the journal, `voters` who signed it.
    """

    digest: str = ""
    previous: str = ""
    blob: str = ""
    turn: int = -1
    seq: int = 0
    voters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Vote:
    """The state of a change after a vote: who signed so far, how many must, and whether it governs now."""

    digest: str
    voters: tuple[str, ...]
    needed: int
    activated: bool


def shipped(name: str) -> str:
    """Return the text of a file that ships beside this module."""
    return files("governance").joinpath(name).read_text(encoding="utf-8")


def parse(text: str) -> CedarPolicies:
    """Return a platform policy under the shipped schema; a text is parsed once in a process. Raises SpecError."""
    return _parsed(text)


@lru_cache(maxsize=8)
def _parsed(text: str) -> CedarPolicies:
    return CedarPolicies(text, shipped(SCHEMA))


def install(ws: Workspace, *, actor: str) -> None:
    """Write the shipped policy into a new workspace and activate it under the root operator's signature.

    Does nothing where a policy governs already. Raises SpecError where the shipped policy is broken.
    """
    if standing(ws)[1].digest:
        return
    text = shipped(FILE)
    found = examine(parse(text), None)
    if found.refusals:
        raise SpecError(
            f"the shipped platform policy is broken: {found.refusals[0]}", hint="reinstall hallmark-platform"
        )
    claim = _claim(ws, sha256(text.encode()), Activation(), "installation")
    blob = ws.artifacts.add_bytes(text.encode(), "text/plain")
    envelope = sign_envelope(VOTE_TYPE, canonical(claim), ws.keys.load(actor))
    replace_file(ws.root / FILE, text.encode())
    body = {"digest": claim["digest"], "previous": "", "blob": blob, "envelopes": [envelope]}
    ws.record(ACTIVATED, FILE, body, actor=actor)


def standing(ws: Workspace) -> tuple[dict[str, Principal], Activation]:
    """Return the principals and the activation that governs, from one query of the journal.

    Raises Refused or Tampered where an entry is not signed by those who may.
    """
    kinds = (*principals.KINDS, ACTIVATED)
    rows = ws.store.query(f"SELECT * FROM event WHERE kind IN {kinds} ORDER BY seq")  # noqa: S608 (our own names)
    known = principals.fold(ws, [row for row in rows if row["kind"] != ACTIVATED])
    active = Activation()
    for row in rows:
        if row["kind"] == ACTIVATED:
            try:
                active = _follow(ws, active, row, known)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise Tampered(f"event {row['seq']} (`{ACTIVATED}`) is malformed: {error!r}", hint=RESTORE) from None
            except HallmarkError as error:
                name = f"event {row['seq']} (`{ACTIVATED}`)"
                raise Tampered(f"{name} was not voted for: {error.message}", hint=RESTORE) from None
    return known, active


RESTORE = "restore the journal from a copy; `hallmark platform change` is how a policy is activated"


def platform_policies(ws: Workspace) -> CedarPolicies:
    """Return the workspace's platform policy.

    Raises Tampered when the file is not the one that was activated, or was not activated by those who may.
    """
    return read(ws, standing(ws)[1])


def read(ws: Workspace, active: Activation) -> CedarPolicies:
    """Return the policy of an activation. Raises Tampered when `platform.cedar` is another.

    A change killed between its activation and the writing of the file is finished here.
    """
    path = ws.root / FILE
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    digest = sha256(text.encode())
    if active.digest and digest == active.digest:
        return parse(text)
    if active.blob and digest == active.previous:
        data = ws.artifacts.read_bytes(active.blob)
        if sha256(data) == active.digest:
            replace_file(path, data)
            return parse(data.decode())
    raise Tampered(f"`{path}` is not the platform policy that was activated", hint="restore it from a copy")


def vote(ws: Workspace, text: str, *, reason: str, actor: str, passphrase: bytes | None = None) -> Vote:
    """Sign for a new platform policy; activate it once a majority of the operators has signed for the same text.

    Raises:
        SpecError: it is not Cedar.
        Refused: it governs already, breaks a rule no policy may break, or `actor` holds no operator's key.
    """
    known, active = standing(ws)
    digest = sha256(text.encode())
    if digest == active.digest:
        raise Refused("this policy governs already", hint="`hallmark platform show` prints it")
    found = examine(parse(text), None, known.values())
    if found.refusals:
        raise Refused(f"no platform policy may do this: {found.refusals[0]}", hint="`hallmark platform check FILE`")
    signer = ws.keys.load(actor, passphrase)
    if signer.keyid not in principals.active_operators(known.values()):
        raise Refused(f"`{actor}` holds no operator's key", hint="platform policies are changed by operators")
    blob = ws.artifacts.add_bytes(text.encode(), "text/plain")
    claim = _claim(ws, digest, active, reason)
    envelope = sign_envelope(VOTE_TYPE, canonical(claim), signer)
    body = {"digest": digest, "previous": active.digest, "turn": claim["turn"], "reason": reason, "blob": blob,
            "envelope": envelope}  # fmt: skip
    with ws.store.lock():
        if standing(ws)[1] != active:
            raise Refused("another policy was activated meanwhile", hint="look at it, then vote again")
        ws.record(VOTED, digest, body, actor=actor)
        return _count(ws, digest, blob, active, actor)


def pending(ws: Workspace) -> list[Vote]:
    """Return the changes that were voted for since the last activation and do not govern yet."""
    known, active = standing(ws)
    digests = {row["subject"]: None for row in ws.store.query(f"SELECT subject FROM event WHERE kind = '{VOTED}'")}  # noqa: S608
    found = [(digest, _votes(ws, digest, active, known)) for digest in digests]
    return [Vote(digest, tuple(votes), quorum(known), False) for digest, votes in found if votes]


def quorum(known: Mapping[str, Principal], seq: int | None = None) -> int:
    """Return how many operators must sign: more than half of those whose keys count (now, or at place `seq`)."""
    return len({p.name for p in principals.active_operators(known.values(), seq).values()}) // 2 + 1


def _count(ws: Workspace, digest: str, blob: str, active: Activation, actor: str) -> Vote:
    known = ws.principals()
    votes, needed = _votes(ws, digest, active, known), quorum(known)
    if len(votes) < needed:
        return Vote(digest, tuple(votes), needed, False)
    body = {"digest": digest, "previous": active.digest, "blob": blob, "envelopes": list(votes.values())}
    ws.record(ACTIVATED, FILE, body, actor=actor)
    now = standing(ws)[1]
    read(ws, now)
    return Vote(digest, now.voters, needed, True)


def _votes(ws: Workspace, digest: str, active: Activation, known: Mapping[str, Principal]) -> dict[str, dict[str, Any]]:
    """Return the envelopes that count for a text after an activation, by operator; what does not count is passed by."""
    rows = ws.store.query("SELECT * FROM event WHERE kind = ? AND subject = ? ORDER BY seq", [VOTED, digest])
    signers = principals.active_operators(known.values())
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        try:
            envelope = orjson.loads(row["body"])["envelope"]
            voter = _voter(ws, envelope, digest, active, signers)
        except (HallmarkError, AttributeError, KeyError, TypeError, ValueError):
            continue
        found.setdefault(voter, envelope)
    return found


def _follow(ws: Workspace, active: Activation, row: dict[str, Any], known: Mapping[str, Principal]) -> Activation:
    """Return the activation that a row of the journal makes, after the one before it. Raises Refused, Tampered."""
    body = orjson.loads(row["body"])
    turn, seq = active.turn + 1, row["seq"]
    if "envelopes" not in body and principals.legacy(ws, row):
        return Activation(body["digest"], active.digest, "", turn, seq, (row["actor"],))
    signers = principals.active_operators(known.values(), seq)
    needed = quorum(known, seq)
    if turn == 0:
        signers = {keyid: p for keyid, p in signers.items() if keyid == ws.settings.workspace_id}
        needed = 1
    voters = {_voter(ws, envelope, body["digest"], active, signers) for envelope in body["envelopes"]}
    if len(voters) < needed:
        raise Refused(f"{len(voters)} of {needed} operators signed", hint=RESTORE)
    return Activation(body["digest"], active.digest, body["blob"], turn, seq, tuple(sorted(voters)))


def _voter(
    ws: Workspace, envelope: dict[str, Any], digest: str, active: Activation, signers: Mapping[str, Principal]
) -> str:
    """Return who signed an envelope for a text as the successor of an activation. Raises Refused."""
    claim, keyid = principals.opened(envelope, VOTE_TYPE, {key: p.public for key, p in signers.items()})
    expected = _claim(ws, digest, active, claim["reason"], claim["at"])
    if claim != expected:
        raise Refused("a vote is for another text or another moment", hint=RESTORE)
    return signers[keyid].name


def _claim(ws: Workspace, digest: str, active: Activation, reason: str, at: str = "") -> dict[str, Any]:
    now = at or datetime.now(UTC).isoformat(timespec="seconds")
    return {"digest": digest, "previous": active.digest, "turn": active.turn + 1, "reason": reason,
            "workspace": ws.settings.workspace_id, "at": now}  # fmt: skip


def text_of(ws: Workspace, digest: str) -> str:
    """Return the text of a policy that was activated or voted for. Raises NotFound."""
    rows = ws.store.query("SELECT body FROM event WHERE kind IN (?, ?) ORDER BY seq DESC", [ACTIVATED, VOTED])
    for body in (orjson.loads(row["body"]) for row in rows):
        if body.get("digest") == digest and body.get("blob"):
            data = ws.artifacts.read_bytes(body["blob"])
            if sha256(data) == digest:
                return data.decode()
    raise NotFound(f"no platform policy `{digest}`", hint="`hallmark platform show` prints the one that governs")
