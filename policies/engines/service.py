"""The HTTP service of the built-in engine: OpenAI's chat and text completions over raw ASGI."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson

from policies.engines.decoding import News
from policies.engines.intake import Intake
from policies.engines.replies import Reply, event
from policies.engines.tool_calls import Delta, Offer, Reader, offer_of
from policies.engines.wire import ChatBody, RequestError, TextBody, decode, include_usage

logger = logging.getLogger(__name__)
MOST_BYTES = 16 << 20
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
NO_TOOLS = Offer([], {})
_JSON = (b"content-type", b"application/json")
_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class _Inbox:
    """News of one request, put in and taken out in the event loop; `gone` once the client has left."""

    def __init__(self) -> None:
        self._news: deque[News] = deque()
        self._ready = asyncio.Event()
        self.gone = False

    def put(self, news: News) -> None:
        self._news.append(news)
        self._ready.set()

    def leave(self) -> None:
        self.gone = True
        self._ready.set()

    async def take(self) -> list[News]:
        """Wait for news; an empty list means that the client has left."""
        await self._ready.wait()
        self._ready.clear()
        news = list(self._news)
        self._news.clear()
        return [] if self.gone else news


def deliver(news: list[News]) -> None:
    """Hand the news of a step to their requests; runs in the event loop."""
    for one in news:
        one.sequence.receive(one)


class Service:
    """The ASGI application. `intake` turns bodies into sequences and queues them.

    A request's `model` is `served_name`, or one of `adapters`, whose names are also what it is decoded with.
    """

    def __init__(self, intake: Intake, served_name: str, adapters: Iterable[str] = ()) -> None:
        self._intake = intake
        self._names = {served_name: "", **{name: name for name in adapters}}
        self._routes: dict[str, tuple[str, Callable[[Receive, Send], Awaitable[None]]]] = {
            "/health": ("GET", self._health),
            "/v1/models": ("GET", self._models),
            "/v1/chat/completions": ("POST", self._chat),
            "/v1/completions": ("POST", self._text),
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            await self._route(scope["method"], scope["path"])(receive, send)
        except RequestError as error:
            await _answer(send, error.status, orjson.dumps(error.body()))

    def _route(self, method: str, path: str) -> Callable[[Receive, Send], Awaitable[None]]:
        taken, answer = self._routes.get(path, ("", None))
        if answer is None:
            raise RequestError(f"no such path: {path}", status=404, code="not_found")
        if method != taken:
            raise RequestError(f"`{path}` takes {taken}", status=405, code="method_not_allowed")
        return answer

    async def _health(self, receive: Receive, send: Send) -> None:
        await _answer(send, 200, orjson.dumps(self._intake.counts()))

    async def _models(self, receive: Receive, send: Send) -> None:
        shared = {
            "object": "model", "created": self._intake.created, "owned_by": "hallmark",
            "max_model_len": self._intake.context,
        }  # fmt: skip
        models = [{"id": name, **shared} for name in self._names]
        await _answer(send, 200, orjson.dumps({"object": "list", "data": models}))

    async def _chat(self, receive: Receive, send: Send) -> None:
        await self._complete(decode(await _body(receive), ChatBody), receive, send)

    async def _text(self, receive: Receive, send: Send) -> None:
        await self._complete(decode(await _body(receive), TextBody), receive, send)

    async def _complete(self, body: ChatBody | TextBody, receive: Receive, send: Send) -> None:
        adapter = self._names.get(body.model)
        if adapter is None:
            message = f"the model `{body.model}` does not exist"
            raise RequestError(message, status=404, param="model", code="model_not_found")
        inbox = _Inbox()
        offer = offer_of(body) if isinstance(body, ChatBody) else NO_TOOLS
        # Grammars can take a while to compile: not in the event loop.
        if self._intake.is_heavy(body):
            sequences = await asyncio.to_thread(self._intake.sequences, body, inbox.put, offer, adapter)
        else:
            sequences = self._intake.sequences(body, inbox.put, offer, adapter)
        prompts = {id(one.prompt): len(one.prompt) for one in sequences}
        reply = Reply(isinstance(body, ChatBody), body.model, sum(prompts.values()), include_usage(body))
        self._intake.submit(sequences)
        watch = asyncio.ensure_future(_disconnect(receive, inbox))
        try:
            readers = [offer.reader() for _ in sequences]
            await (self._stream if body.stream else self._whole)(reply, readers, inbox, send)
        finally:
            watch.cancel()
            for one in sequences:
                one.cancelled = True

    async def _whole(self, reply: Reply, readers: list[Reader], inbox: _Inbox, send: Send) -> None:
        said: list[list[Delta]] = [[] for _ in readers]
        finishes = [""] * len(readers)
        while not all(finishes):
            news = await inbox.take()
            if not news:
                return
            for one in news:
                if one.error:
                    raise RequestError(one.error, status=500, code="generation_failed")
                index = one.sequence.choice
                deltas, finishes[index] = _read(readers[index], one)
                said[index] += deltas
                if one.finish:
                    reply.add(one.sequence)
        await _answer(send, 200, reply.whole(said, finishes))

    async def _stream(self, reply: Reply, readers: list[Reader], inbox: _Inbox, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
        await _part(send, reply.opening(len(readers)))
        running = len(readers)
        while running:
            news = await inbox.take()
            if not news:
                return
            for one in news:
                if one.error:
                    # Without the end mark: nobody may take the broken text for a whole one.
                    failed = RequestError(one.error, status=500, code="generation_failed")
                    await _part(send, event(failed.body()), more=False)
                    return
                index = one.sequence.choice
                deltas, finish = _read(readers[index], one)
                part = b"".join(reply.delta(index, delta) for delta in deltas)
                if one.finish:
                    part += reply.ending(index, finish)
                    reply.add(one.sequence)
                    running -= 1
                await _part(send, part)
        await _part(send, reply.closing(), more=False)


def _read(reader: Reader, news: News) -> tuple[list[Delta], str]:
    """Return what news of a choice say to its caller, and why it ended (empty while it has not)."""
    deltas = reader.feed(news.text)
    if not news.finish:
        return deltas, ""
    rest, finish = reader.finish(news.finish)
    return deltas + rest, finish


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("the client left", status=499)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MOST_BYTES:
            raise RequestError(f"the body is larger than {MOST_BYTES} bytes", status=413)
        if not message.get("more_body"):
            return b"".join(parts)


async def _disconnect(receive: Receive, inbox: _Inbox) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    inbox.leave()


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [_JSON, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _part(send: Send, body: bytes, *, more: bool = True) -> None:
    if body or not more:
        await send({"type": "http.response.body", "body": body, "more_body": more})
