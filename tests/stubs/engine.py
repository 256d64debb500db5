"""A fake inference engine: OpenAI's wire shapes on a Unix socket, saying what it is told, in the pieces it is told.

In a test: `with FakeEngine(path) as engine: engine.script = Script(["one ", "two"])`. For a benchmark it runs as its
own process: `python -P tests/stubs/engine.py --uds PATH --pieces 64`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson


@dataclass
class Script:
    """What the engine says to every request. `channel` is content, reasoning_content, tool or text.

    `status` other than 200 answers an error; `raw` replaces the whole response; `die_after` drops the connection after
    that many pieces; `hang_after` sends that many pieces and then nothing; `glue` sends all pieces in one write.
    `deltas` are a chat's deltas, in place of pieces; `vectors` what each input of an embeddings request becomes.
    """

    pieces: list[str] = field(default_factory=lambda: ["hello"])
    channel: str = "content"
    finish: str = "stop"
    delay: float = 0.0
    status: int = 200
    message: str = ""
    raw: bytes = b""
    die_after: int | None = None
    hang_after: int | None = None
    glue: bool = False
    choices: int = 1
    extra: dict[str, Any] = field(default_factory=dict)
    deltas: list[dict[str, Any]] = field(default_factory=list)
    vectors: list[Any] = field(default_factory=list)


class FakeEngine:
    """Serves from a thread of the test's process. `requests` are bodies seen, `aborted` counts streams cut short."""

    def __init__(self, uds: Path) -> None:
        self.uds = uds
        self.script = Script()
        self.secret: Script | None = None
        self.requests: list[dict[str, Any]] = []
        self.aborted = 0
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._live: set[_Connection] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> FakeEngine:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the socket and every connection, as a crash would."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._halt)
            self._thread.join(10)
        self.uds.unlink(missing_ok=True)

    def _halt(self) -> None:
        for connection in list(self._live):
            if connection.transport:
                connection.transport.abort()
        self._loop.call_later(0.01, self._loop.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            self._loop.create_unix_server(lambda: _Connection(self), str(self.uds), backlog=1024)
        )
        self._started.set()
        self._loop.run_forever()
        server.close()


class _Connection(asyncio.Protocol):
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.transport: Any = None
        self.buffer = b""
        self.sending: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.engine.connections += 1
        self.engine._live.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.engine._live.discard(self)
        if self.sending and not self.sending.done():
            self.engine.aborted += 1
            self.sending.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, mark, rest = self.buffer.partition(b"\r\n\r\n")
        if not mark:
            return
        length = 0
        for line in head.split(b"\r\n")[1:]:
            if line[:15].lower() == b"content-length:":
                length = int(line[15:])
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        self.answer(head.split(b" ", 2)[1].decode(), rest[:length])

    def answer(self, path: str, body: bytes) -> None:
        script = self.engine.script
        if script.raw:
            self.transport.write(script.raw)
            return
        if path in ("/health", "/v1/models"):
            self.write_json(200, {"object": "list", "data": [{"id": "engine", "object": "model"}]})
            return
        request = orjson.loads(body)
        self.engine.requests.append(request)
        if path == "/v1/embeddings" and script.status == 200:
            self.write_json(200, embedded(script, request))
            return
        chat = path == "/v1/chat/completions"
        if self.engine.secret is not None and request.get("temperature") == 2:
            script = self.engine.secret
        if script.status != 200:
            self.write_json(script.status, {"error": {"message": script.message, "type": "x", "code": script.status}})
        elif not request.get("stream"):
            self.write_json(200, whole(script, chat))
        elif script.glue and not script.delay:
            events = b"".join(stream_events(script, chat))
            self.transport.write(HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(events), events))
        else:
            self.sending = asyncio.get_running_loop().create_task(self.stream(script, chat))

    def write_json(self, status: int, value: Any) -> None:
        data = orjson.dumps(value)
        head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(data))
        self.transport.write(head + data)

    async def stream(self, script: Script, chat: bool) -> None:
        self.transport.write(HEAD)
        for number, event in enumerate(stream_events(script, chat)):
            if script.die_after is not None and number > script.die_after:
                transport, self.sending = self.transport, None
                transport.abort()
                return
            if script.hang_after is not None and number > script.hang_after:
                await asyncio.sleep(3600)
            self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(script.delay)
        self.transport.write(b"0\r\n\r\n")


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def delta(script: Script, piece: Any) -> dict[str, Any]:
    """Return a streamed delta of the script's channel."""
    if isinstance(piece, dict):
        return piece
    if script.channel == "tool":
        return {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
    return {script.channel: piece}


_made: dict[tuple[int, bool], tuple[Script, list[bytes]]] = {}


def stream_events(script: Script, chat: bool) -> list[bytes]:
    """Return the events of a stream, made once for each script."""
    kept = _made.get((id(script), chat))
    if kept is None or kept[0] is not script:
        kept = _made[id(script), chat] = (script, make_events(script, chat))
    return kept[1]


def make_events(script: Script, chat: bool) -> list[bytes]:
    """Return the events of a stream: first delta empty, finish, usage, end mark; as vLLM sends them."""
    kind = "chat.completion.chunk" if chat else "text_completion"
    frame: dict[str, Any] = {"id": "cmpl-1", "object": kind, "created": 1, "model": "engine", **script.extra}
    events = []
    for index in range(script.choices):
        if chat:
            first: dict[str, Any] = {"role": "assistant", "content": ""}
            if script.channel == "tool":
                call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}
                first = {"role": "assistant", "tool_calls": [call]}
            events.append({**frame, "choices": [{"index": index, "delta": first, "finish_reason": None}]})
        for piece in script.deltas or script.pieces:
            part: dict[str, Any] = {"index": index, "finish_reason": None, "logprobs": {"tokens": [piece]}}
            part |= {"delta": delta(script, piece)} if chat else {"text": piece}
            events.append({**frame, "choices": [part]})
        last: dict[str, Any] = {"index": index, "finish_reason": script.finish}
        events.append({**frame, "choices": [last | ({"delta": {}} if chat else {"text": ""})]})
    events.append({**frame, "choices": [], "usage": usage(script)})
    return [b"data: %b\n\n" % orjson.dumps(event) for event in events] + [b"data: [DONE]\n\n"]


