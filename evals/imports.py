"""Import results of another harness as an EvalRun, under the rules that hold for our own: complete, or nothing.

What makes two imports comparable: the instrument digest holds what the suite says of the other harness (name and
version, metric, epochs, planned samples); the first import of an instrument also fixes its samples, their clusters,
weights, slices and scorer, and an import that differs is refused. A candidate is imported once for an instrument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.adapters import ADAPTERS
from evals.incoming import Intake, Line, read_lines
from evals.kpi import Kpi
from evals.samples import Row, encode, read_table
from evals.suite import SuiteSpec
from registry import specs
from registry.errors import Refused, SpecError, UnknownName
from registry.records import Asset, Candidate, EvalRun
from registry.workspace import Workspace

if TYPE_CHECKING:
    from evals.instrument import Instrument

CONTROLS = ("null_model", "planted_violator")
FORMATS = ("rows", *ADAPTERS)
_FIXED = ("sample_id", "cluster", "weight", "slices", "scorer")


def import_rows(
    ws: Workspace, candidate_id: str, suite_path: Path, file: Path, *, actor: str, control: str = "",
    form: str = "rows", kpi: str = "",
) -> Asset:  # fmt: skip
    """Return the EvalRun that holds another harness's rows; the same rows imported again give the same one.

    Args:
        ws: the workspace.
        candidate_id: a reference to the candidate that was measured; of a control, the one it stands beside.
        suite_path: the suite's YAML file; the rows' KPIs have `harness: import` there.
        file: JSONL or Parquet with the columns of `evals.incoming.COLUMNS`, or what `form` names.
        actor: the principal who imports.
        control: the control that was measured instead of a candidate, else empty.
        form: `rows`, `lm-eval` (a `samples_*.jsonl` of `--log_samples`) or `inspect` (a log).
        kpi: the KPI that the file's values are for; only for harnesses' own files, where the suite imports several.

    Raises:
        SpecError: the suite, or rows that are not valid, not complete or not those of the first import; nothing is
            stored.
        UnknownName, NotFound: a candidate, KPI, control, format or file that is not there.
        Refused: this candidate's values were imported before and differ.
    """
    from evals.evaluate import open_suite

    if control and control not in CONTROLS:
        raise UnknownName("control", control, CONTROLS)
    spec = specs.load(suite_path, SuiteSpec)
    candidate = ws.resolve(candidate_id, Candidate.KIND)
    intake = Intake({each.id: each for each in spec.kpis}, control)
    for line in _lines(spec, file, form, kpi):
        intake.take(line)
    rows = intake.finish(str(file))
    suite, instruments = open_suite(ws, suite_path, actor)
    digests = {each.kpi.id: each.digest for each in instruments if each.kpi.id in rows}
    _same_samples(ws, digests, rows, str(file))
    record = _record(ws, candidate, suite, [each for each in instruments if each.kpi.id in rows], rows, control)
    _once(ws, record)
    parents = [("candidate", candidate.id), ("suite", suite.id)]
    return ws.register(record, actor=actor, name=suite.name, parents=parents)


def _lines(spec: SuiteSpec, file: Path, form: str, name: str) -> Iterable[Line]:
    if form not in FORMATS:
        raise UnknownName("format", form, FORMATS)
    if form == "rows":
        return read_lines(file)
    return ADAPTERS[form](file, _target(spec, name))


def _target(spec: SuiteSpec, name: str) -> Kpi:
    """Return the KPI that a harness's own file is for."""
    imported = {kpi.id: kpi for kpi in spec.kpis if kpi.harness == "import"}
    if name:
        if name not in imported:
            raise UnknownName("imported KPI", name, imported)
        return imported[name]
    if len(imported) != 1:
        raise SpecError(
            f"the suite imports {len(imported)} KPIs", field="kpi", hint="name the one that the file is for"
        )
    return next(iter(imported.values()))


def _record(
    ws: Workspace, candidate: Asset, suite: Asset, instruments: Sequence[Instrument], rows: Mapping[str, list[Row]],
    control: str,
) -> EvalRun:  # fmt: skip
    blob = encode(row for found in rows.values() for row in found)
    errors = {name: len({row.sample_id for row in found if row.error}) for name, found in rows.items()}
    planned = {each.kpi.id: each.kpi.samples for each in instruments}
    return EvalRun(
        candidate=candidate.id,
        suite=suite.id,
        instruments={each.kpi.id: each.digest for each in instruments},
        results=ws.artifacts.add_bytes(blob, "application/vnd.apache.parquet"),
        planned=planned,
        completed={name: count - errors[name] for name, count in planned.items()},
        errors=errors,
        target=dict.fromkeys(planned, "import"),
        harness={each.kpi.id: each.kpi.task for each in instruments},
        control=control,
        imported=True,
    )


def _imported(ws: Workspace) -> list[Asset]:
    return [run for run in ws.assets(EvalRun.KIND) if run.body["imported"]]


def _same_samples(ws: Workspace, digests: Mapping[str, str], rows: Mapping[str, list[Row]], file: str) -> None:
    """Refuse rows whose samples, clusters, weights, slices or scorer are not those of the instrument's first import."""
    runs = _imported(ws)
    for name, digest in digests.items():
        first = next((run for run in runs if run.body["instruments"].get(name) == digest), None)
        if first is None:
            continue
        before = _fixed(read_table(ws.artifacts.read_bytes(first.body["results"])), name)
        now = {row.sample_id: tuple(getattr(row, each) for each in _FIXED) for row in rows[name]}
        if now == before:
            continue
        odd = min(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        missing, new = len(before.keys() - now.keys()), len(now.keys() - before.keys())
        what = f"{missing} samples are missing and {new} are new" if missing or new else _changed(before[odd], now[odd])
        raise SpecError(
            f"`{name}` was imported before with other samples: {what}, first `{odd}`", file=file,
            hint="import the same samples; or give the KPI's `task` a new version: what came before is then not "
            "compared with it",
        )  # fmt: skip


def _fixed(table: Any, kpi: str) -> dict[str, tuple[Any, ...]]:
    columns = [table[name].to_pylist() for name in ("kpi", *_FIXED)]
    return {row[1]: row[1:] for row in zip(*columns, strict=True) if row[0] == kpi}


def _changed(before: Sequence[Any], now: Sequence[Any]) -> str:
    name, old, new = next(each for each in zip(_FIXED, before, now, strict=True) if each[1] != each[2])
    return f"`{name}` is {new!r} and was {old!r}"


def _once(ws: Workspace, record: EvalRun) -> None:
    """Refuse other values for what was imported before: results are not tried until they please."""
    for run in _imported(ws):
        if run.id == record.id or (run.body["candidate"], run.body["control"]) != (record.candidate, record.control):
            continue
        for name, digest in record.instruments.items():
            if run.body["instruments"].get(name) == digest:
                raise Refused(
                    f"`{name}` of this {record.control or 'candidate'} was imported before, as `{run.id[:19]}`",
                    hint="the first import counts; leave its rows out, or import another candidate",
                )
