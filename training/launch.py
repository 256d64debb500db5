"""Run a recipe: resolve what it names, train in a child process, register what came out.

torch never enters the caller's process. The child ends when its caller does; the next call with the same recipe, data
and base goes on from the newest checkpoint, or returns the finished run.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry import errors, withdrawals
from registry.errors import EngineFailure, HallmarkError, Locked, UnknownName
from registry.protocols import Progress, silent
from registry.records import Asset, Dataset, ModelVersion, Run, digest_of, plain
from registry.specs import load
from registry.workspace import Workspace
from training import assets
from training.job import Input, Job, Outcome
from training.recipe import Recipe

log = logging.getLogger(__name__)
LOCK_WAIT = 5.0
METHODS = {"pretrain": "training.pretrain:run", "continue": "training.pretrain:run", "sft": "training.sft:run"}
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "PYTHONHASHSEED": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
"""Offline, repeatable, and considerate: threads that spin while they wait cost 6x the time on a busy machine."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The assets of a finished run; `reused` when they were there already."""

    run: Asset
    version: Asset
    reused: bool = False


def train(
    ws: Workspace, recipe_path: Path, *, actor: str, resume: bool = True, progress: Progress = silent
) -> TrainResult:
    """Train a recipe and register its run and model version.

    A run of the same recipe, data and base that is finished is returned as it is; one that was interrupted goes on
    from its newest checkpoint. With `resume` off neither is looked at: everything is trained again from the start.

    Raises:
        SpecError, UnknownName, NotFound: the recipe is wrong or names what is not there.
        Tampered: a dataset, the base or a checkpoint does not hash to what was recorded.
        Locked: another process trains the same recipe; EngineFailure: the child died.
    """
    recipe = load(recipe_path, Recipe)
    shares = {(ws.resolve(ref, "dataset").id, split): share for (ref, split), share in recipe.data.weights().items()}
    datasets = sorted({dataset for dataset, _ in shares})
    base = ws.resolve(recipe.base, "version") if recipe.base else None
    base_id = base.id if base else None
    if resume and (found := _finished(ws, recipe, datasets, base_id)):
        return found
    key = digest_of({"recipe": recipe.digest, "datasets": datasets, "base": base_id})
    folder = ws.work("runs", key.removeprefix("sha256:")[:32])
    with _lock(folder) as lock:
        if not resume:
            _clear(folder, keep=("lock",))
        job = _prepare(ws, recipe, shares, base, folder)
        ws.record("run.started", key, {"recipe": recipe.digest, "datasets": datasets, "base": base_id}, actor=actor)
        if not job.result.is_file():
            try:
                _run_child(job, lock, progress)
            except HallmarkError as error:
                ws.record("run.failed", key, {"error": type(error).__name__, "message": error.message}, actor=actor)
                raise
        result = _register(ws, job, datasets, base, actor)
        _clear(folder, keep=("lock",))
    return result


def _finished(ws: Workspace, recipe: Recipe, datasets: list[str], base: str | None) -> TrainResult | None:
    """Return the newest finished run of this recipe, data and base with its version, or None."""
    for run in reversed(ws.assets("run")):
        body = run.body
        if body["recipe"] != recipe.digest or body["datasets"] != datasets or body["base"] != base:
            continue
        for version in reversed(ws.assets("version")):
            if version.body["run"] == run.id:
                return TrainResult(run, version, reused=True)
    return None


def _prepare(
    ws: Workspace, recipe: Recipe, shares: Mapping[tuple[str, str], float], base: Asset | None, folder: Path
) -> Job:
    """Copy verified inputs into the work folder and write the child's job."""
    shutil.rmtree(folder / "inputs", ignore_errors=True)
    for stray in folder.rglob("*.tmp-*"):
        shutil.rmtree(stray, ignore_errors=True)
    records = {ident: ws.get(ident, Dataset) for ident, _ in shares}
    withdrawals.refuse_datasets(ws, records)
    places = {}
    for number, (ident, record) in enumerate(sorted(records.items())):
        places[ident] = ws.artifacts.checkout(record.manifest, folder / "inputs" / f"data-{number}")
    inputs = []
    for (ident, split), share in sorted(shares.items()):
        if split not in records[ident].splits:
            raise UnknownName("split", split, records[ident].splits)
        inputs.append(Input(f"{records[ident].name}.{split}", places[ident] / f"{split}.parquet", share))
    model = ws.artifacts.checkout(base.body["manifest"], folder / "inputs" / "base") if base else None
    vocabulary = tuple(path for place in places.values() for path in sorted(place.glob("*_train.parquet")))
    job = Job(recipe, tuple(inputs), model, vocabulary, folder)
    job.write(folder / "job.json")
    return job


