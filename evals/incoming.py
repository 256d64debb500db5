"""Rows that another harness measured: read from its file, and checked before any of them is stored.

Nothing is repaired, dropped or guessed: what is wrong is named by file and line.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evals.kpi import Kpi
from evals.samples import Row, detail, sample_id
from registry.errors import NotFound, SpecError, UnknownName

COLUMNS = (
    "sample", "kpi", "value", "weight", "cluster", "epoch", "error", "output", "slices", "latency_ms", "prompt_tokens",
    "completion_tokens", "scorer", "input", "target",
)  # fmt: skip
"""What a row may hold; `sample`, `kpi`, and one of `value` and `error` it must."""
_PARQUET = (".parquet", ".pq")
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Line:
    """One row as its file holds it; `number` is its line (JSONL) or its place (Parquet), counted from 1."""

    file: str
    number: int
    fields: Mapping[str, Any]

    def wrong(self, message: str, hint: str, name: str | None = None) -> SpecError:
        """Return the error that names this line."""
        return SpecError(message, file=self.file, line=self.number, field=name, hint=hint)


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the rows of a JSONL or Parquet file as they stand.

    Raises:
        NotFound: no such file.
        SpecError: it is no Parquet or UTF-8 text, or a line is no JSON object, names a key twice or is no text.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"no file `{path}`", hint="name the rows' JSONL or Parquet file") from None
    except IsADirectoryError:
        raise NotFound(f"`{path}` is a folder", hint="name the rows' JSONL or Parquet file inside it") from None
    return _parquet(path) if path.suffix in _PARQUET else _jsonl(data, str(path))


def _parquet(path: Path) -> Iterator[Line]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        message = str(error).splitlines()[0]
        raise SpecError(f"not a Parquet file: {message}", file=str(path), hint="name a JSONL or Parquet file") from None
    for number, row in enumerate(table.to_pylist(), start=1):
        yield Line(str(path), number, row)


def _jsonl(data: bytes, file: str) -> Iterator[Line]:
    for number, text in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if text.strip():
            yield _line(text, file, number)


def _line(text: bytes, file: str, number: int) -> Line:
    line = Line(file, number, {})

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise line.wrong("a key is given twice", "keep one of the two: most readers would silently take the last")
        return found

    try:
        row = json.loads(text, object_pairs_hook=once)
    except UnicodeDecodeError:
        raise line.wrong("not UTF-8 text", "save the file as UTF-8") from None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise line.wrong("not a JSON object", "one JSON object a line")
    return Line(file, number, row)


@dataclass(slots=True)
class Intake:
    """Takes rows in, one by one; `rows` are those taken so far.

    `kpis` are all KPIs of the suite by id; `control` is the name of the control that was measured, empty for a real
    candidate.
    """

    kpis: Mapping[str, Kpi]
    control: str = ""
    rows: list[Row] = field(default_factory=list)
    _seen: dict[tuple[str, str, int], int] = field(default_factory=dict)
    _first: dict[tuple[str, str], tuple[Row, int]] = field(default_factory=dict)

    def take(self, line: Line) -> None:
        """Check one row and keep it. Raises SpecError, with the line, for anything that would spoil a verdict."""
        _closed(line)
        kpi = self._kpi(line)
        row = _row(line, kpi)
        _in_range(line, kpi, row)
        before = self._seen.setdefault((row.kpi, row.sample_id, row.epoch), line.number)
        if before != line.number:
            raise line.wrong(
                f"the same sample and epoch of `{kpi.id}` as line {before}",
                "keep one of the two; number repeated measurements with `epoch`",
            )
        first, at = self._first.setdefault((row.kpi, row.sample_id), (row, line.number))
        for name in ("cluster", "slices", "weight"):
            if getattr(first, name) != getattr(row, name):
                raise line.wrong(
                    f"another `{name}` than the same sample has in line {at}",
                    f"a sample keeps its {name} in every epoch", name,
                )  # fmt: skip
        self.rows.append(row)

    def finish(self, file: str) -> dict[str, list[Row]]:
        """Return the rows by KPI. Raises SpecError unless every KPI that has rows is complete, by one scorer."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.kpi, []).append(row)
        if not found:
            raise SpecError("no rows", file=file, hint="one row a sample and epoch: " + ", ".join(COLUMNS[:3]))
        found = {name: _from_zero(rows) for name, rows in found.items()}
        for name, rows in found.items():
            _complete(self.kpis[name], rows, file)
        return found

    def _kpi(self, line: Line) -> Kpi:
        name = _text(line, "kpi")
        kpi = self.kpis.get(name)
        if kpi is None:
            error = UnknownName("KPI", name, self.kpis)
            raise line.wrong(error.message, error.hint or "", "kpi")
        if kpi.harness != "import":
            raise line.wrong(
                f"`{name}` is measured by {kpi.harness}, not imported",
                "declare it with `harness: import` in the suite, or leave its rows out", "kpi",
            )  # fmt: skip
        if self.control and kpi.control != self.control:
            raise line.wrong(
                f"`{name}` has {f'the control `{kpi.control}`' if kpi.control else 'no control'}, not `{self.control}`",
                "import each control's rows for the KPIs that name it", "kpi",
            )  # fmt: skip
        return kpi


def foreign_id(given: str) -> str:
    """Return the sample id of a harness's own id: as it is if 32 hexadecimal digits, else BLAKE2b-16 of it."""
    lower = given.lower()
    return lower if _ID.fullmatch(lower) else sample_id(["imported", given])


def _closed(line: Line) -> None:
    for name in line.fields:
        if name not in COLUMNS:
            near = difflib.get_close_matches(str(name), COLUMNS, n=1)
            cure = f"did you mean `{near[0]}`?" if near else "a row holds: " + ", ".join(COLUMNS)
            raise line.wrong("unknown column", cure, str(name))


