"""Evidence bundles: everything an outsider needs to check a release offline, in one folder with a signed index.

`registry/verifier.py` checks a bundle with nothing but the workspace id. What a bundle cannot show is that nothing was
left out after its revocation list was signed: that list is dated, and the reader decides how old it may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from governance import roles
from registry import checkpoints, merkle, seals
from registry.artifacts import remove_tree, replace_file
from registry.errors import HallmarkError, NotFound, Refused, Tampered
from registry.identity import sign_envelope
from registry.journal import HEADER, read_order
from registry.principals import KINDS as PRINCIPALS
from registry.records import Asset, canonical, plain
from registry.workspace import Workspace, file_digest

INDEX_TYPE = "application/vnd.hallmark.index+json"
REVOCATIONS_TYPE = "application/vnd.hallmark.revocations+json"
WEIGHTS_KINDS = ("weights_key.created", "weights.signed")
CHECKPOINTS_KEPT = 256
"""For how many of the newest recorded checkpoints a bundle proves that its log extends theirs."""


def export(ws: Workspace, ref: str, out: Path, *, actor: str | None = None, with_weights: bool = False) -> Path:
    """Write the evidence bundle of a version, candidate or certificate to the new folder `out`; return that.

    Args:
        ws: the workspace.
        ref: which; of a version or candidate its newest certificate is taken.
        out: a folder that is not there yet, or is empty.
        actor: an operator: signs checkpoint, revocation list and index.
        with_weights: copy the weights too, every byte hashed on the way.

    Raises:
        NotFound: nothing of it was certified.
        Refused: the actor is no operator or may not export, or the folder holds something.
        Tampered: the stored weights, manifests or records are not what was recorded.
    """
    certificate = certificate_of(ws, ref)
    principal = roles.require(ws, "export", certificate.id, actor or ws.settings.principals.get("operator"))
    if principal.role != "operator":
        raise Refused("an evidence bundle is signed by an operator", hint="name one with `--as`")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"`{out}` holds something already", hint="name a new folder")
    checkpoint = checkpoints.sign(ws, principal.name)
    staged = out.with_name(f".{out.name}.part")
    remove_tree(staged)
    staged.mkdir(parents=True)
    try:
        _fill(ws, certificate, checkpoint, staged, principal.name)
        if with_weights:
            candidate = ws.resolve(certificate.body["candidate"], "candidate")
            ws.artifacts.checkout(candidate.body["weights"], staged / "weights")
        sign_index(ws, staged, principal.name)
        if out.exists():
            out.rmdir()
        staged.rename(out)
    finally:
        remove_tree(staged)
    digest = file_digest(out / "index.json")
    ws.record("evidence.exported", certificate.id, {"index": digest, "size": checkpoint.size}, actor=principal.name)
    return out


def certificate_of(ws: Workspace, ref: str) -> Asset:
    """Return the certificate that is meant: itself, or the newest of a version or candidate. Raises NotFound."""
    for kind in ("version", "candidate", "certificate"):
        try:
            asset = ws.resolve(ref, kind)
        except HallmarkError:
            continue
        if kind == "certificate":
            return asset
        rows = ws.store.query(
            "SELECT id FROM asset WHERE kind = 'certificate' AND ? IN (json_extract_string(body, '$.version'),"
            " json_extract_string(body, '$.candidate')) ORDER BY seq DESC LIMIT 1",
            [asset.id],
        )
        if rows:
            return ws.resolve(rows[0]["id"], "certificate")
    raise NotFound(f"nothing of `{ref}` was certified", hint="promote it first: a bundle proves a certificate")


def revocations(ws: Workspace, actor: str) -> dict[str, Any]:
    """Return the revocation list as of now: a DSSE envelope signed by `actor`, who is an operator.

    It names every revoked certificate with reason and time, and every revoked key. Raises Tampered for a revocation
    that no operator signed.
    """
    found = seals.sealed(ws, "certificate.revoked")  # what nobody signed gets no operator's signature here
    gone = ws.store.query("SELECT subject, ts, body FROM event WHERE kind = 'principal.revoked' ORDER BY seq")
    payload = {
        "workspace": ws.settings.workspace_id,
        "as_of": datetime.now(UTC).isoformat(timespec="seconds"),
        "certificates": [{"id": event.subject, "reason": event.body["reason"], "ts": event.ts} for event in found],
        "keys": [
            {"keyid": orjson.loads(row["body"])["keyid"], "name": row["subject"], "ts": row["ts"]} for row in gone
        ],
    }
    return sign_envelope(REVOCATIONS_TYPE, canonical(payload), ws.keys.load(actor))


def _fill(ws: Workspace, certificate: Asset, checkpoint: checkpoints.Checkpoint, folder: Path, actor: str) -> None:
    """Write everything but weights and index."""
    import reports
    from reports import bom

    candidate = ws.resolve(certificate.body["candidate"], "candidate")
    version = certificate.body["version"]
    _write(folder / "certificate.json", orjson.dumps(certificate.body["envelope"]))
    _write(folder / "checkpoint.txt", checkpoint.note.encode())
    _write(folder / "revocations.json", orjson.dumps(revocations(ws, actor)))
    wanted = records_of(ws, certificate)
    leaves, payloads = journal_records(ws, wanted, checkpoint.size)
    _write(folder / "events.jsonl", b"".join(_proved(leaves, payloads)))
    _write(folder / "consistency.json", orjson.dumps(_consistency(ws, leaves)))
    for part in ("weights", "adapter", "bundle"):
        ident = candidate.body.get(part, "none")
        if ident != "none":
            _manifest(ws, ident, folder)
    _signed_weights(ws, certificate.id, folder)
    _write(folder / "bom.cdx.json", bom.render(bom.build(ws, version, certificate.id)).encode())
    for kind in ("json", "html"):
        reports.render(ws, "dossier", version, format=kind, out=folder / f"dossier.{kind}", upto=checkpoint.size)


def records_of(ws: Workspace, certificate: Asset) -> list[int]:
    """Return the places (seq) of a bundle's records: of principals, and of all that the certificate rests on."""
    candidate = ws.resolve(certificate.body["candidate"], "candidate")
    decision = ws.resolve(certificate.body["decision"], "decision")
    roots = [certificate.id, candidate.id, decision.id, decision.body["suite"], *decision.body["eval_runs"]]
    rows = ws.store.query(
        "WITH RECURSIVE up(id) AS (SELECT unnest(?::VARCHAR[]) UNION"
        " SELECT edge.parent FROM edge JOIN up ON edge.child = up.id) SELECT id FROM up",
        [[*roots, candidate.body["version"]]],
    )
    assets = [row["id"] for row in rows]
    found = ws.store.query(
        "SELECT seq FROM event WHERE list_contains(?, kind)"
        " OR (kind = 'asset.registered' AND list_contains(?::VARCHAR[], subject))"
        " OR (kind = 'asset.registered' AND body->>'$.kind' = 'adapter' AND body->>'$.body.manifest' = ?)"
        " OR (kind IN ('approval.given', 'approval.withdrawn') AND subject = ?)"
        " OR (kind = 'certificate.revoked' AND subject = ?)"
        " OR (kind = 'alias.moved' AND subject IN (SELECT alias FROM alias_history WHERE version = ?)) ORDER BY seq",
        [[*PRINCIPALS, *WEIGHTS_KINDS], assets, candidate.body.get("adapter", "none"), candidate.id, certificate.id,
         candidate.body["version"]],
    )  # fmt: skip
    return [row["seq"] for row in found]


