"""Build a dataset from its spec, top to bottom, and read its rows back."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry import withdrawals
from registry.errors import NotFound, SpecError, UnknownName
from registry.protocols import Progress, silent
from registry.records import Asset, Dataset, Suite, digest_of
from registry.specs import load
from registry.workspace import Workspace
from training.data import decontaminate, dedupe
from training.data.extract import Extraction, Found, extract, find
from training.data.rows import COLUMNS, Row, rows_digest, texts
from training.data.spec import KINDS, DataSpec
from training.data.split import held_out
from training.data.words import Hashes, WordHashes, hash_all

log = logging.getLogger(__name__)
BUILDER = 1
"""Raised when the same spec and sources would give other rows, so that receipts of older code are not trusted."""


def build(ws: Workspace, spec_path: Path, *, actor: str, progress: Progress = silent) -> Asset:
    """Build and register the dataset of a spec; return its asset.

    The same spec over the same sources gives the same rows and so the same id: a second build adds nothing.

    Raises:
        SpecError: the spec is wrong, or nothing is left for a training or hold-out split.
        NotFound: a source's folder is not there.
        Refused: a text holds a canary, or something withdrawn. Nothing is stored.
    """
    spec = load(spec_path, DataSpec)
    found = [find(source, spec_path.parent) for source in spec.sources]
    withdrawals.refuse_sources(ws, [source.described() for source in found])
    protected, canaries, suites = _suites(ws, spec)
    receipt = _receipt(ws, spec, found, suites)
    if receipt.is_file():
        try:
            known = ws.resolve(json.loads(receipt.read_text())["dataset"], "dataset")
            withdrawals.refuse_tombstoned(ws, known.id)
            if not withdrawals.withdrawals(ws):
                return known
        except (NotFound, ValueError, KeyError):
            log.info("receipt %s names no registered dataset: building again", receipt)
    taken = _extract(found, spec, progress)
    withdrawals.refuse_rows(ws, ((row.source, row.path, row.text) for row in taken.rows))
    decontaminate.refuse_canaries(taken.rows, [*spec.canaries, *canaries])
    splits, drops = select(taken.rows, spec, protected)
    drops["too_short"] = taken.too_short
    for name, rows in splits.items():
        if not rows:
            raise SpecError(f"split `{name}` is empty", file=str(spec_path), hint="add files, or change `holdout`")
    progress("write", 0, len(splits))
    with tempfile.TemporaryDirectory(dir=ws.work("data")) as folder:
        for done, (name, rows) in enumerate(sorted(splits.items()), start=1):
            _write(Path(folder) / f"{name}.parquet", rows)
            progress("write", done, len(splits))
        manifest = ws.artifacts.add_tree(Path(folder))
    record = Dataset(
        name=spec.name,
        spec=spec.digest,
        rows_digest=rows_digest(splits),
        manifest=manifest.id,
        splits={name: len(rows) for name, rows in sorted(splits.items())},
        sources=[source.described() for source in found],
        drops=drops,
        quarantined=taken.quarantined,
    )
    withdrawals.refuse_tombstoned(ws, record.id)
    asset = ws.register(record, actor=actor, name=spec.name)
    receipt.write_text(json.dumps({"dataset": asset.id}))
    return asset


def select(rows: Sequence[Row], spec: DataSpec, suites: Sequence[str]) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """Split rows and drop copies and contamination; return splits and counts of drops by reason.

    Hold-out rows come first, so that of two copies the hold-out's stays and the training one goes.
    """
    side = {
        place: held_out(*place, share=spec.holdout, seed=spec.seed)
        for place in {(row.source, row.path) for row in rows}
    }
    out = {row: side[row.source, row.path] for row in rows}
    ordered = sorted(rows, key=lambda row: not out[row])
    words = dict(zip(ordered, hash_all(texts(ordered)), strict=True))
    drops = {"exact_duplicate": 0, "near_duplicate": 0, "contaminated_holdout": 0, "contaminated_suite": 0}
    kept: list[Row] = []
    for kind in KINDS:
        chosen = [row for row in ordered if row.kind == kind]
        chosen = _drop(chosen, dedupe.exact(texts(chosen)), drops, "exact_duplicate")
        kept += _drop(chosen, dedupe.near([words[r] for r in chosen], spec.near_duplicates), drops, "near_duplicate")
    holdout, train = [row for row in kept if out[row]], [row for row in kept if not out[row]]
    if spec.decontaminate:
        table, ngram = WordHashes(), spec.decontaminate.ngram
        guards: dict[str, list[Hashes]] = {
            "contaminated_holdout": [words[row] for row in holdout],
            "contaminated_suite": [table.of(text) for text in suites],
        }
        for reason, guard in guards.items():
            train = _drop(train, decontaminate.overlapping([words[r] for r in train], guard, ngram), drops, reason)
    splits: dict[str, list[Row]] = {}
    for name in sorted({row.kind for row in rows}):
        splits[f"{name}_train"] = [row for row in train if row.kind == name]
        splits[f"{name}_holdout"] = [row for row in holdout if row.kind == name]
    return splits, drops


def load_split(ws: Workspace, dataset_id: str, split: str) -> list[dict[str, Any]]:
    """Return the rows of one split in their order, as dictionaries of id, text, source, path and kind.

    Raises:
        NotFound: no such dataset; UnknownName: no such split in it.
        Tampered: the stored rows differ from the manifest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    dataset = ws.get(dataset_id, Dataset)
    if split not in dataset.splits:
        raise UnknownName("split", split, dataset.splits)
    entry = ws.artifacts.manifest(dataset.manifest).entry(f"{split}.parquet")
    if entry is None:
        raise NotFound(f"split `{split}` is not in the manifest of dataset `{dataset.name}`", hint="build it again")
    data = ws.artifacts.read_bytes(entry.blake3)
    return list(pq.read_table(pa.BufferReader(data)).to_pylist())


