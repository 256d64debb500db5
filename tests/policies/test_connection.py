"""Hostile connections, on raw sockets: framing that two readers could take differently, slowness, masses."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.endpoint.desk import Bounds
from policies.endpoint.edge import EdgeLimits
from tests.policies.asking import chat, post
from tests.policies.running import Running, gateway_running
from tests.stubs.engine import Script
from tests.waiting import until


def dial(run: Running) -> socket.socket:
    host, port = run.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def rest(wire: socket.socket) -> bytes:
    """Return what comes until the endpoint closes."""
    got = b""
    try:
        while data := wire.recv(65_536):
            got += data
    except ConnectionResetError:
        pass
    return got


def say(run: Running, data: bytes) -> bytes:
    """Send bytes and return all that comes back until the endpoint closes the connection."""
    with dial(run) as wire:
        wire.sendall(data)
        return rest(wire)


def request(run: Running, *extra: str, line: str = "POST /v1/chat/completions HTTP/1.1", host: str = "x") -> bytes:
    """Return the head of a request that a member makes, without its end."""
    lines = [
        line,
        f"Host: {host}",
        f"Authorization: Bearer {run.keys['mia']}",
        "Content-Type: application/json",
        *extra,
    ]
    return "".join(f"{each}\r\n" for each in lines).encode()


BODY = json.dumps(chat()).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SIZE = f"Content-Length: {len(BODY)}"

UNREADABLE = {
    "length and chunks": ([SIZE, "Transfer-Encoding: chunked"], CHUNKED),
    "chunks and length": (["Transfer-Encoding: chunked", SIZE], CHUNKED),
    "two equal lengths": ([SIZE, SIZE], BODY),
    "two lengths": ([SIZE, "Content-Length: 1"], BODY),
    "a list of lengths": ([f"{SIZE}, {len(BODY)}"], BODY),
    "a signed length": ([f"Content-Length: +{len(BODY)}"], BODY),
    "a length in hex": (["Content-Length: 0x10"], BODY),
    "a negative length": (["Content-Length: -1"], BODY),
    "a space before the colon": ([f"Content-Length : {len(BODY)}"], BODY),
    "a folded length": ([f"Content-Length:\r\n {len(BODY)}"], BODY),
    "a folded header": (["X-Long: a\r\n b", SIZE], BODY),
    "a bare line feed": ([f"X: a\n{SIZE}"], BODY),
    "a bare carriage return": ([f"X: a\r{SIZE}"], BODY),
    "a null": (["X: a\0b", SIZE], BODY),
    "chunked is not last": (["Transfer-Encoding: chunked, identity"], CHUNKED),
    "chunked twice": (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], CHUNKED),
    "not quite chunked": (["Transfer-Encoding: xchunked"], CHUNKED),
    "chunked after a control character": (["Transfer-Encoding: \x0bchunked"], CHUNKED),
}


@pytest.mark.parametrize(("extra", "body"), UNREADABLE.values(), ids=list(UNREADABLE))
def test_a_request_that_can_be_read_in_two_ways_is_refused(run: Running, extra: list[str], body: bytes) -> None:
    smuggled = request(run, SIZE) + b"\r\n" + BODY
    got = say(run, request(run, *extra) + b"\r\n" + body + smuggled)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert got.count(b"HTTP/1.1 ") == 1, "what follows is not read"
    assert b"connection: close" in got
    assert run.engine.requests == []


BAD_CHUNKS = [b"-1\r\nx\r\n0\r\n\r\n", b"0x1\r\nx\r\n0\r\n\r\n", b"1\nx\n0\n\n", b"1 \r\nx\r\n0\r\n\r\n",
              b"fffffffffffffffff\r\nx\r\n0\r\n\r\n", b"1\r\nxy\r\n0\r\n\r\n"]  # fmt: skip


@pytest.mark.parametrize("body", BAD_CHUNKS)
def test_malformed_chunks_end_the_connection(run: Running, body: bytes) -> None:
    got = say(run, request(run, "Transfer-Encoding: chunked") + b"\r\n" + body)
    assert got == b"" or got.startswith(b"HTTP/1.1 400 ")
    assert run.engine.requests == []


LINES = ["GET http://evil.example/v1/models HTTP/1.1", "OPTIONS * HTTP/1.1", "CONNECT a:443 HTTP/1.1",
         "FOO /v1/models HTTP/1.1", "get /v1/models HTTP/1.1", "GET /v1/models HTTP/1.2", "PRI * HTTP/2.0",
         "GET /v1/models /x HTTP/1.1", "GET \\v1\\models HTTP/1.1"]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_other_targets_methods_and_versions_are_refused(run: Running, line: str) -> None:
    got = say(run, request(run, line=line) + b"\r\n")
    assert got.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 ", b"HTTP/1.1 405 "))
    assert run.engine.requests == []


REFUSED = {
    "a compressed transfer": (["Transfer-Encoding: gzip, chunked"], "bad_framing"),
    "two hosts": (["Host: y", SIZE], "repeated_header"),
    "two content types": (["Content-Type: application/json", SIZE], "repeated_header"),
    "two purposes": (["X-Hallmark-Purpose: a", "X-Hallmark-Purpose: b", SIZE], "repeated_header"),
    "a purpose of words": (["X-Hallmark-Purpose: any purpose", SIZE], "invalid_header"),
    "a purpose too long": ([f"X-Hallmark-Purpose: {'a' * 65}", SIZE], "invalid_header"),
    "a data class that is none": (["X-Hallmark-Data-Class: <b>", SIZE], "invalid_header"),
}


@pytest.mark.parametrize(("extra", "code"), REFUSED.values(), ids=list(REFUSED))
def test_a_head_that_is_not_clear_is_refused_and_decided(run: Running, extra: list[str], code: str) -> None:
    body = CHUNKED if "chunked" in extra[0] else BODY
    got = say(run, request(run, *extra) + b"\r\n" + body)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert f'"code":"{code}"'.encode() in got
    assert run.decisions(1)[0]["status"] == 400
    assert run.engine.requests == []


def test_a_chunked_body_needs_the_version_that_has_it(run: Running) -> None:
    head = request(run, "Transfer-Encoding: chunked", line="POST /v1/chat/completions HTTP/1.0")
    assert b'"code":"bad_framing"' in say(run, head + b"\r\n" + CHUNKED)


def test_a_host_is_asked_for(run: Running) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer x\r\n\r\n"
    with dial(run) as wire:
        wire.sendall(head)
        assert b"missing_host" in wire.recv(65_536)


def test_requests_sent_ahead_are_answered_in_order_and_apart(run: Running) -> None:
    one = request(run, SIZE) + b"\r\n" + BODY
    got = say(run, one * 3 + request(run, "Connection: close", line="GET /v1/models HTTP/1.1") + b"\r\n")
    assert got.count(b"HTTP/1.1 200 ") == 4
    assert got.index(b'"object":"list"') > got.rindex(b'"chat.completion"')
    assert len(run.decisions(4)) == 4


def test_too_many_requests_ahead_end_the_connection(run: Running) -> None:
    run.engine.script = Script(["slow"] * 3, delay=0.05)
    body = json.dumps(chat(stream=True)).encode()
    first = request(run, f"Content-Length: {len(body)}") + b"\r\n" + body
    got = say(run, first + (request(run, line="GET /v1/models HTTP/1.1") + b"\r\n") * 50)
    assert got.count(b'"object":"list"') == 0
    until(lambda: len(run.log.of("gateway.decision")) >= 1)


def test_an_upgrade_is_ignored_and_ends_the_connection(run: Running) -> None:
    got = say(run, request(run, "Connection: Upgrade", "Upgrade: h2c", line="GET /v1/models HTTP/1.1") + b"\r\n")
    assert got.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in got


def test_a_head_without_end_is_refused(run: Running) -> None:
    got = say(run, request(run) + b"X: " + b"a" * 70_000)
    assert got.startswith(b"HTTP/1.1 431 ")
    many = say(run, request(run, *(f"X-{n}: a" for n in range(200)), line="GET /v1/models HTTP/1.1") + b"\r\n")
    assert many.startswith(b"HTTP/1.1 400 ")


def test_chunks_of_nothing_but_framing_are_not_swallowed_for_ever(run: Running) -> None:
    limit = run.gateway.edge.limits.raw_bytes
    with dial(run) as wire:
        wire.sendall(request(run, "Transfer-Encoding: chunked") + b"\r\n")
        piece = b"1;" + b"x" * 65_536 + b"\r\na\r\n"
        with pytest.raises(OSError, match="reset|Broken pipe"):  # noqa: PT012 - either of them may meet the end
            for _ in range(4 * limit // len(piece)):
                wire.sendall(piece)
                time.sleep(0)
    assert run.engine.requests == []


# ---- time and numbers ------------------------------------------------------------------------------------------


def test_a_caller_who_is_refused_while_it_sends_reads_why(run: Running) -> None:
    huge = 40 << 20
    for extra, status in (([f"Content-Length: {huge}"], 413), ([f"Content-Length: {huge}", "X: a\0b"], 400)):
        with dial(run) as wire:
            wire.sendall(request(run, *extra) + b"\r\n" + b" " * huge)
            got = rest(wire)
        assert got.startswith(b"HTTP/1.1 %d " % status)
        assert b'"error"' in got
    until(lambda: not run.gateway.edge.open)


def test_a_refused_caller_who_never_stops_sending_is_let_go(tight: Running) -> None:
    def go_on(wire: socket.socket) -> None:
        for _ in range(200_000):
            wire.sendall(b" " * 4096)
            time.sleep(0.001)

    with dial(tight) as wire:
        wire.sendall(request(tight, "Content-Length: 900000000") + b"\r\n")
        with pytest.raises(OSError, match="reset|pipe"):
            go_on(wire)
    until(lambda: not tight.gateway.edge.open)


TIGHT = Bounds(body_s=0.8, edge=EdgeLimits(connections=20, head_s=1.0, idle_s=1.2, stalled_s=1.0, linger_s=0.8))


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway that has little patience and few places."""
    with gateway_running(tmp_path_factory.mktemp("tight"), bounds=TIGHT) as running:
        yield running


