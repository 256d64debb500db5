"""Contamination: which samples of a suite a candidate was trained on, by overlap of the texts themselves.

What counts is said in `evals/overlap.py`. Results are kept by the digests of rows and instruments, so the same question
is answered once.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from evals import overlap
from evals.instrument import LOOKED_AT, Instrument
from evals.overlap import Hit, Index
from evals.samples import Sample
from registry import lineage
from registry.errors import NotFound
from registry.protocols import Progress, silent
from registry.records import Asset, Dataset, ModelVersion, Run, digest_of
from registry.workspace import Workspace

log = logging.getLogger(__name__)

BATCH = 1024
"""Rows read at a time."""
HELD_OUT = "_holdout"
_RULE = [1, overlap.GRAM, overlap.SHORTEST, overlap.COVERED, overlap.SHINGLE, overlap.RESEMBLES, *overlap.TEMPLATE]
"""What a kept result depends on besides the texts; the first number counts changes of the code."""
_LABELS = {"id", "source", "path", "kind", "licence"}


@dataclass(frozen=True, slots=True)
class TrainingData:
    """A dataset and the splits of it that were trained on."""

    dataset: Asset
    splits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Screening:
    """What was found, by KPI id and sample id.

    `contaminated` counts against a KPI; `below` was found and does not count (too short, or too small a share);
    `samples` is how many samples of a KPI were compared, `unscreened` says of a KPI why none were. `notes` are training
    data that could not be read or are not known.
    """

    datasets: tuple[str, ...]
    rows: int
    samples: dict[str, int]
    contaminated: dict[str, dict[str, Hit]] = field(default_factory=dict)
    below: dict[str, dict[str, Hit]] = field(default_factory=dict)
    unscreened: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether no sample counts as contaminated."""
        return not any(self.contaminated.values())

    def counts(self) -> dict[str, int]:
        """Return how many samples of each KPI are contaminated."""
        return {kpi: len(self.contaminated.get(kpi, {})) for kpi in (*self.samples, *self.unscreened)}

    def render_lines(self, worst: int = 5) -> list[str]:
        """Return it as lines for people: each KPI, then its `worst` samples."""
        lines = [f"{self.rows} rows of {', '.join(self.datasets) or 'no training data'}"]
        for kpi, count in self.samples.items():
            found, less = self.contaminated.get(kpi, {}), self.below.get(kpi, {})
            lines.append(f"{kpi:<20} {len(found):>6} of {count} samples contaminated, {len(less)} below the rule")
            for name, hit in sorted(found.items(), key=lambda item: (-item[1].share, item[0]))[:worst]:
                said = f': "{hit.example}"' if hit.example else ""
                lines.append(f"    {name[:12]}  {hit.kind} {100 * hit.share:.0f} % in {hit.place}{said}")
        lines += [f"{kpi:<20} not screened: {why}" for kpi, why in self.unscreened.items()]
        return [*lines, *(f"note: {note}" for note in self.notes)]


def screen_candidate(
    ws: Workspace, candidate: Asset, suite: Asset, instruments: Sequence[Instrument], *, progress: Progress = silent
) -> Screening:
    """Return what of a registered suite is in the training data of a candidate, its base versions' included.

    Raises Tampered when stored rows differ from their manifest.
    """
    canaries = [suite.body["canary"]] if suite.body.get("canary") else []
    found = screen(ws, datasets_of(ws, candidate), instruments, canaries=canaries, progress=progress)
    return replace(found, notes=(*found.notes, *untold(ws, candidate)))


def screen(
    ws: Workspace,
    datasets: Sequence[Asset | TrainingData],
    instruments: Sequence[Instrument],
    *,
    canaries: Sequence[str] = (),
    progress: Progress = silent,
) -> Screening:
    """Compare the samples of instruments with every row of datasets.

    Args:
        ws: the workspace.
        datasets: a dataset stands for its splits that are not named `..._holdout`.
        instruments: those of a suite; a sealed one's words are not shown.
        canaries: a row that holds one makes every sample contaminated.
        progress: told rows.

    Raises:
        Tampered: stored rows differ from their manifest.
    """
    texts = {each.kpi.id: {sample.id: sample_text(sample) for sample in each.samples} for each in instruments}
    parts = [part if isinstance(part, TrainingData) else TrainingData(part, _trained(part)) for part in datasets]
    found = Screening(
        datasets=tuple(_label(part) for part in parts),
        rows=0,
        samples={kpi: len(samples) for kpi, samples in texts.items() if samples},
        unscreened={kpi: "its samples are not known before it runs" for kpi in texts if not texts[kpi]},
    )
    notes: list[str] = []
    for part in parts:
        try:
            rows, hits = _compare(ws, part, instruments, texts, tuple(canaries), progress)
        except NotFound as error:
            notes.append(f"{_label(part)}: {error.message}")
            continue
        found = _merged(found, rows, hits)
    return replace(found, notes=tuple(notes))


