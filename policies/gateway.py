"""The policy-enforced endpoint: a raw ASGI application in front of an engine that only it can reach.

A request passes, in this order: route allow-list, identity, size cap, typed decode and field allow-list, rate limit,
Cedar, input rules, decode-time fields, intent logged, engine, output rules of every text channel, outcome logged. Each
step can only narrow. An exception anywhere denies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from policies import surfaces
from policies.audit import DecisionLog, JournalDown
from policies.authorize import Authorizer, Caller, ModelState
from policies.callers import Callers
from policies.engine import Enforcer
from policies.exchange import Exchange, Served
from policies.generation import Generation, GuardRunner
from policies.limits import Limits
from policies.metrics import Metrics
from policies.refusal import Refusal, engine_broken, engine_down, internal, log_down
from policies.upstream import Call, CallClosed, Upstream, UpstreamBroken, UpstreamDown

log = logging.getLogger(__name__)

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON = (b"content-type", b"application/json")
STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
ROUTES = {
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/models": "GET",
    "/health": "GET",
    "/ready": "GET",
    "/metrics": "GET",
}
SURFACES = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bytes of a body, seconds to receive it, seconds of a whole request, bytes of a whole answer."""

    body_bytes: int = 1 << 20
    body_s: float = 30.0
    request_s: float = 600.0
    answer_bytes: int = 16 << 20


@dataclass(slots=True)
class Desk:
    """What a request needs. `hash_key` keys the log's hashes of text; `guards` are validators by surface."""

    served: Served
    model: ModelState
    enforcer: Enforcer
    authorizer: Authorizer
    callers: Callers
    upstream: Upstream
    decisions: DecisionLog
    hash_key: bytes
    guards: Mapping[str, GuardRunner] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    bounds: Bounds = field(default_factory=Bounds)