@pytest.fixture
def tight(hurried: Running) -> Running:
    """The hurried gateway with a clean slate."""
    hurried.start_afresh()
    return hurried


def test_slow_heads_are_cut_off(tight: Running) -> None:
    def trickle(wire: socket.socket) -> None:
        """Send a byte now and then for 10 s: that does not buy more time."""
        for _ in range(200):
            wire.sendall(b"X")
            time.sleep(0.05)

    with dial(tight) as silent, dial(tight) as slow:
        slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
        with pytest.raises(OSError, match="reset|pipe"):
            trickle(slow)
        assert rest(silent) == b""
    assert "connections_refused_total" in tight.gateway.page().decode()


def test_slow_bodies_are_refused_even_when_nothing_of_them_comes(tight: Running) -> None:
    for part in (b"", b"{"):
        got = say(tight, request(tight, SIZE) + b"\r\n" + part)
        assert got.startswith(b"HTTP/1.1 408 ")
    assert [row["status"] for row in tight.decisions(2)] == [408, 408]


def test_a_kept_connection_that_says_nothing_is_closed(tight: Running) -> None:
    with dial(tight) as wire:
        wire.sendall(request(tight, SIZE) + b"\r\n" + BODY)
        assert wire.recv(65_536).startswith(b"HTTP/1.1 200 ")
        assert rest(wire) == b""


