"""Withdrawal and deletion: what a source or a person touched, what must be made again, and bytes taken back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from governance import holds, roles
from registry import lineage
from registry.artifacts import replace_file
from registry.errors import NotFound, Refused, UnknownName
from registry.records import Asset
from registry.withdrawals import holds_words, names_of, person_mark, tombstones, words_of
from registry.workspace import Workspace

DELETABLE = ("dataset", "tokenizer", "version", "adapter", "candidate")
"""Kinds whose bytes may be withdrawn; evidence and policies stay."""


@dataclass(frozen=True, slots=True)
class Touched:
    """What a withdrawal touches: datasets, rows in them, everything made from them, and what to do about it."""

    what: str
    target: str
    digests: tuple[str, ...]
    datasets: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    assets: tuple[dict[str, Any], ...]
    aliases: tuple[str, ...]
    plan: tuple[str, ...]
    deleted: tuple[str, ...] = ()


def survey(ws: Workspace, source: str = "", *, person: str = "") -> Touched:
    """Return what a source (by name, path, digest, file or dataset) or a person's text touches; changes nothing.

    Raises UnknownName when nothing here came from it.
    """
    datasets = ws.assets("dataset")
    rows: list[dict[str, Any]] = []
    if person:
        what, digests = "person", list[str]()
        rows = [row for dataset in datasets for row in _rows_with(ws, dataset, words_of(person))]
        hit = {row["dataset"] for row in rows}
    else:
        what, digests, hit = _by_source(ws, source, datasets)
        if what == "file":
            rows = [row for dataset in datasets for row in _rows_of(ws, dataset, source)]
            hit = {row["dataset"] for row in rows}
    if not hit:
        known = {str(item["name"]) for dataset in datasets for item in dataset.body["sources"] if item.get("name")}
        raise UnknownName("source", "--person" if person else source, known,
                          hint="no stored row holds it" if person else None)  # fmt: skip
    touched = [dataset for dataset in datasets if dataset.id in hit]
    assets = _made_from(ws, touched)
    aliases = _aliases(ws, {item["id"] for item in assets})
    return Touched(
        what, "" if person else source, tuple(sorted(digests)), tuple(dataset.id for dataset in touched), tuple(rows),
        tuple(assets), tuple(sorted(aliases)), tuple(_plan(ws, what, source, touched, assets, aliases)),
    )  # fmt: skip


def withdraw(
    ws: Workspace, source: str = "", *, person: str = "", reason: str, delete: bool = False, actor: str | None = None
) -> Touched:
    """Record a withdrawal, so that no later dataset takes the source; with `delete`, take the datasets' bytes back too.

    Raises:
        UnknownName: nothing here came from it.
        Refused: the actor may not, there is no reason, or a legal hold covers what would be deleted.
    """
    principal = roles.require(ws, "withdraw-data", source or "person", actor)
    if not reason.strip():
        raise Refused("a withdrawal needs a reason", hint="give one with `--reason`")
    found = survey(ws, source, person=person)
    mark, words = person_mark(ws, person) if person else ("", 0)
    counted: dict[str, list[str]] = {}
    for item in found.assets:
        counted.setdefault(item["kind"] or "unknown", []).append(item["id"])
    body = {"what": found.what, "target": found.target, "digests": list(found.digests), "person": mark, "words": words,
            "reason": reason, "datasets": list(found.datasets), "rows": sum(row["rows"] for row in found.rows),
            "touched": counted, "aliases": list(found.aliases)}  # fmt: skip
    with ws.store.lock():
        if delete:
            _refuse_held(ws, found.datasets)
        ws.record("source.withdrawn", mark or source, body, actor=principal.name)
        gone = _tombstone(ws, found.datasets, reason, principal.name) if delete else ()
    return replace(found, deleted=tuple(gone))


def delete(ws: Workspace, ref: str, *, reason: str, actor: str | None = None) -> tuple[str, ...]:
    """Withdraw the bytes of a version, adapter, tokenizer or dataset, and of candidates made of it; return all ids.

    Raises:
        NotFound: no such asset, or one of a kind that stays.
        Refused: a hold covers it, an alias still points at it, the actor may not, or no reason was given.
    """
    principal = roles.require(ws, "withdraw-data", ref, actor)
    if not reason.strip():
        raise Refused("a withdrawal needs a reason", hint="give one with `--reason`")
    asset = holds.find(ws, ref)
    if asset.kind not in DELETABLE:
        raise NotFound(f"a {asset.kind} is not deleted: it is evidence", hint="kinds: " + ", ".join(DELETABLE))
    idents = [asset.id]
    if asset.kind in {"version", "adapter"}:
        idents += [item["id"] for item in lineage.impact(ws, asset.id) if item["kind"] == "candidate"]
    with ws.store.lock():
        serving = _aliases(ws, set(idents))
        if serving:
            raise Refused(f"alias `{sorted(serving)[0]}` points at it", hint="promote or roll back to another version")
        _refuse_held(ws, idents)
        return tuple(_tombstone(ws, idents, reason, principal.name))


def withdrawn_manifests(ws: Workspace) -> dict[str, str]:
    """Return the manifests whose bytes are withdrawn, with the reason: no live asset and no hold keeps them."""
    gone, under = tombstones(ws), holds.covered(ws)
    live = _manifests_of_live(ws, {ident for ident in gone if ident not in under})
    return {stone.manifest: stone.reason for stone in gone.values() if stone.manifest and stone.manifest not in live}


def mark_withdrawn(ws: Workspace) -> None:
    """Write the note that makes the store say `withdrawn` beside a manifest; take away notes without a tombstone."""
    gone = tombstones(ws)
    live = _manifests_of_live(ws, set(gone))
    wanted = {stone.manifest: stone.reason for stone in gone.values() if stone.manifest and stone.manifest not in live}
    for manifest, reason in wanted.items():
        note = ws.artifacts.manifest_path(manifest).with_suffix(".withdrawn")
        data = orjson.dumps({"reason": reason})
        if not note.is_file() or note.read_bytes() != data:
            replace_file(note, data)
    for note in (ws.artifacts.root / "manifests").glob("*.withdrawn"):
        if f"sha256:{note.stem}" not in wanted:
            note.unlink(missing_ok=True)


def _refuse_held(ws: Workspace, idents: Sequence[str]) -> None:
    under = holds.covered(ws)
    for ident in idents:
        if ident in under:
            hold = under[ident]
            raise Refused(
                f"hold `{hold.id}` by `{hold.by}` covers `{ident[:19]}`: {hold.reason}",
                hint=f"`hallmark hold lift {hold.id} --reason ...` when the law allows it",
            )


def _tombstone(ws: Workspace, idents: Sequence[str], reason: str, actor: str) -> list[str]:
    """Record one tombstone an asset, with its hashes only, and mark its manifest."""
    before = tombstones(ws)
    done = []
    for ident in idents:
        if ident in before:
            continue
        kind = ws.store.query("SELECT kind FROM asset WHERE id = ?", [ident])[0]["kind"]
        body = ws.resolve(ident, kind).body
        manifest = body.get("manifest") or body.get("weights") or ""
        ws.record("asset.tombstoned", ident, {"kind": kind, "manifest": manifest, "reason": reason}, actor=actor)
        done.append(ident)
    mark_withdrawn(ws)
    return done


def _manifests_of_live(ws: Workspace, gone: set[str]) -> set[str]:
    """Return the manifests that assets name which are not gone: their own, and those of a candidate's parts."""
    rows = ws.store.query(
        "SELECT id, json_extract_string(body, ['$.manifest', '$.weights', '$.adapter']) AS parts FROM asset"
    )
    return {part for row in rows if row["id"] not in gone for part in row["parts"] if part}


