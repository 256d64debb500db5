"""A workspace with one certified, served and signed release whose every record is there, and ways to damage it."""

import io
import shutil
from pathlib import Path

from governance import approvals, candidates, evidence, promotion, weights_signing
from governance.setup import create_workspace
from registry.records import Dataset, EvalRun, GateDecision, ModelVersion, Run, Suite
from registry.workspace import Workspace

KPIS = [{"kpi": "next_line", "rule": "noninferior", "verdict": "PASS", "estimate": 0.1, "lower": 1e-7, "upper": 0.2,
         "against": "baseline"}]  # fmt: skip


def rows(ws):
    """Store a small Parquet file of result rows; return its digest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"sample_id": pa.string(), "kpi": pa.string(), "epoch": pa.int32(), "value": pa.float64(),
             "weight": pa.float64(), "cluster": pa.string(), "error": pa.string(), "detail": pa.string()}  # fmt: skip
    values = {"sample_id": ["a"], "kpi": ["next_line"], "epoch": [0], "value": [1.0], "weight": [1.0],
              "cluster": ["a"], "error": [""], "detail": ["{}"]}  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(pa.table(values, pa.schema(types.items())), sink)
    return ws.artifacts.add_bytes(sink.getvalue())


def model_folder(folder, mark):
    """Write a small model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(mark * 64)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text('{"architectures": ["MistralForCausalLM"]}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "generation_config.json").write_text('{"eos_token_id": 1, "transformers_version": "5"}')
    return folder


def suite(ws, scratch):
    """Register a suite with one file."""
    folder = scratch / "suite"
    folder.mkdir(exist_ok=True)
    (folder / "suite.yaml").write_text("name: core\n")
    manifest = ws.artifacts.add_tree(folder)
    return ws.register(
        Suite("core", 1, manifest.id, {"next_line": "sha256:i"}, "canary"), actor="evaluator", name="core"
    )


def version(ws, scratch, mark=b"a", trainer="trainer"):
    """Register dataset, run and version; return the version."""
    data = scratch / "data"
    data.mkdir(exist_ok=True)
    (data / "train.txt").write_bytes(mark)
    sources = [
        {"name": "stdlib", "kind": "stdlib", "licence": "PSF-2.0", "version": "3.11", "digest": "sha256:0"},
        {"name": "house", "kind": "folder", "licence": "Proprietary", "version": "", "digest": "sha256:1"},
    ]
    dataset = ws.register(
        Dataset("lines", "sha256:s", "sha256:r" + mark.decode(), ws.artifacts.add_tree(data).id, {"train": 10},
                sources, {}, []), actor=trainer, name="lines",
    )  # fmt: skip
    run = Run("pretrain", "sha256:r", {"rate": 3e-4, "mark": mark.decode()}, [dataset.id], None, "x", 1, 1,
              {"loss": 1.25}, {"packages": {"torch": "2.13.0", "tokenizers": "0.23.2"}})  # fmt: skip
    run_asset = ws.register(run, actor=trainer, parents=[("dataset", dataset.id)])
    manifest = ws.artifacts.add_tree(model_folder(scratch / "model", mark))
    record = ModelVersion("code", manifest.id, run_asset.id, None, [dataset.id], "MistralForCausalLM", 64, {})
    return ws.register(record, actor=trainer, name="code", parents=[("run", run_asset.id), ("dataset", dataset.id)])


def judged(ws, candidate, suite_id, actor="evaluator"):
    """Register an evaluation run and a PASS."""
    run = EvalRun(candidate.id, suite_id, {"next_line": "sha256:i"}, rows(ws), {"next_line": 1}, {"next_line": 1},
                  {"next_line": 0}, {"next_line": "weights"}, {"next_line": "house"})  # fmt: skip
    parents = [("candidate", candidate.id), ("suite", suite_id)]
    found = ws.register(run, actor=actor, parents=parents)
    record = GateDecision(candidate.id, None, suite_id, "PASS", True, "fixed", 0.05, [found.id], [],
                          {"verdict": "PASS", "reasons": [], "kpis": KPIS})  # fmt: skip
    parents = [("candidate", candidate.id), ("eval_run", found.id)]
    return ws.register(record, actor=actor, name=candidate.name, parents=parents)


def certified(ws, scratch, mark=b"a", alias="prod"):
    """Return the certificate of a new release."""
    candidate = candidates.create(ws, version(ws, scratch, mark).id, actor="trainer")
    judged(ws, candidate, suite(ws, scratch).id)
    approvals.approve(ws, candidate, reason="reviewed")
    return promotion.promote(ws, candidate, alias).certificate


def make(root: Path):
    """Build the workspace, sign the weights and export the bundle; return (workspace, certificate, bundle)."""
    ws = create_workspace(root / "ws")
    certificate = certified(ws, root)
    weights_signing.sign(ws, certificate.id)
    return ws, certificate, evidence.export(ws, certificate.id, root / "bundle")


def copied(made, target: Path):
    """Return a private copy of (workspace, certificate, bundle)."""
    ws, certificate, bundle = made
    shutil.copytree(ws.root, target / "ws")
    shutil.copytree(bundle, target / "bundle")
    return Workspace.open(target / "ws"), certificate, target / "bundle"


def flip(path: Path, position: float = 0.5, bit: int = 0):
    """Flip one bit of a file, at a share of its length."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[min(int(len(data) * position), len(data) - 1)] ^= 1 << bit
    path.write_bytes(bytes(data))
    path.chmod(mode)
