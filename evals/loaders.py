"""The rows of a KPI's data: JSONL, Parquet, a dataset's split, or a file sealed for the evaluator.

What is wrong with them is named by file and line before anything is measured.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.harness.tasks import Document
from evals.samples import Sample, sample_id
from registry.errors import NotFound, SpecError
from registry.records import Dataset

if TYPE_CHECKING:
    from evals.kpi import Kpi
    from registry.workspace import Workspace

SEALED = ".sealed"
_PARQUET = (".parquet", ".pq")
_PLAIN_TEXT = frozenset({"bits_per_byte", "next_line"})
"""Tasks over documents, whose rows hold `text`; the others' rows may hold `input` instead."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a KPI's data, each with its line (JSONL) or number (Parquet), counted from 1.

    `place` names where they are for errors; `dataset` is the id of the dataset they come from, if any; `sealed` is the
    encrypted file as it lies there, empty where the data is in the clear.
    """

    place: str
    rows: tuple[tuple[int, dict[str, Any]], ...]
    dataset: str = ""
    sealed: bytes = b""


def load_rows(ws: Workspace, kpi: Kpi, suite_path: Path) -> Rows:
    """Return the rows of a KPI's data as they stand.

    Raises:
        SpecError: the data is empty, no UTF-8 text, or a line is no JSON object or holds a lone surrogate.
        NotFound: no such file, dataset or split.
        Refused: sealed data that the acting evaluator may not open.
        Tampered: stored or sealed bytes differ from what was recorded.
    """
    if kpi.data.startswith("dataset:"):
        found = _split(ws, *kpi.data.removeprefix("dataset:").split("#", 1))
    else:
        found = _file(ws, kpi.data, suite_path)
    if not found.rows:
        raise SpecError(
            f"`{kpi.id}`: {found.place} is empty", file=str(suite_path), field="data",
            hint="give it one row a sample, or hold out more of the dataset",
        )  # fmt: skip
    return found


def load_documents(ws: Workspace, kpi: Kpi, suite_path: Path) -> tuple[list[Document], str, bool]:
    """Return a KPI's documents, the id of the dataset they come from (or empty), and whether they are sealed.

    A document's text is the row's `input` or, for tasks over plain documents, its `text`.

    Raises:
        SpecError: as `load_rows` does; a row without text, or two rows that ask the same (named by their lines).
        NotFound, Refused, Tampered: as `load_rows` does.
    """
    found = load_rows(ws, kpi, suite_path)
    seen: dict[str, int] = {}
    documents = []
    for line, row in found.rows:
        document = _document(row, kpi, found.place, line)
        key = sample_id(document.text, document.fields.get("target", ""), _choices(document.fields.get("choices")))
        if seen.setdefault(key, line) != line:
            raise SpecError(
                f"asks the same as line {seen[key]}", file=found.place, line=line, field="data",
                hint="every sample counts once: remove one of the two, or use `epochs` to ask it several times",
            )  # fmt: skip
        documents.append(document)
    return documents, found.dataset, bool(found.sealed)


def kept_files(ws: Workspace, kpi: Kpi, samples: Sequence[Sample], suite_path: Path) -> dict[str, bytes]:
    """Return what the suite's manifest keeps of a KPI's planned samples, path in the suite to bytes.

    Of sealed data only ids and clusters are written in the clear, beside the sealed file itself.
    """
    sealed = kpi.data.endswith(SEALED)
    shown = ({"id": each.id, "cluster": each.cluster} if sealed else each.plain() for each in samples)
    lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in shown)
    files = {f"samples/{kpi.id}.jsonl": lines.encode()}
    return {**files, f"sealed/{Path(kpi.data).name}": _file(ws, kpi.data, suite_path).sealed} if sealed else files


def _split(ws: Workspace, name: str, split: str) -> Rows:
    asset = ws.resolve(name, Dataset.KIND)
    entry = ws.artifacts.manifest(asset.body["manifest"]).entry(f"{split}.parquet")
    if entry is None:
        known = ", ".join(f"`{known}`" for known in sorted(asset.body["splits"]))
        raise NotFound(f"dataset `{name}` has no split `{split}`", hint=f"splits: {known}")
    place = f"split `{split}` of dataset `{name}`"
    return Rows(place, tuple(_parquet(ws.artifacts.read_bytes(entry.blake3), place)), asset.id)


def _file(ws: Workspace, data: str, suite_path: Path) -> Rows:
    path = suite_path.parent / data
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"no data file `{path}`", hint="paths are relative to the suite file") from None
    except IsADirectoryError:
        raise NotFound(f"`{path}` is a folder", hint="name a JSONL or Parquet file") from None
    sealed, text = b"", stored
    if path.suffix == SEALED:
        from registry import sealing

        sealed, text = stored, sealing.open_sealed(ws, stored)
        path = path.with_suffix("")
    read = _parquet if path.suffix in _PARQUET else _jsonl
    return Rows(str(suite_path.parent / data), tuple(read(text, str(suite_path.parent / data))), "", sealed)


def _parquet(data: bytes, place: str) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        message = str(error).splitlines()[0]
        raise SpecError(f"not a Parquet file: {message}", file=place, hint="name a JSONL or Parquet file") from None
    except UnicodeDecodeError:
        raise SpecError("a text column is not UTF-8", file=place, hint="write it as UTF-8") from None
    return enumerate(rows, start=1)


def _jsonl(data: bytes, place: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Split at line feeds alone: JSON text may hold the other line ends of Unicode.
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = json.dumps(row, ensure_ascii=False)
        except UnicodeDecodeError:
            raise SpecError("not UTF-8 text", file=place, line=number, hint="save the file as UTF-8") from None
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise SpecError("not a JSON object", file=place, line=number, hint="one JSON object a line")
        if not _is_text(text):
            raise SpecError("a lone surrogate is not text", file=place, line=number, hint="write the whole character")
        yield number, row


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _document(row: dict[str, Any], kpi: Kpi, place: str, line: int) -> Document:
    name = "input" if "input" in row and kpi.task not in _PLAIN_TEXT else "text"
    if not isinstance(row.get(name), str):
        wanted = "text" if kpi.task in _PLAIN_TEXT else "input"
        raise SpecError(f"no `{wanted}` text", file=place, line=line, hint=f"`{kpi.task}` needs a text in each row")
    return Document(row[name], {key: value for key, value in row.items() if key != name})


def _choices(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