def _extract(found: Sequence[Found], spec: DataSpec, progress: Progress) -> Extraction:
    total = sum(len(source.files) for source in found)
    out, done = Extraction(), 0
    for source in found:
        for part in extract(source, spec):
            out.rows += part.rows
            out.quarantined += part.quarantined
            out.too_short += part.too_short
            done += 1
            if done % 50 == 0 or done >= total:
                progress("extract", min(done, total), total, f"{len(out.rows)} rows")
    return out


def _drop(rows: list[Row], flags: Sequence[bool], drops: dict[str, int], reason: str) -> list[Row]:
    drops[reason] += sum(flags)
    return [row for row, flag in zip(rows, flags, strict=True) if not flag]


def _suites(ws: Workspace, spec: DataSpec) -> tuple[list[str], list[str], list[str]]:
    """Return texts, canaries and ids of all registered suites; no texts when the spec leaves suites out."""
    ids = sorted(str(row["id"]) for row in ws.store.query("SELECT id FROM asset WHERE kind = 'suite'"))
    suites = [ws.get(suite, Suite) for suite in ids]
    found: list[str] = []
    if spec.decontaminate and spec.decontaminate.suites:
        for suite in suites:
            with tempfile.TemporaryDirectory(dir=ws.work("data")) as folder:
                copy = ws.artifacts.checkout(suite.manifest, Path(folder) / "suite")
                found += decontaminate.suite_texts(ws.artifacts.manifest(suite.manifest), copy)
    return found, [suite.canary for suite in suites if suite.canary], ids


def _receipt(ws: Workspace, spec: DataSpec, found: Sequence[Found], suites: Sequence[str]) -> Path:
    sources = [source.described() for source in found]
    key = digest_of({"builder": BUILDER, "spec": spec.digest, "sources": sources, "suites": list(suites)})
    return ws.work("data") / f"{key.removeprefix('sha256:')}.json"


def _write(path: Path, rows: Sequence[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(column, pa.string()) for column in COLUMNS])
    table = pa.table({column: [getattr(row, column) for row in rows] for column in COLUMNS}, schema=schema)
    pq.write_table(table, path, compression="zstd", use_dictionary=["source", "path", "kind"])