def test_a_caller_who_does_not_read_is_let_go(tight: Running) -> None:
    tight.engine.script = Script(["x" * 60_000] * 400, glue=True)
    body = json.dumps(chat(stream=True)).encode()
    with dial(tight) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.sendall(request(tight, f"Content-Length: {len(body)}") + b"\r\n" + body)
        until(lambda: len(tight.log.of("gateway.decision")) == 1)
    until(lambda: tight.desk.active == 0)


def test_idle_connections_give_way_to_those_that_ask(tight: Running) -> None:
    wires = [dial(tight) for _ in range(60)]
    try:
        assert post(tight, chat()).status_code == 200
        assert len(tight.gateway.edge.open) <= TIGHT.edge.connections
    finally:
        for wire in wires:
            wire.close()


def test_connections_that_all_work_leave_no_place_and_it_is_said(tight: Running) -> None:
    tight.engine.script = Script(["a"] * 40, delay=0.05)
    body = json.dumps(chat(stream=True)).encode()
    wires = [dial(tight) for _ in range(TIGHT.edge.connections)]
    try:
        for wire in wires:
            wire.sendall(request(tight, f"Content-Length: {len(body)}") + b"\r\n" + body)
        until(lambda: tight.desk.active == TIGHT.edge.connections)
        with dial(tight) as late:
            got = rest(late)
        assert got.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in got
    finally:
        for wire in wires:
            wire.close()
    until(lambda: tight.desk.active == 0)


@pytest.mark.slow
def test_thousands_of_idle_connections_starve_nobody(tmp_path: Path) -> None:
    bounds = Bounds(edge=EdgeLimits(connections=500))
    with gateway_running(tmp_path, bounds=bounds) as run:
        wires: list[socket.socket] = []
        try:
            for number in range(3_000):
                wires.append(dial(run))
                if number % 300 == 0:
                    assert post(run, chat()).status_code == 200
            assert len(run.gateway.edge.open) <= 500
            assert post(run, chat()).status_code == 200
        finally:
            for wire in wires:
                wire.close()
