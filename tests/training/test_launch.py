from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import training
import training.data
from registry import lineage
from registry.errors import EngineFailure, Locked, SpecError, Tampered, UnknownName
from registry.records import ModelVersion, Run
from training.launch import _error, _lock

ROOT = Path(__file__).parents[2]
RECIPE = """\
name: tiny
method: pretrain
data: {dataset: house, splits: {domain_train: 1}, replay: 0.25}
model: {vocab: 400, hidden: 32, layers: 2, heads: 2, kv_heads: 1, head: 16, intermediate: 48}
sequence_length: 32
budget: {steps: 60, batch: 2, save_every: 5}
precision: fp32
"""


@pytest.fixture
def recipe(ws, spec_file) -> Path:
    training.data.build(ws, spec_file, actor="operator")
    path = spec_file.parent / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_importing_the_package_is_light():
    code = "import sys, training, training.data; print(len([m for m in sys.modules if m.split('.')[0] in " \
           "('torch', 'transformers', 'pyarrow', 'numpy', 'pydantic', 'duckdb')]))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_names_that_are_not_there(ws, recipe):
    recipe.write_text(RECIPE.replace("dataset: house", "dataset: hous"))
    with pytest.raises(UnknownName, match="hous"):
        training.train(ws, recipe, actor="operator")
    recipe.write_text(RECIPE.replace("domain_train", "domain_tran"))
    with pytest.raises(UnknownName, match="domain_tran"):
        training.train(ws, recipe, actor="operator")


def test_the_same_recipe_is_trained_by_one_process_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("training.launch.LOCK_WAIT", 0.2)
    with _lock(tmp_path), pytest.raises(Locked), _lock(tmp_path):
        pass
    with _lock(tmp_path):
        pass


def test_errors_of_the_child_are_raised_as_what_they_are():
    error = _error({"error": "SpecError", "message": "`model.vocab`: too small", "hint": "more"})
    assert isinstance(error, SpecError)
    assert (error.message, error.hint, error.exit_code) == ("`model.vocab`: too small", "more", 2)
    assert isinstance(_error({"error": "Nonsense", "message": "m", "hint": None}), EngineFailure)


@pytest.mark.slow
def test_a_run_is_registered_once_and_loads_without_us(ws, recipe, tmp_path):
    seen: list[str] = []
    result = training.train(
        ws, recipe, actor="operator", progress=lambda stage, done, total=None, note="": seen.append(stage)
    )
    assert {"prepare", "train"} <= set(seen)
    run, version = ws.get("tiny", Run), ws.get("tiny", ModelVersion)
    assert (run.id, version.id) == (result.run.id, result.version.id)
    assert (run.steps, run.tokens) == (60, 60 * 2 * 32)
    assert version.run == run.id
    assert result.version.parents == (("run", run.id),)
    kinds = {relation: lineage.find(ws, parent) for relation, parent in result.run.parents}
    assert {relation: asset.kind for relation, asset in kinds.items()} == {
        "recipe": "recipe", "dataset": "dataset", "tokenizer": "tokenizer",
    }  # fmt: skip
    assert (kinds["recipe"].body["digest"], kinds["dataset"].id) == (run.recipe, version.datasets[0])
    assert (kinds["tokenizer"].body["vocab_size"], kinds["tokenizer"].parents) == (400, (("dataset", run.datasets[0]),))
    assert version.architecture == "MistralForCausalLM"
    assert set(version.weights) == {"model.safetensors"}
    again = training.train(ws, recipe, actor="operator")
    assert (again.reused, again.run.id, again.version.id) == (True, run.id, version.id)
    assert len(ws.assets("run")) == 1

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from training.checkpoint import state_digest, untied

    folder = ws.artifacts.checkout(version.manifest, tmp_path / "model")
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".py"))]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert state_digest(untied(model)) == run.state_digest
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], return_tensors="pt", return_dict=True)
    assert model.generate(**prompt, max_new_tokens=4).shape[1] > prompt["input_ids"].shape[1]

    continued = recipe.with_name("continue.yaml")
    body = RECIPE.replace("tiny", "more").replace("pretrain", "continue").replace("model: {", "#")
    continued.write_text(body.replace("sequence_length: 32", "sequence_length: 64") + "base: tiny:1\n")
    with pytest.raises(SpecError, match="longer than the base"):
        training.train(ws, continued, actor="operator")
    failed = ws.store.query("SELECT body FROM event WHERE kind = 'run.failed'")
    assert "longer than the base" in json.loads(failed[0]["body"])["message"]
    continued.write_text(body + "base: tiny:1\n")
    more = training.train(ws, continued, actor="operator")
    assert more.version.parents == (("run", more.run.id), ("base", version.id))
    assert {("base", version.id), ("tokenizer", kinds["tokenizer"].id)} <= set(more.run.parents)


def train_elsewhere(ws, recipe: Path) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from pathlib import Path; from registry.workspace import Workspace; import training;"
        "training.train(Workspace.open(Path(sys.argv[1])), Path(sys.argv[2]), actor='operator')"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(ws.root), str(recipe)], cwd=ROOT)


def wait_for_checkpoint(ws) -> Path:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        found = sorted(ws.root.glob("work/runs/*/checkpoints/step-????????"))
        if found:
            return found[-1]
        time.sleep(0.02)
    raise AssertionError("no checkpoint came")


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(ws, recipe):
    recipe.write_text(RECIPE.replace("steps: 60", "steps: 150"))
    caller = train_elsewhere(ws, recipe)
    reached = wait_for_checkpoint(ws)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    result = training.train(ws, recipe, actor="operator")
    assert result.run.body["metrics"]["resumed_at_step"] >= int(reached.name.removeprefix("step-"))
    whole = training.train(ws, recipe, actor="operator", resume=False)
    assert whole.run.body["metrics"]["resumed_at_step"] == 0
    assert whole.run.body["state_digest"] == result.run.body["state_digest"]
    assert whole.run.body["metrics"]["train_loss"] == result.run.body["metrics"]["train_loss"]
    assert whole.version.id != result.version.id
    assert whole.version.body["manifest"] == result.version.body["manifest"]


@pytest.mark.slow
def test_killed_child_is_an_engine_failure_and_an_altered_checkpoint_is_refused(ws, recipe):
    recipe.write_text(RECIPE.replace("steps: 60", "steps: 4000"))
    killed: list[int] = []

    def kill_at_first_checkpoint(stage: str, done: float, total: float | None = None, note: str = "") -> None:
        if stage == "train" and not killed and list(ws.root.glob("work/runs/*/checkpoints/step-????????")):
            for entry in Path("/proc").glob("[0-9]*/stat"):
                fields = entry.read_text().rpartition(")")[2].split()
                if int(fields[1]) == os.getpid() and b"training.launch" in (entry.parent / "cmdline").read_bytes():
                    killed.append(int(entry.parent.name))
                    os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(EngineFailure, match="code -9"):
        training.train(ws, recipe, actor="operator", progress=kill_at_first_checkpoint)
    weights = sorted(ws.root.glob("work/runs/*/checkpoints/step-????????"))[-1] / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 64
    weights.write_bytes(data)
    with pytest.raises(Tampered, match="do not hash"):
        training.train(ws, recipe, actor="operator")
