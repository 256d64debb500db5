"""A fake inference engine that costs almost nothing, so that what is measured is the proxy in front of it.

    python benchmarks/fake_engine.py --uds PATH [--port N] [--pieces 64] [--piece "model "] [--step-ms 2]

Answers are made once. Streams advance together, one piece a step, as those of a batching engine do. A request with
`"temperature":2` is answered with a planted key, cut over four pieces. Speaks chat completions only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any, cast

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PLANTED = ["the key is AKIA", "2E0A8F3", "B244C99", "86 ok "]


class Answers:
    """What is said: whole, and as the pieces of a stream, ready to be written."""

    def __init__(self, pieces: list[str]) -> None:
        usage = {"prompt_tokens": 7, "completion_tokens": len(pieces), "total_tokens": 7 + len(pieces)}
        frame: dict[str, Any] = {"id": "cmpl-1", "object": "chat.completion", "created": 1, "model": "engine"}
        message = {"role": "assistant", "content": "".join(pieces)}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        body = orjson.dumps({**frame, "choices": [choice], "usage": usage})
        self.whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
            len(body), body,
        )  # fmt: skip
        frame["object"] = "chat.completion.chunk"
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
        events = [{**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        events.append({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        events.append({**frame, "choices": [], "usage": usage})
        lines = [*(b"data: %b\n\n" % orjson.dumps(event) for event in events), b"data: [DONE]\n\n"]
        self.parts = [HEAD, *(b"%x\r\n%b\r\n" % (len(line), line) for line in lines), b"0\r\n\r\n"]


class Engine:
    """The connections and their running streams; one timer advances all."""

    def __init__(self, pieces: list[str], step_s: float) -> None:
        self.plain = Answers(pieces)
        self.planted = Answers([*pieces[:3], *PLANTED, *pieces[3:]])
        self.step_s = step_s
        self.streams: dict[_Connection, int] = {}
        self.ticking = False

    def begin(self, connection: _Connection) -> None:
        """Start a stream."""
        self.streams[connection] = 0
        if not self.ticking:
            self.ticking = True
            asyncio.get_running_loop().call_later(self.step_s, self.tick)

    def tick(self) -> None:
        """Write the next part of every stream; the head goes with the first piece, the end with the last."""
        for connection, place in list(self.streams.items()):
            parts = connection.answers.parts
            last = place + 1 >= len(parts) - 2
            step = parts[place:] if last else [*parts[:2]] if place == 0 else [parts[place]]
            connection.transport.write(b"".join(step))
            if last:
                del self.streams[connection]
            else:
                self.streams[connection] = place + (2 if place == 0 else 1)
        self.ticking = bool(self.streams)
        if self.ticking:
            asyncio.get_running_loop().call_later(self.step_s, self.tick)


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, engine: Engine) -> None:
        self.engine, self.answers = engine, engine.plain
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.engine.streams.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, mark, rest = self.buffer.partition(b"\r\n\r\n")
        if not mark:
            return
        lower = head.lower()
        size = int(lower.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in lower else 0
        if len(rest) < size:
            return
        body, self.buffer = rest[:size], rest[size:]
        plain = body.replace(b": ", b":")
        self.answers = self.engine.planted if b'"temperature":2' in plain else self.engine.plain
        if b'"stream":true' in plain:
            self.engine.begin(self)
        else:
            self.transport.write(self.answers.whole)


async def serve(engine: Engine, uds: Path, port: int) -> None:
    """Serve on a Unix socket and, with a port, on loopback too, until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: _Connection(engine), str(uds), backlog=1024)
    if port:
        await loop.create_server(lambda: _Connection(engine), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    """Read the arguments and serve."""
    import uvloop

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--uds", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--pieces", type=int, default=64)
    parser.add_argument("--piece", default="model ")
    parser.add_argument("--step-ms", type=float, default=2.0)
    chosen = parser.parse_args()
    engine = Engine([chosen.piece] * chosen.pieces, chosen.step_ms / 1000)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(engine, chosen.uds, chosen.port))


if __name__ == "__main__":
    main()