class Gateway:
    """The ASGI application. `closed` holds why everything is refused: engine gone, certificate withdrawn."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.closed: dict[str, str] = {}
        self.injected = desk.enforcer.decode_fields({})
        certificate = desk.served.certificate.encode("ascii")
        self._stamp = [(b"x-hallmark-certificate", certificate)] if certificate else []

    @property
    def ready(self) -> bool:
        """Whether requests can be answered: engine up, certificate in force, decisions reach the disk."""
        return not self.closed and self.desk.decisions.healthy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; every other kind of connection is refused."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"]
        if path in ("/health", "/ready") and scope["method"] == "GET":
            await self._probe(path, send)
            return
        exchange = Exchange(SURFACES.get(path) or ("models" if path == "/v1/models" else "other"))
        self.desk.metrics.active += 1
        try:
            await self._guarded(exchange, scope, receive, send)
        finally:
            self.desk.metrics.active -= 1
            if not exchange.logged:  # cancelled by shutdown, or the answer could not be written
                exchange.finish = exchange.finish or "aborted"
                self._log(exchange)

    async def _guarded(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, turning whatever is raised into a refusal."""
        try:
            await self._answer(exchange, scope, receive, send)
        except Refusal as refusal:
            await self._refuse(exchange, refusal, send)
        except CallClosed:
            if exchange.gone:
                exchange.status, exchange.finish = 499, "disconnect"
                await self._conclude(exchange)
            else:
                await self._refuse(exchange, Refusal(504, "timeout", "the answer took too long", action="error"), send)
        except UpstreamDown as error:
            log.warning("engine unreachable: %s", error)
            await self._refuse(exchange, engine_down("the engine does not answer"), send)
        except UpstreamBroken as error:
            log.warning("engine answered nonsense: %s", error)
            await self._refuse(exchange, engine_broken(), send)
        except JournalDown:
            await self._refuse(exchange, log_down(), send)
        except Exception:  # an error denies, whatever it is
            log.exception("request %s failed", exchange.request_id)
            await self._refuse(exchange, internal(), send)

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        path, headers = scope["path"], Headers(scope["headers"])
        method = ROUTES.get(path)
        if method is None:
            raise Refusal(404, "unknown_route", "no such route on this endpoint")
        if scope["method"] != method:
            raise Refusal(405, "method_not_allowed", f"this route takes {method}")
        caller = exchange.caller = self.desk.callers.identify(headers.authorization)
        if path == "/metrics":
            page = self.desk.metrics.render(
                engine_up="engine" not in self.closed, log_waiting=self.desk.decisions.waiting
            )
            exchange.logged = True  # a scrape is no decision
            await self._send(send, 200, page, [(b"content-type", b"text/plain; version=0.0.4")])
            return
        if self.closed:
            raise engine_down("; ".join(self.closed.values()))
        if not self.desk.decisions.healthy:
            raise JournalDown
        if path == "/v1/models":
            await self._models(exchange, caller, send)
            return
        body = await self._body(headers, receive)
        generation = Generation(self.desk, exchange, caller, self.injected)
        call = await generation.prepare(body)
        watch = asyncio.ensure_future(_gone(receive))
        watch.add_done_callback(lambda done: None if done.cancelled() else generation.leave())
        timer = asyncio.get_running_loop().call_later(self.desk.bounds.request_s, generation.expire)
        try:
            if generation.streams:
                await self._stream(exchange, generation, call, send)
            else:
                answer = await generation.whole(call)
                await self._conclude(exchange)
                await self._send(send, 200, answer, [JSON, *self._receipt(exchange)])
        finally:
            timer.cancel()
            watch.cancel()
            call.close()

    async def _stream(self, exchange: Exchange, generation: Generation, call: Call, send: Send) -> None:
        """Send what the generation releases; the response starts with the first released byte, not before."""
        async for data in generation.stream(call):
            if not exchange.sending:
                await self._begin(exchange, send)
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await self._conclude(exchange)
        if not exchange.sending:
            await self._begin(exchange, send)
        await send({"type": "http.response.body", "body": generation.end, "more_body": False})

    async def _begin(self, exchange: Exchange, send: Send) -> None:
        """Send the head of a streamed response."""
        exchange.sending = True
        head = [STREAM, (b"cache-control", b"no-cache"), *self._receipt(exchange)]
        await send({"type": "http.response.start", "status": 200, "headers": head})

    async def _models(self, exchange: Exchange, caller: Caller, send: Send) -> None:
        desk = self.desk
        desk.limits.take(caller)
        decision = desk.authorizer.decide(caller, "models", desk.model, {})
        listed = []
        if decision.allowed:
            exchange.model = desk.served.model
            listed = [{"id": desk.served.model, "object": "model", "created": 0, "owned_by": "hallmark"}]
        exchange.hit(decision.reasons)
        await self._conclude(exchange)
        body = surfaces.encode({"object": "list", "data": listed})
        await self._send(send, 200, body, [JSON, *self._receipt(exchange)])

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """Return the body; refuses what is too large, too slow or not plain JSON."""
        limit = self.desk.bounds.body_bytes
        if headers.content_type.partition(b";")[0].strip().lower() != b"application/json":
            raise Refusal(415, "unsupported_media_type", "send `Content-Type: application/json`")
        if headers.content_encoding:
            raise Refusal(415, "unsupported_encoding", "compressed bodies are not accepted")
        too_large = Refusal(413, "body_too_large", f"the body is larger than {limit} bytes")
        if headers.length > limit:
            raise too_large
        message = await receive()
        if not message.get("more_body", False):
            body = bytes(message.get("body", b""))
            if len(body) > limit:
                raise too_large
            return body
        data = bytearray(message.get("body", b""))
        try:
            async with asyncio.timeout(self.desk.bounds.body_s):
                while message["type"] == "http.request" and message.get("more_body", False) and len(data) <= limit:
                    message = await receive()
                    data += message.get("body", b"")
        except TimeoutError:
            raise Refusal(408, "body_too_slow", "the body did not arrive in time") from None
        if len(data) > limit:
            raise too_large
        if message["type"] == "http.disconnect":
            raise Refusal(400, "incomplete_body", "the connection closed before the body was complete")
        return bytes(data)

    async def _probe(self, path: str, send: Send) -> None:
        up = path == "/health" or self.ready
        body = b'{"status":"ok"}' if up else b'{"status":"unavailable"}'
        await self._send(send, 200 if up else 503, body, [JSON])

    async def _refuse(self, exchange: Exchange, refusal: Refusal, send: Send) -> None:
        """Answer with an error: as JSON, or as the terminal event of a stream that has started."""
        exchange.refuse(refusal)
        try:
            await self._conclude(exchange)
        except JournalDown:
            log.warning("the outcome of %s is queued, not durable", exchange.request_id)
        if exchange.sending:
            data = surfaces.event({"error": refusal.detail(exchange.request_id)}) + surfaces.DONE
            await send({"type": "http.response.body", "body": data, "more_body": False})
            return
        extra = [JSON, *self._receipt(exchange)]
        if refusal.retry_after is not None:
            extra.append((b"retry-after", str(refusal.retry_after).encode()))
        if refusal.status == 401:
            extra.append((b"www-authenticate", b"Bearer"))
        if refusal.status in (408, 413, 415):
            extra.append((b"connection", b"close"))  # the rest of the body is not read
        await self._send(send, refusal.status, refusal.body(exchange.request_id), extra)

    async def _conclude(self, exchange: Exchange) -> None:
        """Log the outcome, once; in strict mode wait until it is on disk."""
        waiter = self._log(exchange)
        if waiter is not None:
            await waiter

    def _log(self, exchange: Exchange) -> asyncio.Future[None] | None:
        if exchange.logged:
            return None
        exchange.logged = True
        desk = self.desk
        desk.metrics.count(exchange.surface, exchange.action, exchange.status, exchange.seconds())
        usage = exchange.ledger.usage
        if usage is not None:
            desk.metrics.tokens(usage.prompt_tokens, usage.completion_tokens or 0)
        return desk.decisions.outcome(exchange.request_id, exchange.decision(desk.served, desk.hash_key))

    def _receipt(self, exchange: Exchange) -> list[tuple[bytes, bytes]]:
        return [(b"x-hallmark-receipt", exchange.request_id.encode()), *self._stamp]

    async def _send(self, send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await send({"type": "http.response.body", "body": body})


class Headers:
    """The request headers the endpoint reads; a repeated Authorization or Content-Length is refused."""

    __slots__ = ("authorization", "content_encoding", "content_type", "length")

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self.authorization: bytes | None = None
        self.content_type, self.content_encoding, self.length = b"", b"", 0
        for name, value in pairs:
            if name == b"authorization":
                if self.authorization is not None:
                    raise Refusal(400, "repeated_header", "more than one Authorization header")
                self.authorization = value
            elif name == b"content-type":
                self.content_type = value
            elif name == b"content-encoding":
                self.content_encoding = value
            elif name == b"content-length":
                self.length = int(value)


async def _gone(receive: Receive) -> None:
    """Return when the caller has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
