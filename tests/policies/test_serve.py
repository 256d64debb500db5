"""Serving from a real workspace: what is verified before the engine starts, and what ends an endpoint again."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from policies import engines, serve
from policies.serving import proof, switching
from policies.serving.fleet import adapter_name
from policies.serving.proof import Target
from registry.errors import Locked, NotFound, Refused, SpecError, Tampered
from registry.records import Asset
from registry.workspace import Workspace
from tests.policies.serving import ASK, Handle, add_caller, ask, evaluator, events, permit_for, while_serving
from tests.stubs.engine import Script
from tests.waiting import until


def test_a_release_is_served_and_every_answer_is_in_the_journal(ws: Workspace, prod: Asset, started: list[Any]) -> None:
    key = add_caller(ws)

    def visit(url: str) -> None:
        assert httpx.get(f"{url}/ready").status_code == 200
        for _ in range(5):
            assert ask(url, key) == "hello"
        assert httpx.get(f"{url}/v1/models").status_code == 401
        sent = started[0].handle.engine.requests[0]
        assert (sent["max_tokens"], sent["temperature"]) == (32, 0.0)

    while_serving(ws, visit, alias="prod")
    rows = ws.store.query("SELECT * FROM gateway_decision ORDER BY seq")
    assert [row["status"] for row in rows] == [200] * 5 + [401]
    release = ws.release("prod")
    assert rows[0]["endpoint"] == rows[0]["model"] == "prod"
    assert (rows[0]["candidate"], rows[0]["certificate"]) == (prod.id, release.certificate)
    assert (rows[0]["bundle"], rows[0]["determinism"]) == (prod.body["bundle"], "greedy")
    assert events(ws, "endpoint.started")[0]["certificate"] == release.certificate
    assert events(ws, "endpoint.stopped") == [{"decisions": 6, "drained": True}]
    start = started[0]
    assert (start.kind, start.mode) == ("transformers", 0o700)
    assert {"model.safetensors", "tokenizer.json"} <= start.files
    assert start.handle.stopped
    assert not start.model_dir.exists()
    assert not start.uds.parent.exists()
    assert list(ws.work("serve").iterdir()) == []


def test_one_flipped_byte_is_refused_and_named(ws: Workspace, prod: Asset, started: list[Any]) -> None:
    entry = ws.artifacts.manifest(prod.body["weights"]).entry("model.safetensors")
    assert entry is not None
    blob = next(
        path for path in (ws.root / "objects").rglob("*") if path.is_file() and path.stat().st_size == entry.size
    )
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.write_bytes(data)
    with pytest.raises(Tampered, match=r"model\.safetensors"):
        serve.serve(ws, alias="prod")
    assert started == []
    assert "model.safetensors" in events(ws, "endpoint.refused")[0]["reason"]


SWAPS: list[tuple[str, str, bytes | None]] = [
    ("weights", "model.safetensors", b"other weights"),
    ("weights", "tokenizer.json", b'{"other": 1}'),
    ("weights", "adapter_config.json", b"{}"),
    ("weights", "config.json", None),
    ("bundle", "access.cedar", b"permit (principal, action, resource);"),
    ("bundle", "bundle.yaml", b"name: open"),
]


@pytest.mark.parametrize(("part", "name", "data"), SWAPS)
def test_what_is_swapped_between_check_and_load_is_refused(
    ws: Workspace, prod: Asset, started: list[Any], monkeypatch: pytest.MonkeyPatch, part: str, name: str,
    data: bytes | None,
) -> None:  # fmt: skip
    """The private copy was verified; somebody changes a file of it while the engine loads it."""

    def swap(self: Handle, timeout: float, progress: Any) -> None:
        file = next(ws.work("serve").glob(f"endpoint-*/*/{part}")) / name
        file.unlink(missing_ok=True)
        if data is not None:
            file.write_bytes(data)
            file.chmod(0o444)

    monkeypatch.setattr(Handle, "wait_ready", swap)
    with pytest.raises(Tampered, match=rf"changed while the endpoint started: `{name}`"):
        serve.serve(ws, alias="prod")
    assert started[0].handle.stopped
    assert name in events(ws, "endpoint.refused")[0]["reason"]
    assert list(ws.work("serve").iterdir()) == []


def test_a_pointer_that_moves_during_the_start_changes_nothing_that_is_loaded(
    ws: Workspace, prod: Asset, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded is what was verified, not what the pointer file says a moment later."""
    pointer, checked = ws.pointer("prod"), proof.verify

    def verify_then_swap(workspace: Workspace, target: Target) -> Any:
        found = checked(workspace, target)
        forged = json.loads(pointer.read_bytes()) | {"candidate": "sha256:" + "0" * 64, "certificate": "sha256:0"}
        pointer.write_text(json.dumps(forged))
        return found

    monkeypatch.setattr(proof, "verify", verify_then_swap)
    monkeypatch.setattr(switching, "VERIFY_SECONDS", 0.1)
    original = pointer.read_bytes()
    certificate = ws.release("prod").certificate

    def visit(url: str) -> None:
        until(lambda: httpx.get(f"{url}/ready").status_code == 503)

    while_serving(ws, visit, alias="prod")
    facts = events(ws, "endpoint.started")[0]
    assert (facts["candidate"], facts["certificate"]) == (prod.id, certificate)
    assert pointer.read_bytes() != original


