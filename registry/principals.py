"""Principals: whom the journal knows by key, each vouched for by a chain of operators' signatures from the root key.

Registration, rotation and revocation each carry a DSSE envelope by an operator whose key counted at that place of the
journal. One that does not stops everything: nobody can tell any more who may sign what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from registry.errors import HallmarkError, Refused, Tampered, UnknownName
from registry.identity import Principal, keyid_of, open_envelope, sign_envelope
from registry.records import canonical
from registry.signers import Signer, algorithm_of

if TYPE_CHECKING:
    from registry.workspace import Workspace

PRINCIPAL_TYPE = "application/vnd.hallmark.principal+json"
ROTATION_TYPE = "application/vnd.hallmark.rotation+json"
REVOCATION_TYPE = "application/vnd.hallmark.revocation+json"
KINDS = ("principal.created", "principal.rotated", "principal.revoked")


def principals(ws: Workspace) -> dict[str, Principal]:
    """Return principals by key id, in the order of registration; retired and revoked keys are among them.

    Raises:
        Refused: an entry of the journal is not signed by an operator, or differs from what was signed.
        Tampered: an entry repeats, or rests on a key that is not there.
    """
    return fold(ws, ws.store.query(f"SELECT * FROM event WHERE kind IN {KINDS} ORDER BY seq"))  # noqa: S608 (our own)


def fold(ws: Workspace, rows: Iterable[dict[str, Any]]) -> dict[str, Principal]:
    """Return the principals that rows of the table `event` make: of KINDS, in order. Raises as `principals`."""
    entries = _Fold(ws)
    for row in rows:
        try:
            entries.add(row)
        except HallmarkError as error:
            name = f"event {row['seq']} (`{row['kind']}` of `{str(row['subject'])[:64]}`)"
            kind = Tampered if isinstance(error, Tampered) else Refused
            raise kind(f"{name}: {error.message}", hint=error.hint) from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            name = f"event {row['seq']} (`{row['kind']}`)"
            raise Tampered(f"{name} is malformed: {error!r}", hint="restore the journal from a copy") from None
    ws.keys.registered = {p.name: p.public for p in entries.found.values() if p.active}
    return entries.found


def principal(ws: Workspace, name: str) -> Principal:
    """Return who a name is now. Raises UnknownName, or Refused when its key was revoked."""
    return pick(principals(ws), name)


def pick(known: Mapping[str, Principal], name: str) -> Principal:
    """Return who a name is now, among principals by key id. Raises as `principal` does."""
    by_name = {p.name: p for p in known.values()}
    if name not in by_name:
        raise UnknownName("principal", name, by_name, hint=f"run `hallmark key create {name} --role ROLE`")
    if by_name[name].revoked:
        raise Refused(f"the key of `{name}` was revoked", hint="act as another principal with `--as`")
    return by_name[name]


def active_operators(known: Iterable[Principal], seq: int | None = None) -> dict[str, Principal]:
    """Return the operators, by key id, whose keys may sign now, or counted at place `seq` of the journal."""
    return {p.keyid: p for p in known if p.role == "operator" and (p.active if seq is None else p.counts_at(seq))}


def add(ws: Workspace, name: str, role: str, public: str, *, signer: str, passphrase: bytes | None = None) -> Principal:
    """Register a public key (hex) in a role, vouched for by an operator's signature.

    Raises:
        Refused: the name or the key is taken, or `signer` is no operator.
        SpecError: `public` is no public key.
    """
    algorithm_of(public)
    known = principals(ws)
    _check_free(known, name, public)
    claim = {"name": name, "role": role, "public": public, "workspace": ws.settings.workspace_id}
    envelope = sign_envelope(PRINCIPAL_TYPE, canonical(claim), _vouching(ws, known, signer, passphrase))
    body = {"role": role, "keyid": keyid_of(public), "public": public, "envelope": envelope}
    with ws.store.lock():  # the name may have been taken while the signature was made
        _check_free(principals(ws), name, public)
        ws.record("principal.created", name, body, actor=signer)
    return Principal(name, role, keyid_of(public), public)


def rotate(ws: Workspace, name: str, public: str, *, signer: str, passphrase: bytes | None = None) -> Principal:
    """Give a principal a new key (hex); what the old one signed before this keeps counting, nothing after it does.

    Raises:
        UnknownName: there is no such principal.
        Refused: its key was revoked or changed meanwhile, the new key is known already, or `signer` is no operator.
    """
    known = principals(ws)
    old = pick(known, name)
    _check_free(known, "", public)
    claim = {"name": name, "role": old.role, "public": public, "replaces": old.keyid,
             "workspace": ws.settings.workspace_id, "at": _now()}  # fmt: skip
    envelope = sign_envelope(ROTATION_TYPE, canonical(claim), _vouching(ws, known, signer, passphrase))
    body = {"role": old.role, "keyid": keyid_of(public), "public": public, "replaces": old.keyid, "envelope": envelope}
    with ws.store.lock():
        known = principals(ws)
        _check_free(known, "", public)
        if pick(known, name).keyid != old.keyid:
            raise Refused(f"`{name}` was given another key meanwhile", hint="see `hallmark key list`")
        ws.record("principal.rotated", name, body, actor=signer)
    return principal(ws, name)


def revoke(ws: Workspace, name: str, *, reason: str, signer: str, passphrase: bytes | None = None) -> None:
    """Revoke a principal: none of its later signatures counts.

    Raises:
        UnknownName: there is no such principal.
        Refused: it is the root key, or the last operator; it was revoked already; or `signer` is no operator.
    """
    known = principals(ws)
    old = pick(known, name)
    if old.keyid == ws.settings.workspace_id:
        raise Refused("the root operator's key cannot be revoked", hint=f"replace it: `hallmark key rotate {name}`")
    claim = {"name": name, "keyid": old.keyid, "reason": reason, "workspace": ws.settings.workspace_id, "at": _now()}
    envelope = sign_envelope(REVOCATION_TYPE, canonical(claim), _vouching(ws, known, signer, passphrase))
    with ws.store.lock():
        known = principals(ws)
        if not known[old.keyid].active:
            raise Refused(f"the key of `{name}` was replaced or revoked meanwhile", hint="see `hallmark key list`")
        if set(active_operators(known.values())) == {old.keyid}:
            raise Refused(f"`{name}` is the last operator", hint="register another operator first")
        body = {"reason": reason, "keyid": old.keyid, "envelope": envelope}
        ws.record("principal.revoked", name, body, actor=signer)


class _Fold:
    """The entries of the journal so far, taken one by one."""

    def __init__(self, ws: Workspace) -> None:
        self.ws, self.workspace = ws, ws.settings.workspace_id
        self.found: dict[str, Principal] = {}
        self.current: dict[str, Principal] = {}

    def add(self, row: dict[str, Any]) -> None:
        """Take one entry. Raises Refused, Tampered."""
        body = orjson.loads(row["body"])
        {"principal.created": self._created, "principal.rotated": self._rotated, "principal.revoked": self._revoked}[
            row["kind"]
        ](row, body)

    def _created(self, row: dict[str, Any], body: dict[str, Any]) -> None:
        signers = self._signers()
        if not self.found and body["keyid"] == self.workspace == keyid_of(body["public"]):
            signers[body["keyid"]] = body["public"]
        claim, _ = opened(body["envelope"], PRINCIPAL_TYPE, signers)
        self._compare(claim, {"name": row["subject"], "role": body["role"], "public": body["public"]})
        self._enter(row, Principal(row["subject"], body["role"], body["keyid"], body["public"]))

    def _rotated(self, row: dict[str, Any], body: dict[str, Any]) -> None:
        claim, _ = opened(body["envelope"], ROTATION_TYPE, self._signers())
        old = self._holder(row["subject"], body["replaces"])
        self._compare(claim, {"name": old.name, "role": old.role, "public": body["public"], "replaces": old.keyid})
        self.found[old.keyid] = replace(old, retired=row["ts"], until=row["seq"])
        self.current.pop(old.name)
        self._enter(row, Principal(old.name, old.role, body["keyid"], body["public"]))

    def _revoked(self, row: dict[str, Any], body: dict[str, Any]) -> None:
        if "envelope" in body or not legacy(self.ws, row):
            claim, _ = opened(body.get("envelope", {}), REVOCATION_TYPE, self._signers())
            self._compare(claim, {"name": row["subject"], "keyid": body["keyid"], "reason": body["reason"]})
        elif self.found[body["keyid"]].revoked:  # release 0.1 let two operators revoke the same key
            return
        old = self._holder(row["subject"], body["keyid"])
        self.found[old.keyid] = self.current[old.name] = replace(old, revoked=True, until=row["seq"])

    def _signers(self) -> dict[str, str]:
        return {keyid: p.public for keyid, p in active_operators(self.found.values()).items()}

    def _compare(self, claim: dict[str, Any], expected: dict[str, Any]) -> None:
        if {key: value for key, value in claim.items() if key != "at"} != {**expected, "workspace": self.workspace}:
            raise Refused("it differs from what its operator signed", hint="see `hallmark log verify`")

    def _holder(self, name: str, keyid: str) -> Principal:
        holder = self.current.get(name)
        if holder is None or holder.keyid != keyid or holder.revoked:
            raise Tampered(f"`{name}` does not hold the key it speaks of", hint="restore the journal from a copy")
        return holder

    def _enter(self, row: dict[str, Any], new: Principal) -> None:
        if new.keyid != keyid_of(new.public):
            raise Refused("it differs from what its operator signed", hint="see `hallmark log verify`")
        if new.keyid in self.found or new.name in self.current:
            raise Tampered("it registers a name or a key a second time", hint="restore the journal from a copy")
        self.found[new.keyid] = self.current[new.name] = replace(new, since=row["seq"])


def legacy(ws: Workspace, row: dict[str, Any]) -> bool:
    """Return whether an event was written by release 0.1: frame version 1, before the first frame of version 2."""
    if row.get("v", 1) != 1:
        return False
    if "v" not in row:
        return True
    newer = ws.store.query("SELECT min(seq) AS first FROM event WHERE v > 1")[0]["first"]
    return newer is None or row["seq"] < newer


def opened(envelope: Mapping[str, Any], payload_type: str, signers: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """Return (claim, keyid) of an envelope; the same one under the same signers is verified once in a process.

    Raises as `open_envelope` does.
    """
    payload, keyid = _verified(
        orjson.dumps(envelope, option=orjson.OPT_SORT_KEYS), payload_type, tuple(sorted(signers.items()))
    )
    return orjson.loads(payload), keyid


@lru_cache(maxsize=4096)
def _verified(envelope: bytes, payload_type: str, signers: tuple[tuple[str, str], ...]) -> tuple[bytes, str]:
    return open_envelope(orjson.loads(envelope), payload_type, dict(signers))


def _vouching(ws: Workspace, known: Mapping[str, Principal], name: str, passphrase: bytes | None) -> Signer:
    """Return an operator's signer. Raises Refused for anybody else's: what it signed would stop everything."""
    signer = ws.keys.load(name, passphrase)
    if signer.keyid not in (active_operators(known.values()) if known else {ws.settings.workspace_id}):
        raise Refused(f"the key of `{name}` is no operator's key", hint="`hallmark key list` shows keys and roles")
    return signer


def _check_free(known: dict[str, Principal], name: str, public: str) -> None:
    if any(p.name == name for p in known.values()):
        raise Refused(f"a principal named `{name}` exists", hint="choose another name, or `hallmark key rotate`")
    if keyid_of(public) in known:
        raise Refused(
            f"this key is that of `{known[keyid_of(public)].name}` already",
            hint="separation of duties is by key: one key, one principal",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