def datasets_of(ws: Workspace, candidate: Asset) -> list[TrainingData]:
    """Return all that the lineage of a candidate (or version) was trained on: datasets with the splits used.

    A dataset that a run names without saying which splits stands for all of them but the hold-outs.
    """
    splits: dict[str, set[str]] = {}
    for node in lineage.ancestry(ws, candidate.id):
        if node["kind"] == Dataset.KIND:
            splits.setdefault(node["id"], set())
        elif node["kind"] == Run.KIND:
            run = ws.get(node["id"], Run)
            for dataset in run.datasets:
                splits.setdefault(dataset, set()).update(_splits(run.recipe_body))
    found = []
    for ident, named in sorted(splits.items()):
        asset = ws.resolve(ident, Dataset.KIND)
        used = tuple(sorted(named & set(asset.body["splits"]))) or _trained(asset)
        found.append(TrainingData(asset, used))
    return found


def untold(ws: Workspace, candidate: Asset) -> list[str]:
    """Return a sentence for each version in a candidate's lineage whose training data nobody recorded."""
    nodes = [node for node in lineage.ancestry(ws, candidate.id) if node["kind"] == ModelVersion.KIND]
    return [
        f"what `{node['name']}:{node['number']}` was trained on is not recorded: it came from elsewhere"
        for node in nodes
        if ws.get(node["id"], ModelVersion).run is None
    ]


def sample_text(sample: Sample) -> str:
    """Return what of a sample must not be in training data: its question and the right answer, no wrong choices."""
    right = sample.target
    if sample.choices and right.isdigit() and int(right) < len(sample.choices):
        right = sample.choices[int(right)]
    return f"{sample.input}\n{right}"


def unmarked(canary: str, suite_path: Path, instruments: Sequence[Instrument]) -> list[str]:
    """Return the names of a suite's own files that do not hold its canary: copied elsewhere, nothing gives them away.

    Task files, what lies beside them, and data files in the clear are looked at; splits of datasets are no files of
    the suite, and sealed ones cannot be copied by who has no key.
    """
    files = {
        name: data
        for each in instruments
        for name, data in each.files.items()
        if not name.startswith(LOOKED_AT) and not each.sealed
    }
    for each in instruments:
        place = suite_path.parent / each.kpi.data
        if each.kpi.data and not each.dataset and not each.sealed and place.is_file():
            files[each.kpi.data] = place.read_bytes()
    return sorted(name for name, data in files.items() if canary.encode() not in data)


def _trained(asset: Asset) -> tuple[str, ...]:
    return tuple(sorted(name for name in asset.body["splits"] if not name.endswith(HELD_OUT)))


def _splits(recipe: Mapping[str, Any]) -> set[str]:
    data = recipe.get("data") or {}
    return {*(data.get("splits") or {}), *([data["replay_split"]] if data.get("replay") else [])}


def _label(part: TrainingData) -> str:
    return f"{part.dataset.name}:{part.dataset.number}#{','.join(part.splits)}"


Found = dict[str, tuple[dict[str, Hit], dict[str, Hit]]]
"""By KPI id: what counts, and what was found below the rule."""


def _compare(
    ws: Workspace,
    part: TrainingData,
    instruments: Sequence[Instrument],
    texts: Mapping[str, Mapping[str, str]],
    canaries: tuple[str, ...],
    progress: Progress,
) -> tuple[int, Found]:
    """Return the number of rows and what each KPI shares with them; from the cache where it was asked before."""
    rows = sum(part.dataset.body["splits"].get(split, 0) for split in part.splits)
    wanted = [each for each in instruments if texts[each.kpi.id]]
    cache = {each.kpi.id: _Kept(ws, part, each, canaries) for each in wanted}
    hits: Found = {}
    for kpi, kept in cache.items():
        known = kept.read()
        if known is not None:
            hits[kpi] = known
    missing = [each for each in wanted if each.kpi.id not in hits]
    if missing:
        indices = {each.kpi.id: Index(texts[each.kpi.id]) for each in missing}
        marked = _stream(ws, part, indices, canaries, rows, progress)
        for each in missing:
            kpi = each.kpi.id
            counted, below = indices[kpi].hits()
            if marked:
                counted = {name: Hit("canary", 1.0, marked, "") for name in texts[kpi]}
            if each.sealed:
                counted, below = _wordless(counted), _wordless(below)
            hits[kpi] = (counted, below)
            cache[kpi].write(hits[kpi])
    return rows, hits


