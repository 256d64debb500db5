"""What an endpoint is put together from: settings, several releases on one engine, doors, a stranger's engine."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from governance.cli.serve import plan_of
from governance.setup import default_bundle
from policies.endpoint.hash_key import hash_key
from policies.serving import proof
from policies.serving.assembly import control_tokens_of
from policies.serving.fleet import Build, adapter_name
from policies.serving.operations import admin_socket
from policies.serving.plan import Plan, Remote, Upkeep, check_plan, upkeep_of
from policies.serving.proof import Target
from registry.errors import Refused, SpecError, Tampered
from registry.records import Asset
from registry.settings import read
from registry.workspace import Workspace
from tests.policies.serving import ASK, add_caller, ask, candidate_of, events, promote, register, while_serving
from tests.stubs.engine import Script
from tests.waiting import until


def test_the_hash_key_is_kept_and_private(ws: Workspace) -> None:
    first = hash_key(ws)
    assert len(first) == 32
    assert hash_key(ws) == first
    path = ws.root / "keys" / "decision-log.key"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"short")
    with pytest.raises(Tampered):
        hash_key(ws)


def test_control_tokens_are_the_special_ones(tmp_path: Path) -> None:
    added = [
        {"content": "<s>", "special": True},
        {"content": "def", "special": False},
        {"content": "<|user|>", "special": True},
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    assert control_tokens_of(tmp_path) == ("<s>", "<|user|>")
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(Tampered):
        control_tokens_of(tmp_path)


# ---- plans and settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(), "an alias or a permit"),
        (Plan("prod", permit="x"), "an alias or a permit"),
        (Plan(permit="x", also=("code",)), "served alone"),
        (Plan("prod", also=("prod",)), "named twice"),
        (Plan("prod", engine="unsafe_unverified"), "go together"),
        (Plan("prod", remote=Remote("http://127.0.0.1:1")), "go together"),
    ],
)
def test_plans_that_make_no_sense_are_refused(plan: Plan, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_plan(plan)


def test_a_permit_is_never_served_to_a_network() -> None:
    with pytest.raises(Refused, match="loopback"):
        check_plan(Plan(permit="x", host="0.0.0.0"))


def test_settings_make_the_plan(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALLMARK_REPLICAS", "3")
    monkeypatch.setenv("HALLMARK_SWITCH", "stop_first")
    monkeypatch.setenv("HALLMARK_ENGINE_DOWN", "stop")
    monkeypatch.setenv("HALLMARK_UNSAFE_UNVERIFIED_ENGINE", "https://elsewhere.example/v1")
    settings = read(ws.root)
    plan = plan_of(settings, "prod", ("code",), port=0)
    assert plan.upkeep == Upkeep(replicas=3, switch="stop_first", engine_down="stop")
    assert (plan.also, plan.port, plan.remote, plan.operations) == (("code",), 0, None, True)
    remote = plan_of(settings, "prod", engine="unsafe_unverified")
    assert remote.remote == Remote("https://elsewhere.example/v1")
    assert not plan_of(settings, None, permit="x").operations


@pytest.mark.parametrize(
    ("name", "value"),
    [("REPLICAS", "0"), ("REPLICAS", "1.5"), ("RESTART_LIMIT", "-1"), ("DRAIN_S", "0"), ("SWITCH", "both"),
     ("ENGINE_DOWN", "x")],
)  # fmt: skip
def test_a_setting_that_is_wrong_is_named(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"HALLMARK_{name}", value)
    with pytest.raises(SpecError) as caught:
        upkeep_of(read(ws.root))
    assert name.lower() in str(caught.value)
    assert f"HALLMARK_{name}" in (caught.value.hint or "")


def test_the_admin_port_is_on_loopback_unless_it_names_a_host(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        assert admin_socket(read(ws.root), stack) is None
        monkeypatch.setenv("HALLMARK_ADMIN_PORT", "0")
        bound = admin_socket(read(ws.root), stack)
        assert bound is not None
        assert bound.getsockname()[0] == "127.0.0.1"
        monkeypatch.setenv("HALLMARK_ADMIN_PORT", "[::1]:x")
        with pytest.raises(SpecError, match="HOST:PORT"):
            admin_socket(read(ws.root), stack)


# ---- several releases --------------------------------------------------------------------------------------------


def test_a_build_fits_what_it_was_proven_for(ws: Workspace) -> None:
    candidate = proof.verify(ws, Target("prod")).candidate
    build = Build(candidate.engine, candidate.engine_version, candidate.weights, candidate.quantisation)
    assert build.fits(candidate)
    assert build.fits(replace(candidate, bundle="sha256:b", generation={}))
    for changes in ({"weights": "sha256:w"}, {"engine": "vllm"}, {"engine_version": "0"}, {"adapter": "sha256:a"}):
        assert not build.fits(replace(candidate, **changes))
    assert build.with_adapters(["sha256:a"]).fits(replace(candidate, adapter="sha256:a"))


@pytest.mark.slow
def test_two_adapters_of_one_base_are_two_desks_on_one_engine(
    ws: Workspace, prod: Asset, started: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each under its own name, certificate and desk; one engine process, asked for the right adapter."""
    manifests = {}
    for name in ("code", "law"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_text(name)
        manifests[name] = ws.artifacts.add_tree(tmp_path / name).id
        promote(ws, candidate_of(ws), name)
    checked = proof.verify

    def with_adapter(workspace: Workspace, target: Target) -> Any:
        found = checked(workspace, target)
        adapter = manifests.get(target.name, "none")
        return replace(found, candidate=replace(found.candidate, adapter=adapter))

    monkeypatch.setattr(proof, "verify", with_adapter)
    key = add_caller(ws)

    def visit(url: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        for name in ("prod", "code", "law"):
            reply = httpx.post(f"{url}/v1/chat/completions", json={"model": name, "messages": ASK}, headers=headers)
            assert reply.headers["x-hallmark-certificate"] == ws.release(name).certificate
        asked = [request["model"] for request in started[0].handle.engine.requests]
        assert asked == ["engine", adapter_name(manifests["code"]), adapter_name(manifests["law"])]
        listed = httpx.get(f"{url}/v1/models", headers=headers).json()["data"]
        assert [model["id"] for model in listed] == ["prod", "code", "law"]

    while_serving(ws, visit, Plan("prod", also=("code", "law")))
    assert len(started) == 1
    assert set(started[0].options["adapters"]) == {adapter_name(manifest) for manifest in manifests.values()}
    assert [one["model"] for one in events(ws, "endpoint.started")[0]["also"]] == ["code", "law"]


@pytest.mark.slow
def test_one_release_closes_without_the_other(
    ws: Workspace, prod: Asset, started: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from governance import promotion

    promote(ws, register(ws, tmp_path / "other", voice="good day"), "other")
    key = add_caller(ws)

    def visit(url: str) -> None:
        assert [ask(url, key), ask(url, key, "other")] == ["hello", "good day"]
        promotion.revoke(ws, ws.release("other").certificate, reason="found bad")
        os.kill(os.getpid(), signal.SIGHUP)
        until(lambda: len(events(ws, "endpoint.closed")) == 1)
        assert ask(url, key) == "hello"
        with pytest.raises(openai.InternalServerError, match="found bad"):
            ask(url, key, "other")

    while_serving(ws, visit, Plan("prod", also=("other",)))
    assert len(started) == 2


# ---- an engine of somebody else ----------------------------------------------------------------------------------


@pytest.fixture
def stranger() -> Iterator[str]:
    """An OpenAI-compatible server over TCP."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from tests.stubs.engine import whole

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say({"object": "list", "data": []})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._say(whole(Script(["who knows"]), True))

        def _say(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def open_bundle(folder: Path) -> Path:
    """Return the default bundle with a rule that names unverified engines."""
    import shutil

    shutil.copytree(default_bundle(), folder)
    access = folder / "access.cedar"
    before = 'resource.status == "permit" };'
    text = access.read_text()
    assert before in text
    access.write_text(text.replace(before, 'resource.status == "permit" || resource.status == "unsafe_unverified" };'))
    return folder


def test_an_unverified_engine_is_refused_unless_a_rule_names_it(
    ws: Workspace, prod: Asset, started: list[Any], stranger: str, tmp_path: Path
) -> None:
    key = add_caller(ws)
    plan = Plan("prod", engine="unsafe_unverified", remote=Remote(stranger))

    def refused(url: str) -> None:
        with pytest.raises(openai.PermissionDeniedError, match="only-proven-models"):
            ask(url, key)

    def answered(url: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        reply = httpx.post(f"{url}/v1/chat/completions", json={"model": "prod", "messages": ASK}, headers=headers)
        assert reply.json()["choices"][0]["message"]["content"] == "who knows"
        assert "x-hallmark-certificate" not in reply.headers
        assert reply.headers["x-hallmark-unverified"] == "engine"

    while_serving(ws, refused, plan)
    promote(ws, register(ws, tmp_path / "other", policy=open_bundle(tmp_path / "bundle")))
    while_serving(ws, answered, plan)
    rows = ws.store.query("SELECT candidate, certificate, status FROM gateway_decision ORDER BY seq")
    assert [tuple(row.values()) for row in rows] == [("unsafe_unverified", "", 403), ("unsafe_unverified", "", 200)]
    assert started == []
    assert events(ws, "endpoint.started")[0]["engine"] == "unsafe_unverified"


# ---- doors and drain ---------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def test_the_admin_port_answers_to_the_end_and_says_not_ready(
    ws: Workspace, prod: Asset, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM: not ready at once, while a running stream ends whole; then the endpoint is gone."""
    admin = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("HALLMARK_ADMIN_PORT", admin.rpartition(":")[2])
    opened = Workspace.open(ws.root)
    key = add_caller(ws)
    got: list[str] = []
    states: list[int] = []

    def visit(url: str) -> None:
        assert httpx.get(f"{admin}/ready").status_code == 200
        assert "hallmark_certificate_expires" in httpx.get(f"{admin}/metrics").text
        started[0].handle.engine.script = Script(["word "] * 40, delay=0.03)
        headers = {"authorization": f"Bearer {key}"}
        body = {"model": "prod", "messages": ASK, "stream": True}
        reader = threading.Thread(
            target=lambda: got.append(httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers).text)
        )
        reader.start()
        until(lambda: len(started[0].handle.engine.requests) == 1)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: httpx.get(f"{admin}/ready").status_code == 503)
        states.append(httpx.get(f"{admin}/status").json()["ending"])
        reader.join(20)

    plan = replace(plan_of(opened.settings, "prod", port=0))
    served_until_stopped(opened, visit, plan)
    opened.close()
    assert states == [True]
    assert got[0].count("word ") == 40
    assert got[0].rstrip().endswith("[DONE]")


def lets_in(url: str) -> bool:
    """Whether an endpoint still takes connections."""
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def served_until_stopped(ws: Workspace, visit: Any, plan: Plan) -> None:
    """Serve; the visit itself stops the endpoint."""
    from policies import serve

    failed: list[BaseException] = []

    def visiting(url: str) -> None:
        try:
            visit(url)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            failed.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

    threads: list[threading.Thread] = []

    def ready(url: str) -> None:
        threads.append(threading.Thread(target=visiting, args=(url,)))
        threads[0].start()

    serve.run(ws, plan, on_ready=ready)
    threads[0].join(30)
    if failed:
        raise failed[0]


@pytest.mark.slow
def test_a_second_signal_cuts_the_drain_short(ws: Workspace, prod: Asset, started: list[Any]) -> None:
    """What runs is cut off as broken, logged, and the engine is stopped."""
    key = add_caller(ws)
    got: list[str] = []

    def visit(url: str) -> None:
        started[0].handle.engine.script = Script(["word "] * 4000, delay=0.02)
        headers = {"authorization": f"Bearer {key}"}
        body = {"model": "prod", "messages": ASK, "stream": True}

        def read() -> None:
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
                try:
                    got.extend(reply.iter_lines())
                except httpx.HTTPError as error:
                    got.append(type(error).__name__)

        reader = threading.Thread(target=read)
        reader.start()
        until(lambda: len(started[0].handle.engine.requests) == 1)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: not lets_in(url))
        os.kill(os.getpid(), signal.SIGTERM)
        reader.join(20)

    begun = time.monotonic()
    served_until_stopped(ws, visit, Plan("prod", upkeep=Upkeep(drain_s=60)))
    assert time.monotonic() - begun < 30
    assert not any("[DONE]" in line for line in got)
    assert started[0].handle.stopped
    rows = ws.store.query("SELECT finish_reason FROM gateway_decision")
    assert rows == [{"finish_reason": "aborted"}]
