"""The policy-enforced endpoint: a raw ASGI application in front of an engine that only it can reach.

A request passes, in this order: route allow-list, identity, size cap, its turn, typed decode and field allow-list,
budgets, Cedar, input rules, decode-time fields, intent logged, engine, output rules of every text channel, outcome
logged. Each step can only narrow. An exception anywhere denies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from policies.access.authorize import Caller
from policies.endpoint.audit import JournalDown
from policies.endpoint.body import BodyReader
from policies.endpoint.deadlines import Deadlines
from policies.endpoint.desk import Desk, Front
from policies.endpoint.edge import Edge
from policies.endpoint.exchange import Exchange, Served
from policies.endpoint.generation import Generation
from policies.endpoint.head import NOTHING, Head, check_framing, client_certificate
from policies.endpoint.shedding import Turnstile
from policies.endpoint.upstream import Call, CallClosed, UpstreamBroken, UpstreamDown
from policies.wire import surfaces
from policies.wire.refusal import Refusal, engine_broken, engine_down, internal, log_down, no_model

log = logging.getLogger(__name__)

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON = (b"content-type", b"application/json")
STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
PROMETHEUS = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
SURFACES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
}
MODELS = ("/v1/models", "/v1/models/{model}")
ROUTES = {**dict.fromkeys(SURFACES, "POST"), **dict.fromkeys((*MODELS, "/health", "/ready", "/metrics"), "GET")}
BUSY_RATE = 400
"""Requests a second from which on fewer texts are described."""


class Gateway:
    """The ASGI application: a front, and a desk for each model name that callers may ask for."""

    def __init__(self, front: Front, desks: Sequence[Desk]) -> None:
        self.front = front
        self.turnstile = Turnstile(front.bounds.running, front.bounds.waiting, front.bounds.wait_s)
        self.edge = Edge(
            front.bounds.edge, lambda reason: front.metrics.add("connections_refused_total", reason=reason)
        )
        self._bodies = BodyReader(front.bounds)
        self._deadlines = Deadlines(front.bounds.request_s)
        self._second, self._begun, self._busy = 0, 0, False
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

    def page(self) -> bytes:
        """Return the page of metrics."""
        front = self.front
        front.metrics.gauge("connections", len(self.edge.open))
        front.metrics.gauge("waiting_requests", self.turnstile.waiting)
        front.metrics.gauge("decision_log_waiting", front.decisions.waiting)
        front.metrics.gauge("decision_log_lag_seconds", front.decisions.lag_s)
        front.metrics.gauge("decision_log_up", int(front.decisions.healthy))
        front.metrics.desks(self.desks)
        return front.metrics.render()

    def _settle(self) -> None:
        """Set what a request is logged under before its model is known: the only desk's release, or none."""
        only = self.desks[0] if len(self._desks) == 1 else None
        self._unplaced = only.served if only else Served(self._name, "", "", "", "", "")

    def _note_pace(self, moment: float) -> None:
        """Count requests by the second, to know whether the endpoint is busy."""
        self._begun += 1
        second = int(moment)
        if second != self._second:
            self._busy = self._begun > BUSY_RATE and second == self._second + 1
            self._second, self._begun = second, 0

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
        exchange = Exchange(SURFACES.get(path) or ("models" if _route(path) in MODELS else "other"), self._unplaced)
        self._note_pace(exchange.started)
        exchange.busy = self._busy
        metrics = self.front.metrics
        metrics.active += 1
        try:
            await self._guarded(exchange, scope, receive, send)
        finally:
            try:
                if not exchange.logged:  # cancelled by shutdown, or the answer could not be written
                    exchange.finish = exchange.finish or "aborted"
                    self._log(exchange)
            finally:  # a request runs until its record waits for the disk
                metrics.active -= 1
                if exchange.desk is not None:
                    exchange.desk.active -= 1

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
        exchange.unread = scope["method"] != "GET"
        head = Head(scope["headers"])
        exchange.unread = head.length != 0
        path = scope["path"]
        method = ROUTES.get(path) or ROUTES.get(_route(path))
        if method is None:
            raise Refusal(404, "unknown_route", "no such route on this endpoint")
        if scope["method"] != method:
            raise Refusal(405, "method_not_allowed", f"this route takes {method}")
        check_framing(scope, head)
        exchange.purpose, exchange.data_class, exchange.traceparent = head.purpose, head.data_class, head.traceparent
        caller = exchange.caller = await self._identify(head, scope)
        if path == "/metrics":
            page = self.page()
            exchange.logged = True  # a scrape is no decision
            await self._send(send, 200, page, [PROMETHEUS])
            return
        if not self.front.decisions.healthy:
            raise JournalDown
        if exchange.surface == "models":
            await self._models(exchange, caller, path.removeprefix(MODELS[0]).removeprefix("/"), send)
            return
        body = await self._bodies.read(head, receive, arrived=_arrived(scope))
        exchange.unread = False
        turn = self.turnstile.enter()
        if turn is not None:
            await self.turnstile.wait(turn)
        try:
            await self._generate(Generation(self.front, self.find, exchange, caller), body, scope, receive, send)
        finally:
            self.turnstile.leave(exchange.seconds())

    async def _identify(self, head: Head, scope: Scope) -> Caller:
        """Return who asks; raises Refusal 401."""
        certificate = client_certificate(scope)
        identify: Any = self.front.callers.identify
        found: Any = identify(head.authorization, certificate) if certificate else identify(head.authorization)
        return found if type(found) is Caller else await found

    async def _generate(self, generation: Generation, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the engine answer, watched for a caller who hangs up and for the time limit."""
        exchange = generation.exchange
        call = await generation.prepare(body)
        stop_watching = _watch(scope, receive, generation.leave)
        self._deadlines.begin(generation)
        try:
            if generation.streams:
                await self._stream(exchange, generation, call, send)
            else:
                answer = await generation.whole(call)
                waiter = self._log(exchange)
                if waiter is not None:
                    await waiter
                await self._send(send, 200, answer, [JSON, *self._receipt(exchange)])
        finally:
            self._deadlines.end(generation)
            stop_watching()
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

    async def _models(self, exchange: Exchange, caller: Caller, name: str, send: Send) -> None:
        """List the models this caller may ask for, or describe the one that is named.

        Every model is decided either way: one that this caller may not use is answered as one that is not there.
        """
        self.front.limits.take(caller)
        listed = []
        for desk in self._desks.values():
            decision = desk.authorizer.decide(caller, "models", desk.model, {})
            exchange.hit(decision.reasons)
            if decision.allowed and not desk.closed:
                listed.append({"id": desk.served.model, "object": "model", "created": 0, "owned_by": "hallmark"})
        named = {str(model["id"]): model for model in listed}
        exchange.model = name[:64] or (next(iter(named)) if len(named) == 1 else "")
        if name and name not in named:
            raise no_model()
        await self._conclude(exchange)
        body = surfaces.encode(named[name] if name else {"object": "list", "data": listed})
        await self._send(send, 200, body, [JSON, *self._receipt(exchange)])

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
            data = data.removesuffix(surfaces.DONE)  # an answer that broke off has no end mark
            await send({"type": "http.response.body", "body": data, "more_body": False})
            return
        extra = [JSON, *self._receipt(exchange), *refusal.headers()]
        if exchange.unread or refusal.status == 408:
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
        decision = exchange.decision(front.hash_key)
        front.metrics.note(exchange, decision["output_chars"])
        for observer in front.observers:
            observer.decided(exchange)
        return front.decisions.outcome(exchange.request_id, decision)

    def _receipt(self, exchange: Exchange) -> list[tuple[bytes, bytes]]:
        stamp = exchange.desk.stamp if exchange.desk is not None else ()
        return [(b"x-hallmark-receipt", exchange.request_id.encode()), *stamp]

    async def _send(self, send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _route(path: str) -> str:
    """Return the route of a path: its own, or that of one model."""
    return MODELS[1] if path.startswith("/v1/models/") and path != "/v1/models/" else path


def _arrived(scope: Scope) -> bool:
    """Say whether the whole body is known to be here: our own connections tell."""
    connection = scope.get("extensions", NOTHING).get("hallmark.connection")
    return connection is not None and connection.arrived


def _watch(scope: Scope, receive: Receive, leave: Callable[[], None]) -> Callable[[], object]:
    """Have `leave` called when the caller hangs up; return what ends the watch.

    Our own connections tell it; under another server a task waits for it.
    """
    connection = scope.get("extensions", NOTHING).get("hallmark.connection")
    if connection is not None:
        connection.watch(leave)
        return connection.unwatch  # type: ignore[no-any-return]
    task = asyncio.ensure_future(_gone(receive))
    task.add_done_callback(lambda done: None if done.cancelled() else leave())
    return task.cancel


async def _gone(receive: Receive) -> None:
    """Return when the caller has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
