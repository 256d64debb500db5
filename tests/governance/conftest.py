"""A workspace with a model version that looks like one: real files, real keys, real journal; no training."""

import json
import shutil

import pytest

from governance import candidates
from governance.setup import create_workspace
from registry.records import EvalRun, GateDecision, ModelVersion, Run
from registry.workspace import Workspace
from tests.governance import proving


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """One complete workspace, copied for each test."""
    root = tmp_path_factory.mktemp("fresh") / "ws"
    create_workspace(root).close()
    return root


@pytest.fixture
def ws(fresh, tmp_path):
    shutil.copytree(fresh, tmp_path / "ws")
    return Workspace.open(tmp_path / "ws")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A workspace with one certified release and its evidence bundle; who damages it puts every byte back."""
    return proving.make(tmp_path_factory.mktemp("proving"))


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"architectures": ["MistralForCausalLM"]}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "transformers_version": "5"}))
    return folder


@pytest.fixture
def add_version(ws, model):
    """Register a version whose weights carry `mark`, trained by `trainer`."""

    def add(mark=b"a", trainer="trainer", name="code"):
        (model / "model.safetensors").write_bytes(mark * 64)
        manifest = ws.artifacts.add_tree(model)
        run = Run("pretrain", "sha256:r", {"name": name, "mark": mark.decode()}, [], None, "x", 1, 1, {}, {})
        run_asset = ws.register(run, actor=trainer)
        record = ModelVersion(name, manifest.id, run_asset.id, None, [], "MistralForCausalLM", 64, {})
        return ws.register(record, actor=trainer, name=name, parents=[("run", run_asset.id)])

    return add


@pytest.fixture
def judge(ws):
    """Record a gate decision with a given verdict on a candidate, as an evaluation would have."""

    def decide(candidate, verdict="PASS"):
        run = EvalRun(candidate.id, "sha256:s", {"k": "sha256:i"}, _no_rows(ws), {}, {}, {}, {}, {})
        run_asset = ws.register(run, actor="evaluator")
        record = GateDecision(
            candidate.id, None, "sha256:s", verdict, True, "fixed", 0.05, [run_asset.id], [], {"kpis": []}
        )
        return ws.register(record, actor="evaluator", name=candidate.name)

    return decide


@pytest.fixture
def passed(ws, add_version, judge):
    """A candidate that the gate passed."""

    def make(mark=b"a"):
        candidate = candidates.create(ws, add_version(mark).id, actor="trainer")
        judge(candidate)
        return candidate

    return make


def _no_rows(ws):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"sample_id": pa.string(), "kpi": pa.string(), "epoch": pa.int32(), "value": pa.float64(),
             "weight": pa.float64(), "cluster": pa.string(), "error": pa.string(), "detail": pa.string()}  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(pa.schema(types.items()).empty_table(), sink)
    return ws.artifacts.add_bytes(sink.getvalue())
