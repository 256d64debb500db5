"""Replays of past requests, on the built-in engine with a tiny model: what repeats, what cannot, what has changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from governance import candidates, permits
from governance.setup import create_workspace
from policies import serve
from policies.access.callers import create_key
from policies.endpoint import recording
from policies.serving import replay as room
from policies.serving.plan import Plan
from registry.errors import NotFound, Refused, SpecError
from registry.records import ModelVersion, Run
from registry.workspace import Workspace
from tests.policies.engines.conftest import folder, make_folder, tokenizer  # noqa: F401 - fixtures of the tiny model

POLICY = Path(__file__).parents[2] / "examples" / "quickstart" / "policy"
KEY = "ghp_" + "a1B2c3D4" * 5

pytestmark = pytest.mark.slow


@dataclass
class Past:
    """A workspace whose endpoint has answered, and the receipt of each request."""

    ws: Workspace
    model: str
    receipts: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Past]:  # noqa: F811
    root = tmp_path_factory.mktemp("replay")
    shutil.copytree(POLICY, root / "policy")
    bundle = root / "policy" / "bundle.yaml"
    bundle.write_text(bundle.read_text().replace("version: 1\n", "version: 1\nrecord: texts\n"))
    ws = create_workspace(root / "ws")
    manifest = ws.artifacts.add_tree(folder)
    run = ws.register(Run("pretrain", "sha256:r", {}, [], None, "x", 1, 1, {}, {}), actor="trainer")
    record = ModelVersion("tiny", manifest.id, run.id, None, [], "MistralForCausalLM", 64, {})
    version = ws.register(record, actor="trainer", name="tiny", parents=[("run", run.id)])
    candidate = candidates.create(ws, version.id, policy=str(root / "policy"), actor="trainer")
    permit = permits.issue(ws, candidate.id, "sha256:s", actor="evaluator", minutes=20)
    found = Past(ws, f"permit/{permit}")
    asks: list[tuple[str, dict[str, Any]]] = [
        ("greedy", {"temperature": 0, "max_tokens": 12}),
        ("seeded", {"temperature": 1.0, "seed": 5, "max_tokens": 12}),
        ("sampled", {"temperature": 1.0, "max_tokens": 12}),
        ("erased", {"temperature": 1.0, "max_tokens": 2}),
        ("unknown", {"model": "nothing-here"}),
    ]
    visit(found, permit, asks)
    yield found
    ws.close()


def visit(past: Past, permit: str, asks: list[tuple[str, dict[str, Any]]]) -> None:
    """Ask an endpoint that has all that a long-running one has, recordings included, and stop it."""
    key, key_id, key_hash = create_key()
    row = {"name": "eva", "groups": ["evaluators"], "attributes": {}, "key_id": key_id, "key_hash": key_hash}

    def ask_all(url: str) -> None:
        try:
            for name, more in asks:
                ask(past, url, key, name, **more)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def ready(url: str) -> None:
        threading.Thread(target=ask_all, args=(url,), daemon=True).start()

    serve.run(past.ws, Plan(permit=permit, extra_callers=(row,), operations=True), on_ready=ready)


def ask(past: Past, url: str, key: str, name: str, **more: Any) -> None:
    """Ask and keep the receipt."""
    body = {"model": past.model, "messages": [{"role": "user", "content": f"my key is {KEY}"}], **more}
    answer = httpx.post(
        f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"},
        timeout=60, trust_env=False,
    )  # fmt: skip
    past.receipts[name], past.bodies[name] = answer.headers["x-hallmark-receipt"], body


@pytest.mark.parametrize("name", ["greedy", "seeded"])
def test_what_sampling_fixes_repeats_its_tokens(past: Past, name: str) -> None:
    found = room.replay(past.ws, past.receipts[name])
    assert found.differences == ()
    assert found.exit_code == 0
    assert found.determinism == name
    assert "output_hash" in found.compared
    assert found.decision["output_hash"].startswith("blake2b:")
    assert found.decision["action"] == "redact"


def test_a_sampled_answer_is_compared_up_to_its_tokens(past: Past) -> None:
    found = room.replay(past.ws, past.receipts["sampled"])
    assert found.determinism == "sampled"
    assert "input_hash" in found.compared
    assert "output_hash" not in found.compared


def test_a_request_from_the_callers_own_copy_must_be_the_one_of_the_receipt(past: Past, tmp_path: Path) -> None:
    copy = tmp_path / "asked.json"
    copy.write_text(json.dumps(past.bodies["greedy"]))
    assert room.replay(past.ws, past.receipts["greedy"], request=copy).exit_code == 0
    copy.write_text(json.dumps({**past.bodies["greedy"], "messages": [{"role": "user", "content": "other"}]}))
    found = room.replay(past.ws, past.receipts["greedy"], request=copy)
    assert found.exit_code == 1
    assert any(line.startswith("input_hash: ") for line in found.differences)


def test_what_cannot_be_repeated_is_said(past: Past, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no decision with the receipt"):
        room.replay(past.ws, "hr-nothing")
    decision = room.decision_of(past.ws, past.receipts["greedy"])
    assert room.determinism_of(decision | {"status": 429}) == "circumstance"
    assert room.determinism_of(decision | {"status": 403, "determinism": ""}) == "exact"
    with pytest.raises(NotFound, match="was not recorded"):
        room.replay(past.ws, past.receipts["unknown"])
    bad = tmp_path / "bad.json"
    bad.write_text("[]")
    with pytest.raises(SpecError, match="not a JSON object"):
        room.replay(past.ws, past.receipts["greedy"], request=bad)


def test_an_erased_text_is_not_replayed(past: Past) -> None:
    receipt = past.receipts["erased"]
    assert recording.find(past.ws, receipt) is not None
    recording.erase(past.ws, request_id=receipt)
    with pytest.raises(NotFound, match="was not recorded"):
        room.asked_of(past.ws, room.decision_of(past.ws, receipt))


def test_nothing_of_an_overloaded_moment_is_repeated(past: Past) -> None:
    decision = room.decision_of(past.ws, past.receipts["greedy"])
    del decision["ts"]
    body = decision | {"status": 503, "request_id": "hr-overloaded"}
    past.ws.record("gateway.decision", "hr-overloaded", body, actor="endpoint:prod")
    with pytest.raises(Refused, match="nothing of it can be repeated"):
        room.replay(past.ws, "hr-overloaded")
