"""Canaries asked of real endpoints with a real engine: one model repeats itself, another is told apart."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from zlib import crc32

import pytest

from evals.drift import canaries as room
from evals.drift import check
from evals.drift.replays import compare
from governance import approvals, callers, candidates, promotion
from governance.setup import create_workspace
from policies.endpoint.exchange import DESCRIBED_EVERY
from registry.records import GateDecision, ModelVersion, Run

pytestmark = pytest.mark.slow


def promote(ws, folder, alias):
    """Register a model folder, judge it passed, and point an alias at it."""
    run = ws.register(Run("pretrain", "sha256:r", {"of": alias}, [], None, "x", 1, 1, {}, {}), actor="trainer")
    manifest = ws.artifacts.add_tree(folder).id
    record = ModelVersion(alias, manifest, run.id, None, [], "MistralForCausalLM", 64, {})
    version = ws.register(record, actor="trainer", name=alias, parents=[("run", run.id)])
    candidate = candidates.create(ws, version.id, actor="trainer")
    decision = GateDecision(candidate.id, None, "sha256:s", "PASS", True, "fixed", 0.05, [], [], {"kpis": []})
    ws.register(decision, actor="evaluator", name=alias)
    approvals.approve(ws, candidate, reason="for the test")
    promotion.promote(ws, candidate, alias)


@contextlib.contextmanager
def serving(ws, alias):
    """Yield the URL of an endpoint that serves an alias in a process of its own."""
    report = ws.work("test") / f"{alias}.json"
    command = [sys.executable, "-P", "-m", "policies.serve", "--workspace", str(ws.root), "--alias", alias,
               "--report", str(report)]  # fmt: skip
    child = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
    try:
        child.stdin.write("{}\n")
        child.stdin.flush()
        end, said = time.monotonic() + 120, {}
        while "url" not in said:
            assert time.monotonic() < end, said
            assert child.poll() is None, said
            time.sleep(0.1)
            said = json.loads(report.read_text()) if report.exists() else {}
        yield said["url"] + "/v1"
    finally:
        child.terminate()
        child.wait(60)
        child.stdin.close()


def perturbed(folder, target):
    """Copy a model with every weight moved a little."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    file = target / "model.safetensors"
    torch.manual_seed(3)
    moved = {name: value + 0.3 * torch.randn_like(value) for name, value in load_file(file).items()}
    save_file(moved, file, metadata={"format": "pt"})
    return target


def test_a_served_model_repeats_itself_and_another_is_told_apart(tmp_path, tiny_model):
    ws = create_workspace(tmp_path / "ws")
    key = callers.create(ws, "cron", ["members"], actor="operator")
    (tmp_path / "asked.jsonl").write_text("\n".join(
        json.dumps({"id": f"c{n}", "prompt": f"def value_{n}(argument):\n    return ", "max_tokens": 24})
        for n in range(6)
    ))  # fmt: skip
    asked = room.read_canaries(tmp_path / "asked.jsonl")
    promote(ws, tiny_model, "prod")
    promote(ws, perturbed(tiny_model, tmp_path / "moved"), "other")
    options = {"key": key, "actor": "auditor", "repeats": 2}
    with serving(ws, "prod") as url:
        assert room.replay(ws, "prod", asked, url=url, **options)[0] is None
        reference, current = room.replay(ws, "prod", asked, url=url, **options)
    same = compare(reference, current, 0.05)
    assert (same["verdict"], same["changed"], same["repeatable"]) == ("quiet", 0.0, True)
    with serving(ws, "other") as url:
        _, moved = room.replay(ws, "other", asked, url=url, **options)
    found = compare(reference, moved, 0.05)
    assert found["verdict"] == "drift"
    assert found["changed"] > 0.5
    rows = ws.store.query("SELECT request_id, signals FROM gateway_decision WHERE endpoint = 'prod'")
    assert {row["request_id"] for row in rows} == set(room.receipts(ws, "prod"))
    signals = {row["request_id"]: json.loads(row["signals"]) for row in rows}
    assert all(found["mean_logprob"] < 0 for found in signals.values())
    described = {name: found["output"] for name, found in signals.items() if found["output"]}
    assert set(described) == {name for name in signals if crc32(name.encode()) % DESCRIBED_EVERY == 0}
    assert all(len(found["embedding"]) == 8 for found in described.values())
    assert check.check(ws, "prod", actor="auditor").reference["n"] == 0  # replays are no traffic
    ws.close()