def usage(script: Script) -> dict[str, int]:
    """Return token counts: one token for each piece."""
    return {"prompt_tokens": 7, "completion_tokens": len(script.pieces), "total_tokens": 7 + len(script.pieces)}


def whole(script: Script, chat: bool) -> dict[str, Any]:
    """Return the same answer in one piece."""
    text = "".join(script.pieces)
    choices = []
    for index in range(script.choices):
        choice: dict[str, Any] = {"index": index, "finish_reason": script.finish, "logprobs": {"tokens": [text]}}
        message: dict[str, Any] = {"role": "assistant", "content": None}
        if script.deltas:
            message |= merged(script.deltas)
        elif script.channel == "tool":
            function = {"name": "look", "arguments": text}
            message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
        else:
            message[script.channel] = text
        choices.append(choice | ({"message": message} if chat else {"text": text}))
    kind = "chat.completion" if chat else "text_completion"
    frame = {"id": "cmpl-1", "object": kind, "created": 1, "model": "engine", **script.extra}
    return {**frame, "choices": choices, "usage": usage(script)}


def merged(deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that streamed deltas add up to."""
    message: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    for said in deltas:
        for name, value in said.items():
            if name != "tool_calls":
                message[name] = message.get(name, "") + value
                continue
            for piece in value:
                new = {"type": "function", "function": {"name": "", "arguments": ""}}
                call = calls.setdefault(piece["index"], new)
                call["id"] = piece.get("id", call.get("id"))
                for part, text in piece["function"].items():
                    call["function"][part] += text
    return message | ({"tool_calls": list(calls.values())} if calls else {})


def embedded(script: Script, request: dict[str, Any]) -> dict[str, Any]:
    """Return an embeddings answer: the script's vectors, or three numbers for each input."""
    inputs = [request["input"]] if isinstance(request["input"], str) else request["input"]
    vectors = script.vectors or [[0.5, -1.0, float(len(text))] for text in inputs]
    if request.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack(f"<{len(each)}f", *each)).decode() for each in vectors]
    data = [{"object": "embedding", "index": place, "embedding": each} for place, each in enumerate(vectors)]
    return {"object": "list", "model": "engine", "data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}}


async def serve_forever(uds: Path, port: int, script: Script) -> None:
    """Serve on a Unix socket and, with a port, on loopback too, until killed. `temperature` 2 tells a secret."""
    engine = FakeEngine(uds)
    engine.script = script
    engine.secret = Script([*script.pieces[:3], "the key is AKIA", "2E0A8F3", "B244C99", "86 ok ", *script.pieces[3:]])
    engine.requests = _Forgetful()
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: _Connection(engine), str(uds), backlog=1024)
    if port:
        await loop.create_server(lambda: _Connection(engine), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


class _Forgetful(list[dict[str, Any]]):
    def append(self, item: dict[str, Any]) -> None:
        """Keep nothing."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds", type=Path, required=True)
    parser.add_argument("--pieces", type=int, default=64)
    parser.add_argument("--piece", default="word ")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0)
    chosen = parser.parse_args()
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        script = Script([chosen.piece] * chosen.pieces, delay=chosen.delay)
        uvloop.run(serve_forever(chosen.uds, chosen.port, script))
