"""The policy-enforced endpoint: a raw ASGI application in front of an engine that only it can reach.

A request passes, in this order: route allow-list, identity, size cap, typed decode and field allow-list, rate limit,
Cedar, input rules, decode-time fields, intent logged, engine, output rules of every text channel, outcome logged. Each
step can only narrow. An exception anywhere denies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from policies import surfaces
from policies.audit import JournalDown
from policies.authorize import Caller
from policies.desk import Desk, Front
from policies.exchange import Exchange, Served
from policies.generation import Generation
from policies.refusal import Refusal, engine_broken, engine_down, internal, log_down
from policies.upstream import Call, CallClosed, UpstreamBroken, UpstreamDown

log = logging.getLogger(__name__)

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON = (b"content-type", b"application/json")
STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
ROUTES = {
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/responses": "POST",
    "/v1/embeddings": "POST",
    "/v1/models": "GET",
    "/health": "GET",
    "/ready": "GET",
    "/metrics": "GET",
}
SURFACES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
}


class Gateway:
    """The ASGI application: a front, and a desk for each model name that callers may ask for."""

    def __init__(self, front: Front, desks: Sequence[Desk]) -> None:
        self.front = front
        self._name = desks[0].served.endpoint
        self._desks: dict[str, Desk] = {}
        for desk in desks:
            self.open(desk)

    @property
    def desks(self) -> list[Desk]:
        """The desks that take requests, the first one first."""
        return list(self._desks.values())

    @property
    def ready(self) -> bool:
        """Whether requests can be answered: an engine is up, its certificate in force, decisions reach the disk."""
        front = self.front
        return not front.ending and front.decisions.healthy and any(not desk.closed for desk in self._desks.values())

    def find(self, model: str) -> Desk | None:
        """Return the desk of a model name."""
        return self._desks.get(model)

    def open(self, desk: Desk) -> Desk | None:
        """Let a desk take every request from now on for its model; return the one it replaces, to be drained."""
        before = self._desks.get(desk.served.model)
        self._desks[desk.served.model] = desk
        self._settle()
        return before

    def shut(self, model: str) -> Desk | None:
        """Take no more requests for a model; return its desk, to be drained."""
        before = self._desks.pop(model, None)
        self._settle()
        return before

    def _settle(self) -> None:
        """Set what a request is logged under before its model is known: the only desk's release, or none."""
        only = self.desks[0] if len(self._desks) == 1 else None
        self._unplaced = only.served if only else Served(self._name, "", "", "", "", "")

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
        exchange = Exchange(SURFACES.get(path) or ("models" if path == "/v1/models" else "other"), self._unplaced)
        self.front.metrics.active += 1
        try:
            await self._guarded(exchange, scope, receive, send)
        finally:
            self.front.metrics.active -= 1
            if exchange.desk is not None:
                exchange.desk.active -= 1
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
        caller = exchange.caller = self.front.callers.identify(headers.authorization)
        if path == "/metrics":
            up = any("engine" not in desk.closed for desk in self._desks.values())
            page = self.front.metrics.render(engine_up=up, log_waiting=self.front.decisions.waiting)
            exchange.logged = True  # a scrape is no decision
            await self._send(send, 200, page, [(b"content-type", b"text/plain; version=0.0.4")])
            return
        if not self.front.decisions.healthy:
            raise JournalDown
        if path == "/v1/models":
            await self._models(exchange, caller, send)
            return
        body = await self._body(headers, receive)
        generation = Generation(self.front, self.find, exchange, caller)
        call = await generation.prepare(body)
        watch = asyncio.ensure_future(_gone(receive))
        watch.add_done_callback(lambda done: None if done.cancelled() else generation.leave())
        timer = asyncio.get_running_loop().call_later(self.front.bounds.request_s, generation.expire)
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
            generation.close()

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
        """List the models this caller may ask for."""
        self.front.limits.take(caller)
        listed = []
        for desk in self._desks.values():
            decision = desk.authorizer.decide(caller, "models", desk.model, {})
            exchange.hit(decision.reasons)
            if decision.allowed and not desk.closed:
                listed.append({"id": desk.served.model, "object": "model", "created": 0, "owned_by": "hallmark"})
        exchange.model = str(listed[0]["id"]) if len(listed) == 1 else ""
        await self._conclude(exchange)
        body = surfaces.encode({"object": "list", "data": listed})
        await self._send(send, 200, body, [JSON, *self._receipt(exchange)])

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """Return the body; refuses what is too large, too slow or not plain JSON."""
        limit = self.front.bounds.body_bytes
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
            async with asyncio.timeout(self.front.bounds.body_s):
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
            data = exchange.frames.failing(refusal, exchange.request_id) if exchange.frames else b""
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
        front = self.front
        front.metrics.count(exchange.surface, exchange.action, exchange.status, exchange.seconds())
        usage = exchange.ledger.usage
        if usage is not None:
            front.metrics.tokens(usage.prompt_tokens, usage.completion_tokens or 0)
        for observer in front.observers:
            observer.decided(exchange)
        return front.decisions.outcome(exchange.request_id, exchange.decision(front.hash_key))

    def _receipt(self, exchange: Exchange) -> list[tuple[bytes, bytes]]:
        stamp = exchange.desk.stamp if exchange.desk is not None else ()
        return [(b"x-hallmark-receipt", exchange.request_id.encode()), *stamp]

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
