"""Sample rows: one measured value per sample, KPI and epoch, and the Parquet blob that an EvalRun cites."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from operator import attrgetter
from typing import Any

from evals.results import Results
from registry.errors import EngineFailure
from registry.records import EvalRun, canonical
from registry.workspace import Workspace

PREVIEW = 160
"""How many characters of an input or output a row's detail shows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured value.

    For ratio metrics (bits per byte) `value` is the numerator and `weight` the denominator; else `weight` is 1.
    `error` is empty for a good row; a row with an error has the value NaN and is kept, never dropped. `slices` is a
    JSON object of field to value, or empty. `output` is what the model said (the beginning of it), `latency_ms` how
    long it took and the token counts what it cost, each 0 or empty where unknown. `scorer` is the digest of what made
    the value, a judge included.
    """

    sample_id: str
    kpi: str
    epoch: int
    value: float
    weight: float
    cluster: str
    error: str = ""
    detail: str = "{}"
    slices: str = ""
    output: str = ""
    latency_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    scorer: str = ""


_LATER = {each.name: each.default for each in fields(Row)[8:]}
"""Columns that blobs of earlier releases lack, and what their rows hold instead."""
_MISSING = {**_LATER, "value": math.nan, "weight": math.nan, "detail": "{}"}
"""What a null stands for, by column; empty text in the others."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One planned question: what the model sees, what is right, and the cluster it belongs to."""

    id: str
    cluster: str
    input: str
    target: str = ""
    choices: tuple[str, ...] = ()
    slices: tuple[tuple[str, str], ...] = ()
    """Field and value of each slice that it belongs to."""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**asdict(self), "choices": list(self.choices), "slices": [list(pair) for pair in self.slices]}


def sample_id(text: Any, target: Any = "", choices: Sequence[str] = ()) -> str:
    """Return 32 hex digits: BLAKE2b-16 of the canonical JSON of input, target and choices.

    The same question has the same id whatever file, order or prompt template it comes in, so two candidates are
    compared by a join on this id.
    """
    return hashlib.blake2b(canonical([text, target, list(choices)]), digest_size=16).hexdigest()


def make_sample(text: str, *, cluster: str = "", target: str = "", choices: Sequence[str] = ()) -> Sample:
    """Return a sample with its id; a sample without a cluster is a cluster of its own."""
    name = sample_id(text, target, choices)
    return Sample(name, cluster or name, text, target, tuple(choices))


def preview(text: str) -> str:
    """Return the beginning of a text, for a row's detail."""
    return text if len(text) <= PREVIEW else text[: PREVIEW - 1] + "…"


def detail(**fields: Any) -> str:
    """Return a row's detail: JSON of short previews; lone surrogates are replaced so that it is valid UTF-8."""
    shown = {name: preview(value) if isinstance(value, str) else value for name, value in fields.items()}
    return json.dumps(shown, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")


def schema() -> Any:
    """Return the Arrow schema of the results blob, a column a field of `Row`."""
    import pyarrow as pa

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    return pa.schema(
        [
            ("sample_id", text), ("kpi", text), ("epoch", pa.int32()), ("value", real), ("weight", real),
            ("cluster", text), ("error", text), ("detail", text), ("slices", text), ("output", text),
            ("latency_ms", real), ("prompt_tokens", whole), ("completion_tokens", whole), ("scorer", text),
        ]
    )  # fmt: skip


def encode(rows: Iterable[Row]) -> bytes:
    """Return rows as Parquet, ordered by KPI, sample and epoch so that equal rows give equal order."""
    import pyarrow as pa

    ordered = sorted(rows, key=attrgetter("kpi", "sample_id", "epoch"))
    columns = {name: list(map(attrgetter(name), ordered)) for name in schema().names}
    return write_table(pa.table(columns, schema=schema()))


def write_table(table: Any) -> bytes:
    """Return an Arrow table of rows as the Parquet bytes of a results blob; the table must have the blob's schema."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_table(data: bytes) -> Any:
    """Return the rows of a Parquet blob as an Arrow table with every column of `schema()`, none of them null.

    Blobs of earlier releases lack the newer columns: they are filled with the defaults of `Row`. A missing text is
    empty, a missing number NaN, as the gate reads it.

    Raises:
        EngineFailure: a column that was always there is missing or of another type, or the bytes are no Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_table(io.BytesIO(data))
        columns = [_column(found, field) for field in schema()]
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, KeyError) as error:
        raise EngineFailure(f"not a results blob: {error}", hint="measure again with `hallmark eval run`") from None
    return pa.table(columns, schema=schema())


def _column(table: Any, field: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if field.name not in table.column_names:
        if field.name not in _LATER:
            raise KeyError(f"no column `{field.name}`")
        return pa.repeat(pa.scalar(_LATER[field.name], field.type), table.num_rows)
    column = table.column(field.name).cast(field.type)
    return pc.fill_null(column, pa.scalar(_MISSING.get(field.name, ""), field.type)) if column.null_count else column


def decode(data: bytes) -> list[Row]:
    """Return the rows of a Parquet blob. Raises EngineFailure as `read_table` does."""
    return list(map(Row, *(column.to_pylist() for column in read_table(data).columns)))


def read_runs(ws: Workspace, eval_runs: Sequence[str]) -> Any:
    """Return the rows of several EvalRuns (the looks at one candidate, say) as one Arrow table, in the order given.

    Raises:
        UnknownName, NotFound: no such run.
        Tampered: a blob does not hash to its name.
    """
    import pyarrow as pa

    blobs = [ws.artifacts.read_bytes(ws.get(run, EvalRun).results) for run in eval_runs]
    return pa.concat_tables([read_table(blob) for blob in blobs]) if blobs else schema().empty_table()


def read_results(ws: Workspace, eval_run: str) -> Results:
    """Return the rows of an EvalRun as the gate reads them; a control's results carry the control's name.

    Raises:
        UnknownName, NotFound: no such run.
        Tampered: its blob does not hash to its name.
    """
    run = ws.get(eval_run, EvalRun)
    table = read_table(ws.artifacts.read_bytes(run.results))
    return Results.from_table(run.control or run.candidate, table, run.instruments, run.planned)


def check_complete(rows: Sequence[Row], kpi: str, planned: Iterable[str], epochs: int) -> None:
    """Raise EngineFailure unless the rows are exactly the planned samples, each once an epoch.

    A harness that answers fewer, other or double samples did not do its work; its result is refused as a whole.
    """
    expected = {(name, epoch) for name in planned for epoch in range(epochs)}
    found = [(row.sample_id, row.epoch) for row in rows]
    missing, extra = expected - set(found), set(found) - expected
    if missing or extra or len(found) != len(expected):
        raise EngineFailure(
            f"`{kpi}`: {len(expected)} results were planned, {len(found)} came"
            f" ({len(missing)} missing, {len(extra)} not planned)",
            hint="a partial result is never stored; run the evaluation again",
        )
    wrong = next((row for row in rows if row.kpi != kpi or (not row.error and not _measured(row))), None)
    if wrong is not None:
        raise EngineFailure(
            f"`{kpi}`: sample `{wrong.sample_id}` has no number and no error",
            hint="the harness must give each sample a finite value or say why it could not",
        )


def _measured(row: Row) -> bool:
    return math.isfinite(row.value) and math.isfinite(row.weight) and row.weight > 0