def journal_records(ws: Workspace, wanted: Iterable[int], size: int) -> tuple[list[bytes], dict[int, str]]:
    """Return the tree's first `size` leaves, and the exact text of the wanted records by seq (counted from 1).

    Raises Tampered when the journal is shorter than that.
    """
    chosen, payloads = set(wanted), {}
    leaves: list[bytes] = []
    for seq, payload in zip(range(1, size + 1), frames(ws), strict=False):
        leaves.append(merkle.leaf_hash(payload))
        if seq in chosen:
            payloads[seq] = payload.decode()
    if len(leaves) < size:
        raise Tampered(f"the journal has {len(leaves)} of {size} records", hint="run `hallmark log verify`")
    return leaves, payloads


def frames(ws: Workspace) -> Iterator[bytes]:
    """Yield the text of every ordered record as it lies in the segments, in the order of the log, unchecked."""
    for entry in read_order(ws.journal.root / "order.log"):
        path = ws.journal.root / f"{entry['segment']}.seg"
        if not path.exists():
            raise Tampered(f"journal segment `{path.name}` is missing", hint="restore it from a copy")
        with path.open("rb") as segment:
            segment.seek(entry["from"])
            data = segment.read(entry["to"] - entry["from"])
        place = 0
        while place + HEADER.size <= len(data):
            length = HEADER.unpack_from(data, place)[0]
            yield data[place + HEADER.size : place + HEADER.size + length]
            place += HEADER.size + length


def _proved(leaves: list[bytes], payloads: dict[int, str]) -> Iterable[bytes]:
    places = [seq - 1 for seq in payloads]
    for place, payload, proof in zip(places, payloads.values(), merkle.inclusion_proofs(leaves, places), strict=True):
        yield orjson.dumps({"payload": payload, "index": place, "proof": [step.hex() for step in proof]}) + b"\n"


def _consistency(ws: Workspace, leaves: list[bytes]) -> list[dict[str, Any]]:
    """Return the proof, for each of the newest recorded checkpoints, that this log extends it."""
    rows = ws.store.query(
        "SELECT DISTINCT CAST(subject AS BIGINT) AS size FROM event WHERE kind = ? ORDER BY size DESC LIMIT ?",
        [checkpoints.KIND, CHECKPOINTS_KEPT],
    )
    sizes = [row["size"] for row in rows if 0 < row["size"] < len(leaves)]
    return [{"size": size, "proof": [step.hex() for step in merkle.consistency_proof(leaves, size)]} for size in sizes]


def _manifest(ws: Workspace, ident: str, folder: Path) -> None:
    listed = canonical(plain(ws.artifacts.manifest(ident)))
    _write(folder / "manifests" / f"{ident.removeprefix('sha256:')}.json", listed)


def _signed_weights(ws: Workspace, certificate: str, folder: Path) -> None:
    """Write the model signature and its public key, where the weights were signed."""
    from governance import weights_signing

    found = weights_signing.newest(ws, certificate)
    if found:
        _write(folder / "weights.sigstore.json", ws.artifacts.read_bytes(found.signature))
        _write(folder / "weights.pub.pem", found.public_pem.encode())


def sign_index(ws: Workspace, folder: Path, actor: str) -> None:
    """Write `index.json`: the SHA-256 of every other file of a folder, signed by an operator."""
    files = {
        path.relative_to(folder).as_posix(): file_digest(path).removeprefix("sha256:")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    payload = canonical({"workspace": ws.settings.workspace_id, "created": created, "files": files})
    replace_file(folder / "index.json", canonical(sign_envelope(INDEX_TYPE, payload, ws.keys.load(actor))))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