def _stream(
    ws: Workspace, part: TrainingData, indices: Mapping[str, Index], canaries: Sequence[str], total: int,
    progress: Progress,
) -> str:  # fmt: skip
    """Feed every row to the indices; return the place of the first row that holds a canary, or nothing."""
    done, marked = 0, ""
    for split in part.splits:
        for texts, places in read_split(ws, part.dataset, split):
            for index in indices.values():
                index.feed(texts, places)
            for canary in canaries if not marked else ():
                marked = next((at for text, at in zip(texts, places, strict=True) if canary in text), marked)
            done += len(texts)
            progress(f"screen {part.dataset.name}", done, total)
    return marked


def read_split(ws: Workspace, dataset: Asset, split: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield texts and places of the rows of a split, some at a time.

    Raises:
        NotFound: the split's rows are not in the store.
        Tampered: they differ from their manifest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    entry = ws.artifacts.manifest(dataset.body["manifest"]).entry(f"{split}.parquet")
    if entry is None:
        raise NotFound(f"`{dataset.name}` has no stored split `{split}`", hint="build the dataset again")
    file = pq.ParquetFile(pa.BufferReader(ws.artifacts.read_bytes(entry.blake3)))
    for batch in file.iter_batches(batch_size=BATCH):
        columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
        text = [name for name, values in columns.items() if name not in _LABELS and any(_is_text(v) for v in values)]
        chosen = ["text"] if "text" in text else text
        texts = ["\n".join(str(columns[name][row] or "") for name in chosen) for row in range(batch.num_rows)]
        where = columns.get("path") or columns.get("id") or [str(row) for row in range(batch.num_rows)]
        yield texts, [f"{dataset.name}:{dataset.number}#{split} {at}" for at in where]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _wordless(hits: Mapping[str, Hit]) -> dict[str, Hit]:
    return {name: replace(hit, example="") for name, hit in hits.items()}


def _merged(found: Screening, rows: int, hits: Found) -> Screening:
    """Return a screening with the hits of one more dataset; of two hits on a sample the larger share stays."""
    contaminated = {kpi: dict(known) for kpi, known in found.contaminated.items()}
    below = {kpi: dict(known) for kpi, known in found.below.items()}
    for kpi, pair in hits.items():
        for place, new in zip((contaminated, below), pair, strict=True):
            known = place.setdefault(kpi, {})
            known.update({name: hit for name, hit in new.items() if name not in known or hit.share > known[name].share})
        below[kpi] = {name: hit for name, hit in below[kpi].items() if name not in contaminated[kpi]}
    return replace(found, rows=found.rows + rows, contaminated=contaminated, below=below)


class _Kept:
    """The stored answer for one dataset and one instrument; a damaged file counts as none."""

    def __init__(self, ws: Workspace, part: TrainingData, instrument: Instrument, canaries: Sequence[str]) -> None:
        question = {
            "rows": part.dataset.body["rows_digest"],
            "manifest": part.dataset.body["manifest"],
            "splits": list(part.splits),
            "instrument": instrument.digest,
            "samples": sorted(sample.id for sample in instrument.samples),
            "canaries": list(canaries),
            "rule": _RULE,
        }
        self.path: Path = ws.work("evals", "screens") / f"{digest_of(question).removeprefix('sha256:')}.json"

    def read(self) -> tuple[dict[str, Hit], dict[str, Hit]] | None:
        """Return what was found, or None."""
        try:
            counted, below = json.loads(self.path.read_bytes())
            return {n: Hit(**hit) for n, hit in counted.items()}, {n: Hit(**hit) for n, hit in below.items()}
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError):
            log.warning("screening %s is damaged: it is made again", self.path)
            return None

    def write(self, hits: tuple[dict[str, Hit], dict[str, Hit]]) -> None:
        """Store what was found, whole or not at all."""
        temporary = self.path.with_name(f".{secrets.token_hex(8)}")
        temporary.write_text(json.dumps([{n: asdict(hit) for n, hit in each.items()} for each in hits]))
        temporary.replace(self.path)
