"""The listening side: ports, descriptors, background work, and TLS handshakes that do not come."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from policies.access.tls import server_context
from policies.endpoint.edge import Edge, EdgeLimits
from policies.endpoint.listener import SPARE_DESCRIPTORS, Listener, bind, is_loopback, settled_memory, url_of
from registry.errors import Locked, Refused
from tests.policies.test_tls import Authority
from tests.waiting import until


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """Answer everything."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def test_a_port_that_is_taken_or_forbidden_is_said() -> None:
    taken = bind("127.0.0.1", 0)
    with pytest.raises(Locked, match="is taken"):
        bind("127.0.0.1", taken.getsockname()[1])
    taken.close()
    with pytest.raises(Refused, match="cannot listen"):
        bind("203.0.113.7", 0)


@pytest.mark.parametrize(
    ("host", "yes"), [("localhost", True), ("127.0.0.9", True), ("::1", True), ("0.0.0.0", False), ("x", False)]
)
def test_loopback_is_known(host: str, *, yes: bool) -> None:
    assert is_loopback(host) is yes


def test_connections_fit_into_the_descriptors_that_a_process_may_open() -> None:
    edge = Edge(EdgeLimits(connections=10_000_000))
    bound = bind("127.0.0.1", 0)
    Listener(answering, bound, edge=edge)
    bound.close()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert edge.limits.connections <= soft - SPARE_DESCRIPTORS


def test_background_work_that_fails_stops_the_listener() -> None:
    async def failing() -> None:
        await asyncio.sleep(0.01)
        raise RuntimeError("the watch is gone")

    bound = bind("127.0.0.1", 0)
    listener = Listener(answering, bound, drain_s=1, background=[failing])
    thread = threading.Thread(target=listener.run, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_memory_is_settled_while_it_serves_only() -> None:
    before = gc.get_threshold()
    with settled_memory():
        assert gc.get_threshold() != before
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_a_handshake_that_does_not_come_is_cut_off(tmp_path: Path) -> None:
    issued = Authority(tmp_path / "ca").issue("server", {"cn": ["localhost"]}, server=True)
    bound = bind("127.0.0.1", 0)
    edge = Edge(EdgeLimits(handshake_s=0.3))
    listener = Listener(answering, bound, drain_s=1, tls=server_context(issued.cert, issued.key), edge=edge)
    thread = threading.Thread(target=listener.run, daemon=True)
    thread.start()
    until(lambda: listener.started)
    try:
        host, port = url_of(bound).removeprefix("http://").split(":")
        begun = time.monotonic()
        with socket.create_connection((host, int(port)), timeout=20) as silent:
            assert silent.recv(100) == b""
        assert time.monotonic() - begun < 15  # uvloop's own limit is a minute
    finally:
        listener.stop()
        thread.join(10)
    assert not thread.is_alive()
