"""Faults of a real endpoint: engine killed, journal full, clock set: closed at once, said so, and served again."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from governance import candidates
from governance.setup import create_workspace
from policies.serving import proof, steady, switching
from policies.serving.plan import Plan
from registry import clock
from registry.records import Asset, ModelVersion, Run
from registry.workspace import Workspace
from tests.policies.engines.conftest import make_folder, tokenizer  # noqa: F401 - fixtures of the tiny model
from tests.policies.serving import add_caller, events, promote, while_serving
from tests.waiting import until

ROOT = Path(__file__).parents[2]
QUICK = {"restart_wait_s": 0.2, "restart_longest_s": 1.0}


class Process:
    """A served endpoint in a process of its own, with a real engine below it."""

    def __init__(self, ws: Workspace, folder: Path, key: str, *words: str) -> None:
        self.ws, self.log = ws, folder / "log"
        report = folder / "report.json"
        report.unlink(missing_ok=True)
        line = [sys.executable, "-P", "-m", "policies.serve", "--workspace", str(ws.root), "--alias", "prod",
                "--report", str(report), *words]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                line, stdin=subprocess.PIPE, stdout=out, stderr=out, env=environment, cwd=folder, text=True
            )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"upkeep": QUICK}) + "\n")
        self.process.stdin.flush()
        until(lambda: report.exists() and "stage" not in json.loads(report.read_text()), 90)
        self.url = json.loads(report.read_text())["url"]
        self.client = httpx.Client(base_url=self.url, timeout=60, headers={"authorization": f"Bearer {key}"})

    def engine(self) -> int:
        """Return the engine's process id."""
        found = [
            int(pid)
            for path in Path(f"/proc/{self.process.pid}/task").glob("*/children")
            for pid in path.read_text().split()
            if b"transformers_server" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        assert len(found) == 1
        return found[0]

    def ask(self, **more: Any) -> httpx.Response:
        body = {"model": "prod", "prompt": "def", "max_tokens": 4, "temperature": 0, **more}
        return self.client.post("/v1/completions", json=body)

    def ready(self) -> int:
        return self.client.get("/ready").status_code

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.client.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        return code

    def kill(self) -> None:
        """End it as a power cut does; its engine goes with it."""
        self.process.kill()
        self.process.wait(30)
        self.client.close()
        assert self.process.stdin is not None
        self.process.stdin.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, make_folder: Any) -> Iterator[tuple[Workspace, str]]:  # noqa: F811
    """A workspace whose `prod` is a real, tiny, random model, and a caller's key."""
    opened = create_workspace(tmp_path_factory.mktemp("faults") / "ws")
    manifest = opened.artifacts.add_tree(make_folder("Mistral", sliding_window=None))
    run = opened.register(Run("pretrain", "sha256:r", {}, [], None, "x", 1, 1, {}, {}), actor="trainer")
    record = ModelVersion("tiny", manifest.id, run.id, None, [], "MistralForCausalLM", 64, {})
    version = opened.register(record, actor="trainer", name="tiny", parents=[("run", run.id)])
    promote(opened, candidates.create(opened, version.id, actor="trainer"))
    yield opened, add_caller(opened)
    opened.close()


@pytest.fixture
def endpoint(process: Process) -> Process:
    """The endpoint, as ready as at first."""
    until(lambda: process.ready() == 200, 60)
    return process


