"""Requests to a proxy on loopback, and what they cost it: by the kernel's own accounting of the proxy's process."""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PIECES = 64
PROMPT = "Explain what this function does and where it is called from, in two sentences. " * 5
CHAT = "/v1/chat/completions"


@dataclass
class Proxy:
    """One proxy under test. `whole` and `streams` are how many requests a measurement makes."""

    name: str
    command: list[str]
    whole: int
    streams: int
    port: int
    key: str = "none"
    guards: bool = True
    path: str = CHAT
    model: str = "model"
    process: subprocess.Popen[bytes] | None = None
    figures: dict[str, list[float]] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """The process of the running proxy."""
        assert self.process is not None
        return self.process.pid

    def note(self, name: str, value: float) -> None:
        """Keep a round's figure."""
        self.figures.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        """Return the median of a figure over all rounds."""
        return statistics.median(self.figures[name])


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, all its threads, user and system, from the kernel's clock of that process."""
    return time.clock_gettime((~pid << 3) | 2)


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def request_bytes(proxy: Proxy, **more: Any) -> bytes:
    """Return a whole HTTP request."""
    body = {"model": proxy.model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": PIECES, **more}
    return http_post(proxy.path, body, {"authorization": f"Bearer {proxy.key}"})


def http_post(path: str, body: Any, headers: Mapping[str, str]) -> bytes:
    """Return an HTTP request that posts JSON."""
    data = json.dumps(body, separators=(",", ":")).encode()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{lines}"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n")  # fmt: skip
    return head.encode() + data


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and body of the next answer on a connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if b"content-length:" in lower:
        body = await reader.readexactly(int(lower.split(b"content-length:")[1].split(b"\r\n")[0]))
    else:
        parts = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            parts.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        body = b"".join(parts)
    return int(head.split(b" ", 2)[1]), body


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """Send a request and return the body of its answer; raises RuntimeError unless it is a 200."""
    writer.write(request)
    status, body = await answer(reader)
    if status != 200:
        raise RuntimeError(f"{status} {body[:300]!r}")
    return body


async def load(proxy: Proxy, count: int, callers: int, request: bytes) -> list[float]:
    """Make `count` requests from `callers` connections; return their durations in milliseconds."""
    left = iter(range(count))
    took: list[float] = []

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1 << 20)
        for _ in left:
            begun = time.perf_counter()
            await exchange(reader, writer, request)
            took.append((time.perf_counter() - begun) * 1000)
        writer.close()

    await asyncio.gather(*(caller() for _ in range(callers)))
    return took


@dataclass(frozen=True)
class Cost:
    """CPU microseconds of the proxy a request, median milliseconds a request, share of a core the engine took."""

    cpu_us: float
    p50_ms: float
    engine_share: float


def cost(proxy: Proxy, engine: int, count: int, callers: int, request: bytes) -> Cost:
    """Return what requests cost, with the process id of the engine behind the proxy."""
    begun, before, engine_before = time.perf_counter(), cpu_seconds(proxy.pid), cpu_seconds(engine)
    took = asyncio.run(load(proxy, count, callers, request))
    spent = cpu_seconds(proxy.pid) - before
    share = (cpu_seconds(engine) - engine_before) / (time.perf_counter() - begun)
    return Cost(spent * 1e6 / count, statistics.median(took), share)