def _register(ws: Workspace, job: Job, datasets: list[str], base: Asset | None, actor: str) -> TrainResult:
    outcome = Outcome(**json.loads(job.result.read_text()))
    recipe = job.recipe
    manifest = ws.artifacts.add_tree(job.model)
    known = assets.register_recipe(ws, recipe, actor=actor)
    tokenizer = assets.register_tokenizer(ws, job.model, recipe.name, () if base else datasets, actor=actor)
    origin = [("base", base.id)] if base else []
    made_from = [("dataset", ident) for ident in datasets]
    run = ws.register(
        Run(
            method=recipe.method,
            recipe=recipe.digest,
            recipe_body=recipe.model_dump(mode="json"),
            datasets=datasets,
            base=base.id if base else None,
            state_digest=outcome.state_digest,
            steps=outcome.steps,
            tokens=outcome.tokens,
            metrics=outcome.metrics,
            environment=outcome.environment,
        ),
        actor=actor,
        name=recipe.name,
        parents=[("recipe", known.id), *made_from, *origin, ("tokenizer", tokenizer.id)],
    )
    weights = {entry.path: entry.sha256 for entry in manifest.entries if entry.path.endswith(".safetensors")}
    version = ws.register(
        ModelVersion(
            name=recipe.name,
            manifest=manifest.id,
            run=run.id,
            base=base.id if base else None,
            datasets=datasets,
            architecture=outcome.architecture,
            parameters=outcome.parameters,
            weights=weights,
        ),
        actor=actor,
        name=recipe.name,
        parents=[("run", run.id), *origin],
    )
    return TrainResult(run, version)


def _run_child(job: Job, lock: int, progress: Progress) -> None:
    """Train in a child; its progress is passed on, its errors are raised here as what they are."""
    folder = job.folder
    root = str(Path(__file__).resolve().parent.parent)
    env = {**os.environ, **QUIET, "HF_HOME": str(folder / "hf")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    log_path = folder / "child.log"
    with log_path.open("ab") as errors_file:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "training.launch", str(folder / "job.json")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors_file, env=env, text=True,
            pass_fds=[lock],
        )  # fmt: skip
        failure: dict[str, Any] | None = None
        try:
            assert child.stdout is not None  # noqa: S101 - it was asked for above
            for line in child.stdout:
                message = json.loads(line)
                if "error" in message:
                    failure = message
                else:
                    progress(message["stage"], message["done"], message["total"], message["note"])
            code = child.wait()
        finally:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    pipe.close()
    if failure:
        raise _error(failure)
    if code or not job.result.is_file():
        last = log_path.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise EngineFailure(
            f"the training child ended with code {code}: {last[0][:200]}",
            hint=f"see `{log_path}`; run again to go on from the newest checkpoint",
        )


def _error(message: Mapping[str, Any]) -> HallmarkError:
    kind = getattr(errors, str(message["error"]), EngineFailure)
    error: HallmarkError = kind.__new__(kind)
    HallmarkError.__init__(error, message["message"], hint=message["hint"])
    return error


@contextmanager
def _lock(folder: Path) -> Iterator[int]:
    """Hold a run's folder; yield the descriptor, which the child inherits and holds on to until it has ended too."""
    with (folder / "lock").open("a") as file:
        until = time.monotonic() + LOCK_WAIT
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Locked(
                        "another process trains this recipe", hint="wait for it to end, then run again"
                    ) from None
                time.sleep(0.1)
        yield file.fileno()


def _clear(folder: Path, *, keep: tuple[str, ...]) -> None:
    for path in folder.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


# ---- the child --------------------------------------------------------------------------------------------------


def main(job_path: Path) -> int:
    """Train one job; progress and errors go to stdout as JSON lines, everything else to stderr."""
    from importlib import import_module

    import numpy as np

    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries that print must not break the protocol
    _end_with_parent()
    job = Job.read(job_path)

    def report(stage: str, done: float, total: float | None = None, note: str = "") -> None:
        channel.write(json.dumps({"stage": stage, "done": done, "total": total, "note": note}) + "\n")

    random.seed(job.recipe.seed)
    np.random.seed(job.recipe.seed)
    module, _, function = METHODS[job.recipe.method].partition(":")
    try:
        outcome = getattr(import_module(module), function)(job, report)
    except HallmarkError as error:
        channel.write(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint}) + "\n")
        return error.exit_code
    temporary = job.result.with_suffix(".tmp")
    with temporary.open("w") as file:
        json.dump(plain(outcome), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(job.result)
    return 0


def _end_with_parent() -> None:
    """Stop when stdin closes: the caller died, and the newest checkpoint is what counts."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock would still be held when the interpreter shuts down
            pass
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