def test_a_candidate_with_an_adapter_is_served_with_a_verified_copy_of_it(
    ws: Workspace, prod: Asset, started: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checked = proof.verify
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_model.safetensors").write_bytes(b"weights")
    manifest = ws.artifacts.add_tree(tmp_path / "lora").id

    def with_adapter(workspace: Workspace, target: Target) -> Any:
        found = checked(workspace, target)
        return replace(found, candidate=replace(found.candidate, adapter=manifest))

    monkeypatch.setattr(proof, "verify", with_adapter)
    key = add_caller(ws)

    def visit(url: str) -> None:
        ask(url, key)
        adapters = started[0].options["adapters"]
        assert list(adapters) == [adapter_name(manifest)]
        assert (adapters[adapter_name(manifest)] / "adapter_model.safetensors").read_bytes() == b"weights"
        assert started[0].handle.engine.requests[0]["model"] == adapter_name(manifest)

    while_serving(ws, visit, alias="prod")

    def swap(self: Handle, timeout: float, progress: Any) -> None:
        file = next(ws.work("serve").rglob("adapter_model.safetensors"))
        file.chmod(0o644)
        file.write_bytes(b"WEIGHTS")

    monkeypatch.setattr(Handle, "wait_ready", swap)
    with pytest.raises(Tampered, match=r"adapter_model\.safetensors"):
        serve.serve(ws, alias="prod")


def test_what_has_no_proof_is_not_served(ws: Workspace, started: list[Any]) -> None:
    with pytest.raises(NotFound):
        serve.serve(ws, alias="nowhere")
    with pytest.raises(NotFound):
        serve.serve(ws, permit="0123456789abcdef")
    for names in ({}, {"alias": "prod", "permit": "x"}):
        with pytest.raises(SpecError):
            serve.serve(ws, **names)
    assert started == []


def test_another_engine_than_the_proven_one_is_refused(
    ws: Workspace, prod: Asset, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refused, match="proven with the engine `transformers`, not with `vllm`"):
        serve.serve(ws, alias="prod", engine="vllm")
    assert started == []
    start = engines.start

    def newer(*given: Any, **named: Any) -> Any:
        handle: Any = start(*given, **named)
        handle.version = "transformers 99.0, torch 2.13.0"
        return handle

    monkeypatch.setattr(engines, "start", newer)
    with pytest.raises(Refused, match=r"version transformers 99\.0"):
        serve.serve(ws, alias="prod")
    assert started[0].handle.stopped


def test_a_taken_port_is_told_before_anything_starts(ws: Workspace, prod: Asset, started: list[Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(Locked, match="is taken") as caught:
            serve.serve(ws, alias="prod", port=other.getsockname()[1])
        assert caught.value.hint
    assert started == []


def test_a_permit_serves_on_loopback_under_its_own_name(ws: Workspace, started: list[Any]) -> None:
    permit = permit_for(ws)
    key, plan = evaluator(permit)

    def visit(url: str) -> None:
        assert ask(url, key, f"permit/{permit}") == "hello"
        reply = httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"})
        assert [model["id"] for model in reply.json()["data"]] == [f"permit/{permit}"]
        assert "x-hallmark-certificate" not in reply.headers
        with pytest.raises(openai.NotFoundError):
            ask(url, key, "prod")

    while_serving(ws, visit, plan)
    with pytest.raises(Refused, match="loopback"):
        serve.serve(ws, permit=permit, host="0.0.0.0")


def test_an_endpoint_ends_with_its_permit(ws: Workspace, started: list[Any]) -> None:
    _, plan = evaluator(permit_for(ws, minutes=0.05))
    serve.run(ws, plan)  # returns without anyone stopping it
    assert started[0].handle.stopped
    with pytest.raises(Refused, match="expired"):
        serve.run(ws, plan)


def test_an_engine_that_crashed_is_noticed(ws: Workspace, prod: Asset, started: list[Any]) -> None:
    key = add_caller(ws)

    def visit(url: str) -> None:
        started[0].handle.crash()
        until(lambda: httpx.get(f"{url}/ready").status_code == 503)
        with pytest.raises(openai.InternalServerError, match="engine has stopped"):
            ask(url, key)

    while_serving(ws, visit, alias="prod")


def test_new_keys_open_and_revoked_ones_close(
    ws: Workspace, prod: Asset, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "CALLERS_SECONDS", 0.1)

    def visit(url: str) -> None:
        key = add_caller(ws, "late")
        headers = {"authorization": f"Bearer {key}"}
        until(lambda: httpx.get(f"{url}/v1/models", headers=headers).status_code == 200)
        ws.record("caller.revoked", "late", {"reason": "left"}, actor="operator")
        until(lambda: httpx.get(f"{url}/v1/models", headers=headers).status_code == 401)

    while_serving(ws, visit, alias="prod")


def test_a_revoked_certificate_closes_the_endpoint(
    ws: Workspace, prod: Asset, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "VERIFY_SECONDS", 0.1)
    key = add_caller(ws)

    def visit(url: str) -> None:
        assert ask(url, key) == "hello"
        ws.record("certificate.revoked", ws.release("prod").certificate, {"reason": "found bad"}, actor="operator")
        until(lambda: httpx.get(f"{url}/ready").status_code == 503)
        with pytest.raises(openai.InternalServerError, match="found bad"):
            ask(url, key)

    while_serving(ws, visit, alias="prod")


def test_requests_in_flight_end_before_the_endpoint_does(ws: Workspace, prod: Asset, started: list[Any]) -> None:
    key = add_caller(ws)
    got: list[str] = []
    reader: list[threading.Thread] = []

    def visit(url: str) -> None:
        started[0].handle.engine.script = Script(["word "] * 40, delay=0.02)

        def read() -> None:
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                stream = client.chat.completions.create(model="prod", messages=ASK, stream=True)  # type: ignore[call-overload]
                got.extend(chunk.choices[0].delta.content or "" for chunk in stream)

        reader.append(threading.Thread(target=read))
        reader[0].start()
        until(lambda: len(started[0].handle.engine.requests) == 1)

    while_serving(ws, visit, alias="prod")
    reader[0].join(5)
    assert "".join(got) == "word " * 40
    rows = ws.store.query("SELECT completion_tokens FROM gateway_decision")
    assert rows == [{"completion_tokens": 40}]


def test_a_signal_during_the_start_undoes_it(ws: Workspace, prod: Asset, started: list[Any]) -> None:
    def progress(stage: str, done: float, total: float | None = None, note: str = "") -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    serve.serve(ws, alias="prod", progress=progress)
    assert signal.getsignal(signal.SIGTERM) == before
    assert list(ws.work("serve").iterdir()) == []
