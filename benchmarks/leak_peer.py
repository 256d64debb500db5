"""The same streams through LiteLLM's proxy with its content filter, and through the core: what leaks.

Both get the same texts, cut into the same pieces: prose with matches of the default bundle's patterns as they are
spelled (no view, no coding). A match counts as leaked when eight or more of its characters in a row reach the caller.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks.leak_texts import Text, compose, plantable
from benchmarks.peers.litellm_proxy import PEER, litellm_config, locked_version
from policies.bundle import load
from policies.enforcement.engine import Enforcer
from policies.enforcement.scan import CompiledBundle, compile_side

BUNDLE = Path(__file__).resolve().parent.parent / "policies" / "bundles" / "default"
PLACEHOLDER = re.compile(r"\[[\w:]*REDACTED[\w:]*\]")
SHORTEST = 8
"""Characters of a match in a row that count as leaked."""
CALLERS = 8
QUIET = {
    "LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION", "NO_PROXY": "*",
}  # fmt: skip


@dataclass(frozen=True)
class Stream:
    """One text and the pieces that the engine says it in."""

    made: Text
    pieces: list[str]


def streams_of(count: int, seed: int) -> list[Stream]:
    """Return streams with one or two secrets each, in pieces the size of tokens."""
    rules = [rule for rule in plantable(load(BUNDLE).spec.rules) if rule.until is None]
    out = []
    for number in range(count):
        rng = random.Random(f"peer-{seed}-{number}")
        made = compose(rules, rng, rng.randint(1, 2), plain=True, most=80)
        pieces, place = [], 0
        while place < len(made.text):
            size = rng.randint(1, 8)
            pieces.append(made.text[place : place + size])
            place += size
        out.append(Stream(made, pieces))
    return out


def leaked(made: Text, released: str) -> tuple[int, int]:
    """Return how many planted matches leaked and how many characters of them.

    What stands in the text outside of planted matches, or in a placeholder, is not counted.
    """
    outside, place = [], 0
    for start, end in made.places:
        outside.append(made.text[place:start])
        place = end
    around = "\0".join([*outside, made.text[place:]])
    said = PLACEHOLDER.sub("\0", released)
    matches = characters = 0
    for start, end in made.places:
        secret = made.text[start:end]
        size = min(SHORTEST, len(secret))
        out: set[int] = set()
        for first in range(len(secret) - size + 1):
            part = secret[first : first + size]
            if said.count(part) > around.count(part):
                out.update(range(first, first + size))
        matches += bool(out)
        characters += len(out)
    return matches, characters


class Engine(asyncio.Protocol):
    """An engine that streams the pieces of the stream that the last message numbers."""

    streams: list[Stream]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer each whole request."""
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        size = int(lengths[0]) if lengths else 0
        if not found or len(body) < size:
            return
        self.data = body[size:]
        number = int(json.loads(body[:size])["messages"][-1]["content"].rpartition(" ")[2])
        asyncio.get_running_loop().create_task(self._say(self.streams[number].pieces))

    async def _say(self, pieces: list[str]) -> None:
        write = self.transport.write  # type: ignore[attr-defined]
        write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
        choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        frame = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "engine"}
        for line in [*(orjson.dumps({**frame, "choices": [choice]}) for choice in choices), b"[DONE]"]:
            event = b"data: %b\n\n" % line
            write(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(0)
        write(b"0\r\n\r\n")


async def ask(port: int, number: int) -> str:
    """Return what a caller of the proxy reads of one stream; what a filter refuses is an empty text."""
    body = orjson.dumps(
        {"model": "model", "stream": True, "messages": [{"role": "user", "content": f"stream {number}"}]}
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sk-benchmark\r\n"
        b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
    data = await reader.read(-1)
    writer.close()
    text = []
    for line in data.split(b"\n"):
        if line.startswith(b"data: {"):
            event = orjson.loads(line[6:].rstrip())
            text += [choice.get("delta", {}).get("content") or "" for choice in event.get("choices", ())]
    return "".join(text)


async def run(streams: list[Stream], engine_port: int, port: int) -> list[str]:
    """Return what the proxy lets through of every stream."""
    Engine.streams = streams
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Engine, "127.0.0.1", engine_port)
    gate, read = asyncio.Semaphore(CALLERS), [""] * len(streams)

    async def one(number: int) -> None:
        async with gate:
            read[number] = await ask(port, number)

    async with server:
        await asyncio.gather(*(one(number) for number in range(len(streams))))
    return read


def ours(streams: list[Stream]) -> list[str]:
    """Return what the core lets through of every stream."""
    rules = load(BUNDLE).spec.rules
    entry = compile_side(rules, "input")
    enforcer = Enforcer(CompiledBundle("leak", "", BUNDLE, entry, compile_side(rules, "output", like=entry)))
    read = []
    for each in streams:
        channel = enforcer.stream()
        released = [channel.push(piece).text for piece in each.pieces]
        read.append("".join(released) + channel.finish().text)
    return read


def through_litellm(count: int, seed: int) -> dict[str, object]:
    """Return what leaked of the same streams: through the core, and through LiteLLM's proxy if it is installed."""
    streams = streams_of(count, seed)
    figures: dict[str, object] = {"streams": count, "planted": sum(len(each.made.places) for each in streams)}
    figures["hallmark"] = summed(streams, ours(streams))
    if not (PEER / "bin" / "litellm").exists():
        figures["litellm"] = "not installed"
        return figures
    with tempfile.TemporaryDirectory(prefix="hm-leak-") as name:
        engine_port, port = free_port(), free_port()
        config = Path(name) / "litellm.yaml"
        config.write_text(json.dumps(litellm_config(BUNDLE, engine_port, content_filter=True)))
        command = [str(PEER / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        with (Path(name) / "log").open("wb") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **QUIET}, cwd=name)
        try:
            wait_for(port, child)
            begun = time.monotonic()
            figures["litellm"] = summed(streams, asyncio.run(run(streams, engine_port, port)))
            figures["litellm_version"] = locked_version()
            figures["litellm_s"] = round(time.monotonic() - begun, 1)
        finally:
            child.terminate()
            child.wait(30)
    return figures


def summed(streams: list[Stream], read: list[str]) -> dict[str, int]:
    """Return matches and characters leaked over all streams, and how many streams said nothing at all."""
    found = [leaked(each.made, text) for each, text in zip(streams, read, strict=True)]
    return {
        "leaked_matches": sum(matches for matches, _ in found),
        "leaked_characters": sum(characters for _, characters in found),
        "silent_streams": sum(not text for text in read),
    }


def free_port() -> int:
    """Return a port of the loopback that nobody uses now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, child: subprocess.Popen[bytes]) -> None:
    """Wait until the proxy answers.

    Raises:
        RuntimeError: it does not within two minutes, or has ended.
    """
    until = time.monotonic() + 120
    while time.monotonic() < until and child.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("LiteLLM's proxy did not start")
