"""Plan an existing lm-eval task file: its samples, and the files that a run of it may read.

The plan is made in a child process and kept; it is made again when a file that it was made from has changed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.harness.child import run_child
from evals.harness.protocol import Planned
from evals.harness.tasks import choose
from evals.samples import Sample
from registry.errors import EngineFailure, NotFound, SpecError
from registry.protocols import silent
from registry.records import digest_of, sha256
from registry.workspace import Workspace

if TYPE_CHECKING:
    from evals.kpi import Kpi

SUFFIXES = frozenset({".py", ".json", ".jsonl", ".yaml", ".yml", ".txt", ".md", ".csv", ".tsv", ".parquet"})
_CODE = (Path(__file__), Path(__file__).parents[1] / "children" / "lm_eval_plan.py")
_SKIPPED = frozenset({"__pycache__", ".ipynb_checkpoints"})
_RULES_OF_EVENTS = ("max_rate", "zero_tolerance")


def exported(kpi: Kpi) -> str:
    """Return where in the suite's manifest a task file's data lies: `data`, or the rows of the dataset it names."""
    return f"samples/{kpi.id}.data.jsonl" if kpi.data.startswith("dataset:") else kpi.data


def plan_file(ws: Workspace, kpi: Kpi, suite: Path, scorer: Mapping[str, Any]) -> Planned:
    """Return the planned samples and files of a KPI whose task is an lm-eval task file.

    Raises:
        SpecError: a task that lm-eval cannot load, data that is not here, a wrong metric, equal documents, too few of
            them, or files outside the suite's folder.
        NotFound: no such file.
    """
    root = suite.parent.resolve()
    path = root / kpi.task.partition("@")[0]
    if not path.is_file():
        raise NotFound(
            f"no task file `{path}`", hint="`task` is `path.yaml` or `path.yaml@name`, beside the suite file"
        )
    if not path.resolve().is_relative_to(root):
        raise SpecError(f"`{kpi.task}` lies outside the suite's folder", file=str(suite), field="task",
                        hint="keep tasks and data beside the suite file")  # fmt: skip
    if kpi.data.endswith(".sealed"):
        raise SpecError(f"`{kpi.id}`: a task file reads its data itself", file=str(suite), field="data",
                        hint="sealed data is for built-in tasks")  # fmt: skip
    extra, dataset = _dataset(ws, kpi, suite)
    asked = {
        "kpi": kpi.id, "task": kpi.task, "metric": kpi.metric, "data": kpi.data, "cluster": kpi.cluster,
        "slices": list(kpi.slices), "rows": {name: sha256(data) for name, data in extra.items()},
    }  # fmt: skip
    made_by = [dict(scorer), *(sha256(code.read_bytes()) for code in _CODE)]
    kept = ws.work("evals", "plans") / f"{digest_of([asked, str(root), made_by]).removeprefix('sha256:')}.json"
    found = _kept(kept, root, path)
    if found is None:
        found = _made(ws, kpi, root, path, extra, asked)
        kept.write_text(json.dumps(found), encoding="utf-8")
    _check(kpi, found, suite)
    samples = [_sample(each) for each in found["samples"]]
    chosen = choose(samples, kpi.samples)
    files = {name: (root / name).read_bytes() for name in found["files"]}
    return Planned(tuple(chosen), {**files, **extra}, dataset)


def _dataset(ws: Workspace, kpi: Kpi, suite: Path) -> tuple[dict[str, bytes], str]:
    """Return the rows of the dataset that stands for the task's own, as a file of the manifest; and its id."""
    if not kpi.data.startswith("dataset:"):
        return {}, ""
    from evals.loaders import load_rows

    found = load_rows(ws, kpi, suite)
    lines = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for _, row in found.rows)
    return {exported(kpi): lines.encode()}, found.dataset