@pytest.fixture(scope="module")
def process(tiny: tuple[Workspace, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    running = Process(tiny[0], tmp_path_factory.mktemp("endpoint"), tiny[1], "--strict")
    yield running
    assert running.stop() == 0


@pytest.mark.slow
def test_an_engine_killed_in_mid_stream_ends_the_stream_as_broken_off(endpoint: Process) -> None:
    before = len(events(endpoint.ws, "engine.restarted"))
    body = {"model": "prod", "prompt": "def", "max_tokens": 100, "min_tokens": 100, "stream": True}
    engine, killed = endpoint.engine(), False
    lines: list[str] = []
    with endpoint.client.stream("POST", "/v1/completions", json=body) as reply:
        assert reply.status_code == 200, reply.read()
        receipt = reply.headers["x-hallmark-receipt"]
        for line in reply.iter_lines():
            lines.append(line)
            if line and not killed:
                os.kill(engine, signal.SIGKILL)
                killed = True
    said = [json.loads(line[6:]) for line in lines if line.startswith("data: ") and line != "data: [DONE]"]
    assert "data: [DONE]" not in lines
    assert said[-1]["error"]["code"] == "engine_unavailable"
    assert all(choice["finish_reason"] is None for event in said[:-1] for choice in event["choices"])
    refused = endpoint.ask()
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    until(lambda: endpoint.ready() == 503)
    until(lambda: endpoint.ready() == 200, 60)
    assert endpoint.ask().status_code == 200
    rows = endpoint.ws.store.query("SELECT action, status FROM gateway_decision WHERE request_id = ?", [receipt])
    assert rows == [{"action": "error", "status": 503}]
    assert len(events(endpoint.ws, "engine.restarted")) == before + 1
    assert "engine.stopped" in endpoint.log.read_text()


@pytest.mark.slow
def test_an_engine_killed_while_idle_is_back_before_long(endpoint: Process) -> None:
    first = endpoint.engine()
    os.kill(first, signal.SIGKILL)
    until(lambda: endpoint.ready() == 503)
    until(lambda: endpoint.ready() == 200, 60)
    assert endpoint.engine() != first
    assert endpoint.ask().status_code == 200
    page = endpoint.client.get("/metrics").text
    assert 'hallmark_engine_restarts_total{model="prod"}' in page


@pytest.mark.slow
def test_a_full_disk_refuses_until_it_has_room_again(endpoint: Process) -> None:
    """Not one byte of an answer leaves whose intent is not on disk; afterwards every request is in the log."""
    pid = endpoint.process.pid
    largest = max(path.stat().st_size for path in (endpoint.ws.root / "journal").rglob("*") if path.is_file())
    before = len(endpoint.ws.store.query("SELECT request_id FROM gateway_decision"))
    answered = [endpoint.ask()]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    try:
        assert largest > 1
        answered += [endpoint.ask(), endpoint.ask(stream=True), endpoint.ask()]
        assert endpoint.ready() == 503
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    until(lambda: endpoint.ready() == 200, 30)
    answered.append(endpoint.ask())
    assert [reply.status_code for reply in answered] == [200, 503, 503, 503, 200]
    assert all("choices" not in reply.text for reply in answered[1:4])
    rows = endpoint.ws.store.query("SELECT request_id, status FROM gateway_decision ORDER BY seq")
    logged = {row["request_id"]: row["status"] for row in rows[before:]}
    for reply in answered:
        receipt = reply.headers["x-hallmark-receipt"]
        assert logged.get(receipt, reply.status_code) == reply.status_code
    assert {reply.headers["x-hallmark-receipt"] for reply in (answered[0], answered[-1])} <= logged.keys()


def cut_off(running: Process) -> tuple[str, list[bytes]]:
    """Kill an endpoint that is streaming; return the receipt and what came."""
    body = {"model": "prod", "prompt": "def", "max_tokens": 100, "min_tokens": 100, "stream": True}
    got: list[bytes] = []
    with running.client.stream("POST", "/v1/completions", json=body) as reply:
        assert reply.status_code == 200, reply.read()
        receipt = str(reply.headers["x-hallmark-receipt"])
        try:
            for chunk in reply.iter_bytes():
                got.append(chunk)
                running.process.kill()
        except httpx.RemoteProtocolError:
            return receipt, got
    raise AssertionError("the stream ended as if it were whole")


@pytest.mark.slow
def test_strict_mode_holds_across_a_kill(tiny: tuple[Workspace, str], tmp_path: Path) -> None:
    """The endpoint is killed in mid-stream: the intent is on disk, no outcome and no end mark; the next one serves."""
    ws, key = tiny
    running = Process(ws, tmp_path, key, "--strict")
    receipt, got = cut_off(running)
    assert b"[DONE]" not in b"".join(got)
    running.kill()
    kinds = ws.store.query("SELECT kind FROM event WHERE subject = ? ORDER BY seq", [receipt])
    assert [row["kind"] for row in kinds] in ([], ["gateway.intent"])
    assert ws.store.query("SELECT count(*) AS n FROM gateway_decision WHERE request_id = ?", [receipt]) == [{"n": 0}]
    again = Process(ws, tmp_path, key, "--strict")
    try:
        assert again.ask().status_code == 200
        assert len([path for path in ws.work("serve").iterdir() if path.name.startswith("endpoint-")]) <= 2
    finally:
        assert again.stop() == 0


# ---- the clock ---------------------------------------------------------------------------------------------------


def set_clock(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Let the wall clock of what judges expiry jump."""

    class Jumped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + by

    monkeypatch.setattr(clock, "datetime", Jumped)
    monkeypatch.setattr(steady, "datetime", Jumped)


def test_a_clock_set_back_lengthens_nothing(
    ws: Workspace, prod: Asset, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock still gives the certificate its time, the machine's own does not."""
    monkeypatch.setattr(proof, "steady_until", lambda moment: steady.steady_now() + 1.5)
    monkeypatch.setattr(switching, "POINTER_SECONDS", 0.05)

    def visit(url: str) -> None:
        until(lambda: httpx.get(f"{url}/ready").status_code == 503)
        time.sleep(0.3)
        assert httpx.get(f"{url}/ready").status_code == 503

    while_serving(ws, visit, Plan("prod"))
    assert "its time ended" in events(ws, "endpoint.closed")[0]["reason"]


def test_a_clock_that_jumps_ahead_closes_and_one_set_right_opens(
    ws: Workspace, prod: Asset, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "VERIFY_SECONDS", 0.1)
    monkeypatch.setattr(switching, "POINTER_SECONDS", 0.05)

    def visit(url: str) -> None:
        for by, status in (
            (timedelta(days=400), 503),
            (timedelta(), 200),
            (-timedelta(hours=2), 503),
            (timedelta(), 200),
        ):
            with monkeypatch.context() as patch:
                set_clock(patch, by)
                until(lambda status=status: httpx.get(f"{url}/ready").status_code == status)

    while_serving(ws, visit, Plan("prod"))
    reasons = [event["reason"] for event in events(ws, "endpoint.closed")]
    assert "expired" in reasons[0]
    assert "the clock says" in reasons[1]
    assert len(events(ws, "endpoint.reopened")) == 2