def _by_source(ws: Workspace, wanted: str, datasets: Sequence[Asset]) -> tuple[str, list[str], set[str]]:
    """Return (what the text means, digests of the source's states, ids of the datasets that took it)."""
    taken = [(dataset.id, item) for dataset in datasets for item in dataset.body["sources"] if wanted in names_of(item)]
    if taken:
        digests = {str(item["digest"]) for _, item in taken if item.get("digest")}
        return "source", sorted(digests), {ident for ident, _ in taken}
    try:
        return "dataset", [], {ws.resolve(wanted, "dataset").id}
    except NotFound:
        return "file", [], set()


def _rows_with(ws: Workspace, dataset: Asset, words: list[str]) -> list[dict[str, Any]]:
    return _count(ws, dataset, lambda row: holds_words(row["text"], words)) if words else []


def _rows_of(ws: Workspace, dataset: Asset, path: str) -> list[dict[str, Any]]:
    return _count(ws, dataset, lambda row: path in {row["path"], f"{row['source']}/{row['path']}"})


def _count(ws: Workspace, dataset: Asset, wanted: Any) -> list[dict[str, Any]]:
    """Return {dataset, split, source, path, rows} of the rows that are wanted. Raises Tampered for altered rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if dataset.id in tombstones(ws):
        return []
    counts: dict[tuple[str, str, str], int] = {}
    for entry in ws.artifacts.manifest(dataset.body["manifest"]).entries:
        if not entry.path.endswith(".parquet"):
            continue
        table = pq.read_table(pa.BufferReader(ws.artifacts.read_bytes(entry.blake3)))
        for row in table.to_pylist():
            if wanted(row):
                key = (entry.path.removesuffix(".parquet"), row["source"], row["path"])
                counts[key] = counts.get(key, 0) + 1
    return [
        {"dataset": dataset.id, "split": split, "source": source, "path": path, "rows": count}
        for (split, source, path), count in sorted(counts.items())
    ]


def _made_from(ws: Workspace, datasets: Sequence[Asset]) -> list[dict[str, Any]]:
    """Return the datasets and everything made from them, each once, as {id, kind, label}."""
    found: dict[str, dict[str, Any]] = {}
    for dataset in datasets:
        label = f"dataset {dataset.name}:{dataset.number} {dataset.id[7:19]} by {dataset.owner}"
        found[dataset.id] = {"id": dataset.id, "kind": "dataset", "label": label}
    for dataset in datasets:
        for item in lineage.impact(ws, dataset.id):
            found.setdefault(item["id"], {"id": item["id"], "kind": item["kind"], "label": item["label"]})
    return list(found.values())


def _aliases(ws: Workspace, idents: set[str]) -> dict[str, dict[str, Any]]:
    """Return the aliases that point now at one of these assets, each with its row."""
    rows = ws.store.query("SELECT * FROM alias_current")
    return {row["alias"]: row for row in rows if {row["certificate"], row["candidate"], row["version"]} & idents}


def _plan(
    ws: Workspace, what: str, source: str, datasets: Sequence[Asset], assets: Sequence[dict[str, Any]],
    aliases: dict[str, dict[str, Any]],
) -> list[str]:  # fmt: skip
    """Return the steps that make everything again without the withdrawn rows, in order."""
    named = "the person's rows" if what == "person" else f"`{source}`"
    steps = [f"take {named} out of the sources of dataset `{name}` and run `hallmark data build` on its spec"
             for name in dict.fromkeys(dataset.name for dataset in datasets)]  # fmt: skip
    touched = {item["id"] for item in assets}
    for kind, verb in (("tokenizer", "train tokenizer"), ("run", "run `hallmark train run` on recipe")):
        chosen = [asset for asset in ws.assets(kind) if asset.id in touched]
        steps += [f"{verb} `{name}`" for name in dict.fromkeys(asset.name for asset in chosen)]
    for alias in sorted(aliases):
        untouched = ws.store.query("SELECT version FROM alias_history WHERE alias = ? ORDER BY seq DESC", [alias])
        back = next((row["version"] for row in untouched if row["version"] not in touched), None)
        until = (
            f"until then `hallmark rollback {alias} --to {back[7:19]}`" if back else "no earlier release is free of it"
        )
        steps.append(f"gate, approve and promote the new version to `{alias}`; {until}")
    return steps