def _made(
    ws: Workspace, kpi: Kpi, root: Path, path: Path, extra: Mapping[str, bytes], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Ask a child for the plan."""
    with tempfile.TemporaryDirectory(dir=ws.work("evals"), prefix="plan-") as name:
        scratch = Path(name)
        data = kpi.data
        for file, rows in extra.items():
            target = scratch / Path(file).name
            target.write_bytes(rows)
            data = str(target)
        out = scratch / "plan.json"
        request = {**asked, "suite": str(root), "data": data, "out": str(out)}
        opened: list[str] | None = None
        for message in run_child("evals.children.lm_eval_plan", request, scratch=scratch, progress=silent):
            opened = message["opened"]
        if opened is None:
            raise EngineFailure(f"lm-eval gave no plan of `{kpi.id}`", hint="plan the suite again")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    names = sorted({*opened, *_near(root, path, kpi)})
    files = {name: sha256((root / name).read_bytes()) for name in names}
    return {**found, "files": files, "listing": _listing(root, path, files)}


def _kept(kept: Path, root: Path, path: Path) -> dict[str, Any] | None:
    """Return a plan that was made before, unless one of its files has changed, gone or come."""
    try:
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        files = {name: sha256((root / name).read_bytes()) for name in found["files"]}
    except (OSError, ValueError, KeyError):
        return None
    same = files == found["files"] and _listing(root, path, files) == found["listing"]
    return found if same else None


def _near(root: Path, path: Path, kpi: Kpi) -> set[str]:
    """Return the files that belong to a task whether it read them or not: those beside it, and its data."""
    found = set()
    if path.parent != root:
        found = {near for near in path.parent.rglob("*") if near.is_file() and near.suffix in SUFFIXES}
    data = root / kpi.data if kpi.data and not kpi.data.startswith("dataset:") else None
    if data is not None:
        found |= {data} if data.is_file() else {each for each in data.rglob("*") if each.is_file()}
    kept = {each for each in found if not _SKIPPED & set(each.parts)}
    return {each.resolve().relative_to(root).as_posix() for each in kept} | {path.relative_to(root).as_posix()}


def _listing(root: Path, path: Path, files: Mapping[str, Any]) -> str:
    """Return a digest of what lies in the folders that a plan read from: a new file there may belong to it."""
    folders = {path.parent} | {(root / name).parent for name in files}
    names = [each.relative_to(root).as_posix() for folder in folders for each in folder.iterdir()]
    return digest_of(sorted(name for name in names if Path(name).suffix in SUFFIXES))


def _check(kpi: Kpi, found: Mapping[str, Any], suite: Path) -> None:
    """Refuse a plan that does not fit the KPI."""
    higher, samples = found["higher"], found["samples"]
    if higher is not None and kpi.rule.type not in _RULES_OF_EVENTS and higher != (kpi.direction == "higher"):
        raise SpecError(
            f"`{kpi.id}`: `direction: {kpi.direction}` is backwards", file=str(suite), field="direction",
            hint=f"the task says that {'higher' if higher else 'lower'} is better",
        )  # fmt: skip
    if kpi.endpoint == "guarded" and not found["said"]:
        raise SpecError(
            f"`{kpi.id}`: this task needs log-likelihoods", file=str(suite), field="endpoint",
            hint="use `endpoint: weights`; the guarded endpoint only answers",
        )  # fmt: skip
    if len(samples) < kpi.samples:
        raise SpecError(
            f"`{kpi.id}` plans {kpi.samples} samples, its task has {len(samples)}", file=str(suite), field="samples",
            hint="plan fewer samples or give the task more documents",
        )  # fmt: skip


def _sample(plain: Mapping[str, Any]) -> Sample:
    slices: Sequence[Sequence[str]] = plain["slices"]
    return Sample(
        plain["id"], plain["cluster"], plain["input"], plain["target"], tuple(plain["choices"]),
        tuple((pair[0], pair[1]) for pair in slices),
    )  # fmt: skip