def _row(line: Line, kpi: Kpi) -> Row:
    name, error = foreign_id(_text(line, "sample", whole=True)), _text(line, "error", needed=False)
    value = _number(line, "value", None)
    if error and value is not None and not math.isnan(value):
        raise line.wrong("a value and an error", "a sample that failed has no value", "value")
    if not error and (value is None or not math.isfinite(value)):
        said = "no value and no error" if value is None else f"{value} is no value"
        raise line.wrong(said, "give a finite number, or say in `error` why there is none", "value")
    weight = _number(line, "weight", 1.0)
    if weight is None or not (math.isfinite(weight) and weight > 0):
        raise line.wrong(f"{weight} is no weight", "give a positive number, or leave it out", "weight")
    cluster = _text(line, "cluster", needed=bool(kpi.cluster), whole=True)
    shown = {each: line.fields[each] for each in ("input", "target") if _text(line, each, needed=False, whole=True)}
    return Row(
        name, kpi.id, _count(line, "epoch"), math.nan if error or value is None else value, weight, cluster or name,
        error, detail(**shown), _slices(line, kpi), _text(line, "output", needed=False),
        _duration(line), _count(line, "prompt_tokens"), _count(line, "completion_tokens"),
        _text(line, "scorer", needed=False),
    )  # fmt: skip


def _in_range(line: Line, kpi: Kpi, row: Row) -> None:
    """Refuse a value outside what the rule allows; a declared `range` clips it later instead."""
    if kpi.range is None and kpi.bounds is not None and not row.error:
        low, high = kpi.bounds
        if not low * row.weight <= row.value <= high * row.weight:
            raise line.wrong(
                f"{row.value:g} lies outside [{low:g}, {high:g}]", f"`{kpi.rule.type}` counts events: 0 or 1", "value"
            )


def _text(line: Line, name: str, *, needed: bool = True, whole: bool = False) -> str:
    """Return a text field, empty where it is missing and not needed; `whole` takes a whole number as text too."""
    value = line.fields.get(name)
    if value is None and not needed:
        return ""
    if whole and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or (needed and not value):
        found = "nothing" if value is None or value == "" else type(value).__name__
        raise line.wrong(f"expected text, found {found}", f"every row needs `{name}`" if needed else "", name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise line.wrong("a lone surrogate is not text", "write the whole character", name) from None
    return value


def _number(line: Line, name: str, missing: float | None) -> float | None:
    value = line.fields.get(name, missing)
    if value is None:
        return missing
    if not isinstance(value, int | float):
        raise line.wrong(f"expected a number, found {type(value).__name__}", "write it without quotes", name)
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _count(line: Line, name: str) -> int:
    value = line.fields.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise line.wrong(f"expected a count, found {value!r}"[:120], "a whole number from 0 on", name)
    return value


def _duration(line: Line) -> float:
    found = _number(line, "latency_ms", 0.0) or 0.0
    if not (math.isfinite(found) and found >= 0):
        raise line.wrong(f"{found} is no duration", "milliseconds, from 0 on", "latency_ms")
    return found


def _slices(line: Line, kpi: Kpi) -> str:
    """Return the slices as the JSON object that rows hold: field to text; those that the KPI declares must be there."""
    given = line.fields.get("slices")
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except ValueError:
            given = ...
    if given is None:
        given = {}
    if isinstance(given, dict):
        given = {name: value for name, value in given.items() if value is not None}  # what Parquet has for "not there"
    if not isinstance(given, dict) or not all(isinstance(each, str | int | float) for each in given.values()):
        raise line.wrong("not an object of field and value", 'write `{"language": "de"}`', "slices")
    lacking = [name for name in kpi.slices if name not in given]
    if lacking:
        raise line.wrong(f"`{lacking[0]}` is missing", f"`{kpi.id}` is reported by it", "slices")
    kept = {str(name): str(value) for name, value in sorted(given.items())}
    text = json.dumps(kept, ensure_ascii=False) if kept else ""
    if text != text.encode("utf-8", "replace").decode():
        raise line.wrong("a lone surrogate is not text", "write the whole character", "slices")
    return text


def _from_zero(rows: list[Row]) -> list[Row]:
    """Return the rows with epochs counted from 0 where all of them count from 1, as many harnesses do."""
    if any(row.epoch == 0 for row in rows):
        return rows
    return [replace(row, epoch=row.epoch - 1) for row in rows]


def _complete(kpi: Kpi, rows: Iterable[Row], file: str) -> None:
    epochs: dict[str, list[int]] = defaultdict(list)
    scorers = set()
    for row in rows:
        epochs[row.sample_id].append(row.epoch)
        scorers.add(row.scorer)
    if len(epochs) != kpi.samples:
        more = len(epochs) > kpi.samples
        raise SpecError(
            f"`{kpi.id}` has {len(epochs)} samples, {kpi.samples} are planned", file=file, field="samples",
            hint="import exactly the planned samples" if more else "import them all at once: a part is never stored",
        )  # fmt: skip
    planned = list(range(kpi.epochs))
    odd = next((name for name, found in epochs.items() if sorted(found) != planned), None)
    if odd is not None:
        raise SpecError(
            f"`{kpi.id}` has {len(epochs[odd])} row(s) of sample `{odd}`, {kpi.epochs} epoch(s) are planned",
            file=file, field="epochs", hint="every sample needs every epoch, numbered from 0 (or 1) without gaps",
        )  # fmt: skip
    if len(scorers) > 1:
        raise SpecError(
            f"`{kpi.id}` was scored by {len(scorers)} scorers", file=file, field="scorer",
            hint="values of different scorers cannot be compared; score all samples with one",
        )  # fmt: skip
