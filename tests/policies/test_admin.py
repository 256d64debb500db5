"""The admin port: metrics, health, readiness and status without a key, and structured lines without content."""

from __future__ import annotations

import io
import json
import logging
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from policies.endpoint import lines
from policies.endpoint.admin import AdminApp
from policies.endpoint.lines import JsonLines, RequestLines
from policies.endpoint.listener import Listener, bind, url_of
from tests.policies.asking import HTTP, chat, post
from tests.policies.running import CARD, SECRET, Running
from tests.policies.test_metrics import samples
from tests.stubs.engine import Script
from tests.waiting import until


@pytest.fixture(scope="module")
def admin(shared: Running) -> Iterator[str]:
    """The admin application of the shared gateway on a port of its own."""
    bound = bind("127.0.0.1", 0)
    listener = Listener(AdminApp(shared.gateway), bound, drain_s=2)
    thread = threading.Thread(target=listener.run, daemon=True)
    thread.start()
    until(lambda: listener.started)
    yield url_of(bound)
    listener.stop()
    thread.join(10)


def get(url: str, path: str) -> httpx.Response:
    return HTTP.get(url + path)


def test_metrics_need_no_key_there_and_one_on_the_main_port(run: Running, admin: str) -> None:
    post(run, chat())
    post(run, chat(), "ivy")
    page = get(admin, "/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(page.text)
    assert found["requests_total"]['requests_totalsurface="chat",action="deny",status="403"'] >= 1
    assert found["desk_up"] == {'desk_upmodel="stdlib"': 1}
    assert found["decision_log_up"] == {"decision_log_up": 1}
    assert found["connections"]["connections"] >= 1
    assert HTTP.get(f"{run.url}/metrics").status_code == 401


def test_health_is_of_the_process_and_readiness_of_the_service(run: Running, admin: str) -> None:
    assert [get(admin, path).status_code for path in ("/health", "/ready")] == [200, 200]
    run.desk.closed["engine"] = "the engine has stopped"
    try:
        assert [get(admin, path).status_code for path in ("/health", "/ready")] == [200, 503]
        assert get(admin, "/status").json()["desks"][0]["closed"] == {"engine": "the engine has stopped"}
        assert "hallmark_engine_up 0" in get(admin, "/metrics").text
    finally:
        run.desk.closed.clear()


def test_status_says_what_is_served(run: Running, admin: str) -> None:
    post(run, chat())
    status = get(admin, "/status").json()
    assert status["ready"] is True
    (desk,) = status["desks"]
    assert (desk["model"], desk["certificate"], desk["candidate"]) == ("stdlib", "sha256:cert", "sha256:c")
    assert desk["bundle"].startswith("sha256:")
    assert desk["active"] == 0
    assert status["requests"]["decided"] >= 1
    assert status["decision_log"]["healthy"] is True
    assert status["connections"]["most"] > 0


def test_the_openapi_document_is_there(admin: str) -> None:
    document = get(admin, "/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert "/v1/chat/completions" in document["paths"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/", "/docs", "/metrics/", "/status/x"])
def test_nothing_else_is_there(admin: str, path: str) -> None:
    assert get(admin, path).status_code == 404


def test_it_takes_get_only(admin: str) -> None:
    assert HTTP.post(f"{admin}/status", content=b"x").status_code == 405


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example"])
def test_a_web_page_cannot_read_it_through_a_name_of_its_own(admin: str, host: str) -> None:
    address, port = admin.removeprefix("http://").split(":")
    with socket.create_connection((address, int(port)), timeout=5) as wire:
        wire.sendall(f"GET /status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        got = wire.recv(65_536)
    assert got.startswith(b"HTTP/1.1 421 ")
    assert b"certificate" not in got


# ---- structured lines ------------------------------------------------------------------------------------------


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines())
    before = lines.log.level
    lines.log.addHandler(handler)
    lines.log.setLevel(logging.INFO)
    yield out
    lines.log.removeHandler(handler)
    lines.log.setLevel(before)


def test_every_decided_request_is_one_line_without_content(run: Running, written: io.StringIO) -> None:
    run.engine.script = Script([f"the key is {SECRET}"])
    front = run.gateway.front
    front.observers = (RequestLines(),)
    try:
        post(run, chat(messages=[{"role": "user", "content": f"pay with {CARD}"}]))
        post(run, chat(), "ivy")
        until(lambda: len(run.log.of("gateway.decision")) == 2)
    finally:
        front.observers = ()
    said = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["status"], line["principal"], line["action"]) for line in said] == [
        (200, "mia", "redact"), (403, "ivy", "deny"),
    ]  # fmt: skip
    assert said[0]["rules"] == run.log.of("gateway.decision")[0]["rules"]
    assert said[1]["code"] == "access_denied"
    for word in (SECRET, "[REDACTED", CARD, "pay with"):
        assert word not in written.getvalue()


def test_an_exception_is_told_by_type_and_place_not_by_its_message(written: io.StringIO) -> None:
    try:
        int("the caller said: my password is hunter2")
    except ValueError:
        lines.log.exception("request %s failed", "hr-1")
    line = json.loads(written.getvalue())
    assert line["message"] == "request hr-1 failed"
    assert line["exception"] == "ValueError"
    assert line["at"].startswith("tests.policies.test_admin") or "test_admin" in line["at"]
    assert "hunter2" not in written.getvalue()
