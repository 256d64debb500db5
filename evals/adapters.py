"""Files that other harnesses write, read as rows of one KPI: lm-eval's logged samples, and inspect's logs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evals.incoming import Line, read_lines
from evals.kpi import Kpi
from registry.errors import NotFound, SpecError

_TIMEOUT_S = 600


def lm_eval_lines(path: Path, kpi: Kpi) -> Iterator[Line]:
    """Yield the rows of a `samples_<task>_<time>.jsonl` that lm-eval wrote with `--log_samples`.

    The KPI's `metric` is lm-eval's own name for the value (`exact_match`, or `exact_match,strict-match` where a task
    has several filters); its `cluster` and `slices` are fields of the document. A sample is known by `doc_hash`.

    Raises:
        NotFound: no such file.
        SpecError: not such a file, or a sample without a number of that metric.
    """
    metric, _, wanted = kpi.metric.partition(",")
    for line in read_lines(path):
        fields = line.fields
        if not isinstance(fields.get("doc"), Mapping) or not isinstance(fields.get("doc_hash"), str):
            raise line.wrong("not a logged sample of lm-eval", "name a `samples_*.jsonl` of `--log_samples`")
        if wanted and fields.get("filter") != wanted:
            continue
        name = metric or _only(line, fields.get("metrics"))
        value = fields.get(name)
        if not isinstance(value, int | float):
            known = ", ".join(f"`{each}`" for each in fields.get("metrics") or ())
            raise line.wrong(f"no number `{name}`", f"metrics of this sample: {known or 'none'}", "metric")
        doc = fields["doc"]
        row = {
            "sample": fields["doc_hash"], "kpi": kpi.id, "value": value, "output": _first(fields.get("filtered_resps")),
            "input": _asked(fields.get("arguments")), "target": _shown(fields.get("target")),
            "scorer": ",".join(each for each in (name, fields.get("filter")) if isinstance(each, str)),
        }  # fmt: skip
        yield Line(line.file, line.number, {**row, **_groups(line, kpi, doc)})


def inspect_lines(path: Path, kpi: Kpi) -> Iterator[Line]:
    """Yield the rows of an inspect log (`.eval` or `.json`), read by inspect itself in a child process.

    The KPI's `metric` names the scorer (empty: the only one); its `cluster` and `slices` are metadata of the sample.

    Raises:
        NotFound: no such file.
        SpecError: not a finished log, or a sample without a score of that scorer.
    """
    if not path.is_file():
        raise NotFound(f"no file `{path}`", hint="name the log that inspect wrote")
    command = [sys.executable, "-P", "-m", "evals.children.read_inspect_log", str(path), kpi.metric]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise SpecError("the log could not be read in time", file=str(path), hint="import a smaller log") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise SpecError(
            said[-1] if said else "inspect could not read it", file=str(path), hint="name a log of a finished run"
        )
    for number, text in enumerate(done.stdout.splitlines(), start=1):
        line = Line(str(path), number, json.loads(text))
        fields = dict(line.fields)
        metadata = fields.pop("metadata")
        yield Line(str(path), number, {**fields, "kpi": kpi.id, **_groups(line, kpi, metadata)})


ADAPTERS: dict[str, Callable[[Path, Kpi], Iterable[Line]]] = {"lm-eval": lm_eval_lines, "inspect": inspect_lines}
"""By format, what reads a harness's own file as rows of one KPI."""


def _groups(line: Line, kpi: Kpi, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cluster and the slices of a sample from its document."""
    lacking = [name for name in (kpi.cluster, *kpi.slices) if name and source.get(name) is None]
    if lacking:
        known = ", ".join(f"`{name}`" for name in source)
        raise line.wrong(f"the sample has no field `{lacking[0]}`", f"fields: {known or 'none'}", lacking[0])
    found: dict[str, Any] = {"slices": {name: str(source[name]) for name in kpi.slices}}
    return {**found, "cluster": str(source[kpi.cluster])} if kpi.cluster else found


def _only(line: Line, metrics: Any) -> str:
    if not isinstance(metrics, list) or len(metrics) != 1:
        shown = ", ".join(map(str, metrics)) if isinstance(metrics, list) else "none"
        raise line.wrong("which metric is the value?", f"set the KPI's `metric`; this sample has: {shown}", "metric")
    return str(metrics[0])


def _asked(arguments: Any) -> str:
    """Return the beginning of what the model was asked: the first argument of the first request."""
    while isinstance(arguments, Mapping | list) and arguments:
        arguments = next(iter(arguments.values())) if isinstance(arguments, Mapping) else arguments[0]
    return _shown(arguments)


def _first(answers: Any) -> str:
    while isinstance(answers, list) and answers:
        answers = answers[0]
    return _shown(answers)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()
