"""A workspace with a promoted release, an engine that the fake one plays, and a visit while it is served."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from governance import approvals, candidates, permits, promotion
from governance.setup import create_workspace, default_bundle
from policies import engines, serve
from policies.access.callers import create_key
from policies.bundle import compile_bundle, load
from policies.endpoint.hash_key import hash_key
from policies.enforcement.compiled import CompiledCache
from policies.serving.plan import Plan
from registry.records import Asset, GateDecision, ModelVersion, Run
from registry.workspace import Workspace
from tests.stubs.engine import FakeEngine, Script

ASK = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one candidate that the gate passed, certified and promoted to `prod`."""
    root = tmp_path_factory.mktemp("serving") / "ws"
    ws = create_workspace(root)
    promote(ws, register(ws, root.parent / "model"))
    compile_bundle(load(default_bundle()), CompiledCache(ws.work("patterns"), hash_key(ws)))  # once for all tests
    ws.close()
    return root


def register(
    ws: Workspace, folder: Path, *, voice: str = "hello", name: str = "code", policy: Path | None = None
) -> Asset:
    """Register a model version with the files that one has, and its candidate; no training. Its engine says `voice`."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 64)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "voice.txt").write_text(voice)
    (folder / "config.json").write_text(json.dumps({"architectures": ["MistralForCausalLM"]}))
    (folder / "generation_config.json").write_text(json.dumps({"max_new_tokens": 32, "do_sample": False}))
    manifest = ws.artifacts.add_tree(folder)
    run = ws.register(Run("pretrain", f"sha256:{voice}", {}, [], None, "x", 1, 1, {}, {}), actor="trainer")
    record = ModelVersion(name, manifest.id, run.id, None, [], "MistralForCausalLM", 64, {})
    version = ws.register(record, actor="trainer", name=name, parents=[("run", run.id)])
    return candidates.create(ws, version.id, policy=str(policy) if policy else None, actor="trainer")


def promote(ws: Workspace, candidate: Asset, alias: str = "prod") -> str:
    """Let a candidate pass the gate, approve it and promote it; return its certificate."""
    decision = GateDecision(candidate.id, None, "sha256:s", "PASS", True, "fixed", 0.05, [], [], {"kpis": []})
    ws.register(decision, actor="evaluator", name=candidate.name)
    approvals.approve(ws, candidate, reason="reviewed")
    promotion.promote(ws, candidate, alias)
    return ws.release(alias).certificate


def other_bundle(folder: Path) -> Path:
    """Return the default bundle with a comment more: the same rules under another digest."""
    shutil.copytree(default_bundle(), folder)
    file = folder / "bundle.yaml"
    file.write_text(file.read_text() + "# another one\n")
    return folder


@pytest.fixture
def ws(fresh: Path, tmp_path: Path) -> Iterator[Workspace]:
    shutil.copytree(fresh, tmp_path / "ws")
    opened = Workspace.open(tmp_path / "ws")
    yield opened
    opened.close()


def candidate_of(ws: Workspace) -> Asset:
    return ws.assets("candidate")[0]


@pytest.fixture
def prod(ws: Workspace) -> Asset:
    """The candidate that `prod` points at."""
    return candidate_of(ws)


def add_caller(ws: Workspace, name: str = "mia", group: str = "members") -> str:
    key, key_id, key_hash = create_key()
    body = {"groups": [group], "attributes": {}, "key_id": key_id, "key_hash": key_hash}
    ws.record("caller.created", name, body, actor="operator")
    return key


class Handle:
    """An engine process, played by the fake engine of these tests."""

    version = "transformers 5.19.0, torch 2.13.0"
    surfaces = frozenset({"chat", "completions", "responses"})

    def __init__(self, uds: Path, voice: str = "hello") -> None:
        self.engine, self.voice = FakeEngine(uds), voice
        self.crashed = self.stopped = False

    def wait_ready(self, timeout: float, progress: Any = None) -> None:
        self.engine.__enter__()
        self.engine.script = Script([self.voice])

    def alive(self) -> bool:
        return not self.crashed

    def crash(self) -> None:
        """End as a killed process does: the socket and every connection go."""
        self.crashed = True
        self.engine.stop()

    def stop(self) -> None:
        self.stopped = True
        if not self.crashed:
            self.crash()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, ws: Workspace) -> list[Any]:
    """Replaces the engine's start; every start is noted with what it was given."""
    seen: list[Any] = []

    def start(kind: str, model_dir: Path, uds: Path, *, served_name: str, log: Path, options: Any) -> Handle:
        handle = Handle(uds, (model_dir / "voice.txt").read_text())
        handle.version = f"transformers {candidate_of(ws).body['engine_version']}, torch 2.13.0"
        files = {path.name for path in model_dir.iterdir()}
        seen.append(SimpleNamespace(
            kind=kind, model_dir=model_dir, uds=uds, handle=handle, files=files, options=options,
            mode=uds.parent.stat().st_mode & 0o777,
        ))  # fmt: skip
        return handle

    monkeypatch.setattr(engines, "start", start)
    return seen


def while_serving(ws: Workspace, visit: Callable[[str], None], plan: Plan | None = None, **named: Any) -> None:
    """Serve in this thread, visit the endpoint from another, then stop it by SIGTERM as an operator does."""
    failed: list[BaseException] = []

    def visiting(url: str) -> None:
        try:
            visit(url)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            failed.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    def ready(url: str) -> None:
        threading.Thread(target=visiting, args=(url,), daemon=True).start()

    if plan is None:
        serve.serve(ws, on_ready=ready, **named)
    else:
        serve.run(ws, plan, on_ready=ready)
    if failed:
        raise failed[0]


def events(ws: Workspace, kind: str) -> list[dict[str, Any]]:
    rows = ws.store.query("SELECT body FROM event WHERE kind = ? ORDER BY seq", [kind])
    return [json.loads(row["body"]) for row in rows]


def ask(url: str, key: str, model: str = "prod") -> str:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        return client.chat.completions.create(model=model, messages=ASK).choices[0].message.content or ""  # type: ignore[arg-type]


def permit_for(ws: Workspace, minutes: float = 5) -> str:
    return permits.issue(ws, candidate_of(ws).id, "sha256:s", actor="evaluator", minutes=minutes)


def evaluator(plan_permit: str) -> tuple[str, Plan]:
    key, key_id, key_hash = create_key()
    row = {"name": "evaluator", "groups": ["evaluators"], "attributes": {}, "key_id": key_id, "key_hash": key_hash}
    return key, Plan(permit=plan_permit, extra_callers=[row])
