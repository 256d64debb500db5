"""Traces, received by a real OTLP receiver: a span for each decided request, and no word of what was said."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from policies.endpoint import telemetry
from policies.endpoint.telemetry import Tracing
from tests.policies.asking import ASK, HTTP, chat, client, post
from tests.policies.running import CARD, SECRET, Running
from tests.stubs.engine import Script
from tests.waiting import until

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Receiver(ThreadingHTTPServer):
    """Takes spans over OTLP/HTTP; `bodies` are the bytes as they came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.spans: list[Any] = []
        self.bodies: list[bytes] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/traces"


class _Take(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
        if self.server.status == 200:
            self.server.bodies.append(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    self.server.spans.extend(scope.spans)
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def traced(run: Running, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(telemetry, "WINDOW_SECONDS", 0.02)
    monkeypatch.setattr(telemetry, "EXPORT_SECONDS", 0.5)
    tracing = Tracing(receiver.url, metrics=run.gateway.front.metrics)
    run.gateway.front.observers = (tracing,)
    yield run
    run.gateway.front.observers = ()
    tracing.close()


def facts(span: Any) -> dict[str, Any]:
    """Return a span's attributes as plain values."""

    def value(found: Any) -> Any:
        kind = found.WhichOneof("value")
        return [value(item) for item in found.array_value.values] if kind == "array_value" else getattr(found, kind)

    return {attribute.key: value(attribute.value) for attribute in span.attributes}


def test_a_request_is_one_span_that_says_under_what_it_was_decided(traced: Running, receiver: Receiver) -> None:
    traced.engine.script = Script([f"the key is {SECRET}, ", "keep it"])
    parent = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    reply = post(traced, chat(messages=[{"role": "user", "content": f"pay with {CARD}"}]), headers=parent)
    until(lambda: len(receiver.spans) == 1)
    (span,) = receiver.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert (span.name, span.kind) == ("POST /v1/chat/completions", 2)
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 20e9
    found = facts(span)
    assert found["hallmark.certificate"] == "sha256:cert"
    assert found["hallmark.candidate"] == "sha256:c"
    assert found["hallmark.bundle"] == traced.desk.served.bundle
    assert found["hallmark.receipt"] == found["gen_ai.response.id"] == reply.headers["x-hallmark-receipt"]
    assert found["hallmark.rules"] == ["members-may-use-models", "cards-stay-inside", "keys-stay-inside"]
    assert found["hallmark.action"] == "redact"
    assert found["http.response.status_code"] == 200
    assert (found["gen_ai.operation.name"], found["gen_ai.request.model"]) == ("chat", "stdlib")
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (7, 2)
    assert found["gen_ai.response.finish_reasons"] == ["stop"]
    for word in (SECRET, CARD, "pay with", "keep it", traced.keys["mia"], "mia"):
        assert word.encode() not in receiver.bodies[0]


def test_streams_refusals_and_failures_have_their_spans_too(traced: Running, receiver: Receiver) -> None:
    for _ in client(traced).chat.completions.create(model="stdlib", messages=ASK, stream=True):
        pass
    post(traced, chat(), "ivy")
    traced.engine.script = Script(status=500, message="boom")
    post(traced, {"model": "stdlib", "prompt": "a"}, path="/v1/completions")
    until(lambda: len(receiver.spans) == 3)
    by_status = {facts(span)["http.response.status_code"]: span for span in receiver.spans}
    assert set(by_status) == {200, 403, 502}
    assert facts(by_status[403])["error.type"] == "access_denied"
    assert by_status[403].status.code == 0, "a refusal is no failure of the server"
    assert by_status[502].status.code == 2
    assert facts(by_status[502])["gen_ai.operation.name"] == "text_completion"
    assert len({span.trace_id for span in receiver.spans}) == 3


@pytest.mark.parametrize("given", ["00-zz-yy-01", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", "x" * 300])
def test_a_trace_context_that_is_none_starts_a_new_trace(traced: Running, receiver: Receiver, given: str) -> None:
    assert post(traced, chat(), headers={"traceparent": given}).status_code == 200
    until(lambda: len(receiver.spans) == 1)
    assert receiver.spans[0].parent_span_id == b""


def test_a_caller_who_does_not_sample_is_not_traced(traced: Running, receiver: Receiver) -> None:
    assert post(traced, chat(), headers={"traceparent": f"00-{TRACE}-{SPAN}-00"}).status_code == 200
    assert post(traced, chat()).status_code == 200
    until(lambda: len(receiver.spans) == 1)
    assert receiver.spans[0].trace_id.hex() != TRACE


def test_spans_that_cannot_be_exported_are_counted_and_hold_nobody_up(traced: Running, receiver: Receiver) -> None:
    receiver.status = 400
    assert post(traced, chat()).status_code == 200
    until(lambda: "hallmark_spans_dropped_total 1" in traced.gateway.page().decode())
    receiver.status = 200
    assert post(traced, chat()).status_code == 200
    until(lambda: len(receiver.spans) == 1)


def test_what_waits_is_bounded_and_closing_exports_it(
    run: Running, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "WINDOW_SECONDS", 60.0)
    monkeypatch.setattr(telemetry, "QUEUE_LIMIT", 2)
    tracing = Tracing(receiver.url)
    run.gateway.front.observers = (tracing,)
    try:
        for _ in range(3):
            assert HTTP.get(f"{run.url}/v1/models").status_code == 401
        until(lambda: len(run.log.of("gateway.decision")) == 3)
    finally:
        run.gateway.front.observers = ()
        tracing.close()
    assert (len(receiver.spans), tracing.exported, tracing.dropped) == (2, 2, 1)
