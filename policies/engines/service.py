"""The HTTP service of the built-in engine: OpenAI's chat and text completions over raw ASGI."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from policies.engines.decoding import News
from policies.engines.intake import Intake
from policies.engines.replies import Reply, event
from policies.engines.wire import ChatBody, RequestError, TextBody, decode, include_usage

logger = logging.getLogger(__name__)
MOST_BYTES = 16 << 20
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
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
    """The ASGI application. `intake` turns bodies into sequences and queues them."""

    def __init__(self, intake: Intake, served_name: str) -> None:
        self._intake, self._name = intake, served_name
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
        model = {
            "id": self._name, "object": "model", "created": self._intake.created, "owned_by": "hallmark",
            "max_model_len": self._intake.context,
        }  # fmt: skip
        await _answer(send, 200, orjson.dumps({"object": "list", "data": [model]}))

    async def _chat(self, receive: Receive, send: Send) -> None:
        await self._complete(decode(await _body(receive), ChatBody), receive, send)

    async def _text(self, receive: Receive, send: Send) -> None:
        await self._complete(decode(await _body(receive), TextBody), receive, send)

    async def _complete(self, body: ChatBody | TextBody, receive: Receive, send: Send) -> None:
        if body.model != self._name:
            message = f"the model `{body.model}` does not exist"
            raise RequestError(message, status=404, param="model", code="model_not_found")
        inbox = _Inbox()
        # Grammars can take a while to compile: not in the event loop.
        if self._intake.is_heavy(body):
            sequences = await asyncio.to_thread(self._intake.sequences, body, inbox.put)
        else:
            sequences = self._intake.sequences(body, inbox.put)
        prompts = {id(one.prompt): len(one.prompt) for one in sequences}
        reply = Reply(isinstance(body, ChatBody), self._name, sum(prompts.values()), include_usage(body))
        self._intake.submit(sequences)
        watch = asyncio.ensure_future(_disconnect(receive, inbox))
        try:
            await (self._stream if body.stream else self._whole)(reply, len(sequences), inbox, send)
        finally:
            watch.cancel()
            for one in sequences:
                one.cancelled = True

    async def _whole(self, reply: Reply, choices: int, inbox: _Inbox, send: Send) -> None:
        texts, finishes = [""] * choices, [""] * choices
        while not all(finishes):
            news = await inbox.take()
            if not news:
                return
            for one in news:
                if one.error:
                    raise RequestError(one.error, status=500, code="generation_failed")
                texts[one.sequence.choice] += one.text
                if one.finish:
                    finishes[one.sequence.choice] = one.finish
                    reply.add(one.sequence)
        await _answer(send, 200, reply.whole(texts, finishes))

    async def _stream(self, reply: Reply, choices: int, inbox: _Inbox, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
        await _part(send, reply.opening(choices))
        running = choices
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
                part = reply.delta(index, one.text) if one.text else b""
                if one.finish:
                    part += reply.ending(index, one.finish)
                    reply.add(one.sequence)
                    running -= 1
                await _part(send, part)
        await _part(send, reply.closing(), more=False)


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
