"""Traces: one server span for each decided request, exported by OTLP over HTTP in the background. Never any content.

Attributes follow OpenTelemetry's semantic conventions for HTTP servers and generative AI; `hallmark.*` says under which
certificate, candidate and bundle was decided, and by which rules. A caller's `traceparent` is the parent; one that says
"not sampled" is obeyed. What cannot be exported in time is dropped and counted.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from policies.endpoint.exchange import Exchange
    from policies.endpoint.metrics import Metrics

log = logging.getLogger(__name__)

QUEUE_LIMIT = 4_096
BATCH = 512
WINDOW_SECONDS = 1.0
EXPORT_SECONDS = 5.0
OPERATIONS = {"chat": "chat", "responses": "chat", "completions": "text_completion", "embeddings": "embeddings"}
ROUTES = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
    "models": "/v1/models",
}
SAMPLED = 0x01


class Tracing:
    """An observer (desk.Observer) that exports spans to an OTLP endpoint, such as `http://127.0.0.1:4318/v1/traces`."""

    def __init__(self, endpoint: str, *, metrics: Metrics | None = None, service: str = "hallmark") -> None:
        """Start the exporting thread; connects to nothing before the first span."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource

        self.dropped = 0
        self.exported = 0
        self._metrics = metrics
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
        self._resource = Resource({"service.name": service})
        self._queue: deque[dict[str, Any]] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
        self._thread.start()

    def decided(self, exchange: Exchange) -> None:
        """Queue the span of a decided request."""
        parent = exchange.traceparent
        if parent and not int(parent[53:55], 16) & SAMPLED:
            return
        if len(self._queue) >= QUEUE_LIMIT:
            self._drop(1)
            return
        self._queue.append(_facts(exchange))

    def close(self, timeout_s: float = 10.0) -> None:
        """Export what waits, then stop."""
        self._closing.set()
        self._thread.join(timeout_s)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        while not self._closing.wait(WINDOW_SECONDS):
            self._export()
        self._export()

    def _export(self) -> None:
        """Export all that waits now."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        while self._queue:
            facts = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            try:
                result = self._exporter.export([self._span(each) for each in facts])
            except Exception:
                log.exception("cannot export %s spans", len(facts))
                result = SpanExportResult.FAILURE
            if result is SpanExportResult.SUCCESS:
                self.exported += len(facts)
            else:
                self._drop(len(facts))

    def _drop(self, count: int) -> None:
        self.dropped += count
        if self._metrics is not None:
            self._metrics.add("spans_dropped_total", count)

    def _span(self, facts: dict[str, Any]) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        given = facts["traceparent"]
        trace = int(given[3:35], 16) if given else secrets.randbits(128) or 1
        flags = TraceFlags(SAMPLED)
        parent = SpanContext(trace, int(given[36:52], 16), is_remote=True, trace_flags=flags) if given else None
        return ReadableSpan(
            name=facts["name"],
            context=SpanContext(trace, secrets.randbits(64) or 1, is_remote=False, trace_flags=flags),
            parent=parent,
            resource=self._resource,
            attributes=facts["attributes"],
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if facts["failed"] else StatusCode.UNSET),
            start_time=facts["start"],
            end_time=facts["end"],
        )


def _facts(exchange: Exchange) -> dict[str, Any]:
    """Return what a span says of a request: names, numbers and digests only."""
    served, usage = exchange.served, exchange.ledger.usage
    route = ROUTES.get(exchange.surface, "")
    method = "GET" if exchange.surface == "models" else "POST"
    attributes: dict[str, Any] = {
        "http.response.status_code": exchange.status,
        "hallmark.receipt": exchange.request_id,
        "hallmark.endpoint": served.endpoint,
        "hallmark.action": exchange.action,
        "hallmark.rules": tuple(exchange.rules),
        "hallmark.certificate": served.certificate,
        "hallmark.candidate": served.candidate,
        "hallmark.bundle": served.bundle,
    }
    if route:
        attributes |= {"http.route": route, "http.request.method": method}
    if exchange.surface in OPERATIONS:
        attributes |= {
            "gen_ai.operation.name": OPERATIONS[exchange.surface],
            "gen_ai.provider.name": "hallmark",
            "gen_ai.request.model": exchange.model,
            "gen_ai.response.id": exchange.request_id,
        }
        finish = exchange.finish or exchange.ledger.finish
        if finish:
            attributes["gen_ai.response.finish_reasons"] = (finish,)
    if usage is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        attributes["gen_ai.usage.output_tokens"] = usage.completion_tokens or 0
    if exchange.code:
        attributes["error.type"] = exchange.code
    end = time.time_ns()
    return {
        "name": f"{method} {route}" if route else method,
        "attributes": attributes,
        "traceparent": exchange.traceparent,
        "failed": exchange.status >= 500,
        "start": end - int(exchange.seconds() * 1e9),
        "end": end,
    }
