"""An instrument: what a KPI is measured with. Two numbers may be compared only if their instruments are equal."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import evals
from evals.harness.tasks import PLANS, Document, choose
from evals.samples import Sample
from evals.suite import Kpi, SuiteSpec
from registry.errors import NotFound, SpecError
from registry.records import Dataset, digest_of, sha256
from registry.workspace import Workspace

_SCORERS = {
    "lm-eval": ("harness/tasks.py", "children/weights/causal_lm.py", "children/weights/score.py"),
    "inspect": ("children/provider.py", "children/run_inspect.py", "harness/provider.py"),
}
"""The files of ours that turn a model's answers into numbers; a change of them is another instrument."""
_PACKAGES = {"lm-eval": "lm-eval", "inspect": "inspect-ai"}
_TASK_FILES = {".py", ".json", ".jsonl", ".yaml", ".yml", ".txt", ".md", ".csv"}


@dataclass(frozen=True, slots=True)
class Instrument:
    """A KPI with its planned samples and the digest of samples, prompt, scorer and aggregation.

    `samples` is empty for an inspect task, which brings its own; `files` are what the suite's manifest keeps for it,
    path in the suite to bytes; `dataset` is the id of the dataset the samples come from, if any.
    """

    kpi: Kpi
    samples: tuple[Sample, ...]
    files: dict[str, bytes]
    dataset: str
    digest: str


def build_instruments(ws: Workspace, spec: SuiteSpec, file: Path) -> list[Instrument]:
    """Return one instrument a KPI of the suite in `file`.

    Raises:
        SpecError: data that is empty, has fewer samples than planned, or lacks a field; names the KPI.
        NotFound: a data or task file, a dataset or a split that is not there.
    """
    return [_build(ws, kpi, file) for kpi in spec.kpis]


def _build(ws: Workspace, kpi: Kpi, file: Path) -> Instrument:
    if kpi.harness == "inspect":
        files = _task_files(kpi, file)
        return Instrument(kpi, (), files, "", _digest(kpi, [], files))
    documents, dataset = _documents(ws, kpi, file)
    samples = choose(PLANS[kpi.task](documents, kpi.cluster), kpi.samples)
    if len(samples) < kpi.samples:
        raise SpecError(
            f"`{kpi.id}` plans {kpi.samples} samples, its data `{kpi.data}` gives {len(samples)}", file=str(file),
            field="samples", hint="plan fewer samples or give it more data",
        )  # fmt: skip
    lines = "".join(json.dumps(sample.plain(), ensure_ascii=False) + "\n" for sample in samples)
    return Instrument(
        kpi, tuple(samples), {f"samples/{kpi.id}.jsonl": lines.encode()}, dataset, _digest(kpi, samples, {})
    )


def _digest(kpi: Kpi, samples: Iterable[Sample], files: dict[str, bytes]) -> str:
    return digest_of(
        {
            "task": kpi.task,
            "metric": kpi.metric,
            "epochs": kpi.epochs,
            "endpoint": kpi.endpoint,
            "planned": kpi.samples,
            "samples": sorted([sample.id, sample.cluster] for sample in samples),
            "files": {name: sha256(data) for name, data in files.items()},
            "scorer": _scorer(kpi.harness),
            "aggregation": "ratio" if kpi.task == "bits_per_byte" else "mean",
        }
    )


@cache
def _scorer(harness: str) -> dict[str, Any]:
    root = Path(evals.__file__).parent
    code = {name: sha256((root / name).read_bytes()) for name in _SCORERS[harness]}
    return {"harness": f"{harness}=={version(_PACKAGES[harness])}", "code": code}


def _documents(ws: Workspace, kpi: Kpi, file: Path) -> tuple[list[Document], str]:
    """Return a KPI's documents, and the id of the dataset they come from."""
    if kpi.data.startswith("dataset:"):
        name, _, split = kpi.data.removeprefix("dataset:").partition("#")
        return _dataset_rows(ws, name, split)
    found = [_document(row, kpi, path, line) for path, line, row in _jsonl(file.parent / kpi.data)]
    if not found:
        raise SpecError(f"`{kpi.data}` is empty", file=str(file), field="data", hint="give it one JSON object a line")
    return found, ""


def _dataset_rows(ws: Workspace, name: str, split: str) -> tuple[list[Document], str]:
    import io

    import pyarrow.parquet as pq

    asset = ws.resolve(name, Dataset.KIND)
    entry = ws.artifacts.manifest(asset.body["manifest"]).entry(f"{split}.parquet")
    if entry is None:
        known = ", ".join(f"`{known}`" for known in sorted(asset.body["splits"]))
        raise NotFound(f"dataset `{name}` has no split `{split}`", hint=f"splits: {known}")
    table = pq.read_table(io.BytesIO(ws.artifacts.read_bytes(entry.blake3)))
    rows = [Document(row.pop("text"), row) for row in table.to_pylist()]
    if not rows:
        raise SpecError(f"split `{split}` of dataset `{name}` is empty", field="data", hint="hold out more of it")
    return rows, asset.id


def _jsonl(path: Path) -> list[tuple[Path, int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise NotFound(f"no data file `{path}`", hint="paths are relative to the suite file") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise SpecError("not a JSON object", file=str(path), line=number, hint="one JSON object a line")
        found.append((path, number, row))
    return found


def _document(row: dict[str, Any], kpi: Kpi, path: Path, line: int) -> Document:
    name = "input" if kpi.task == "exact_match" and "input" in row else "text"
    if not isinstance(row.get(name), str):
        raise SpecError(f"no `{name}` text", file=str(path), line=line, hint=f"`{kpi.task}` needs a text in each row")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise SpecError("a lone surrogate is not text", file=str(path), line=line, hint="write it escaped") from None
    return Document(row[name], {key: value for key, value in row.items() if key != name})


def _task_files(kpi: Kpi, file: Path) -> dict[str, bytes]:
    """Return the task's file, what lies beside it, and its data: all that a run of it may read."""
    path = file.parent / kpi.task.partition("@")[0]
    if not path.is_file():
        raise NotFound(f"no task file `{path}`", hint="`task` is `path.py@name`, relative to the suite file")
    found = {path}
    if path.parent != file.parent:
        found |= {near for near in path.parent.iterdir() if near.is_file() and near.suffix in _TASK_FILES}
    if kpi.data:
        found.add(file.parent / kpi.data)
    try:
        return {each.relative_to(file.parent).as_posix(): each.read_bytes() for each in sorted(found)}
    except FileNotFoundError as error:
        raise NotFound(f"no data file `{error.filename}`", hint="paths are relative to the suite file") from None
    except ValueError:
        raise SpecError(f"`{kpi.task}` lies outside the suite's folder", file=str(file), field="task",
                        hint="keep tasks and data beside the suite file") from None  # fmt: skip
