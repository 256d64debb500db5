"""What does enforcement cost? CPU of the proxy process, per request and per streamed chunk, side by side.

    python benchmarks/gateway.py [--rounds 5] [--quick] [--install-peers]

One fast fake engine, in a process of its own, behind each proxy in turn: a bare pass-through (the same HTTP server and
the same client of the engine, no policy), Hallmark with every policy on (default bundle; 200 rules), and LiteLLM's
proxy without and with its content filter (the default bundle's patterns as its own). CPU is the kernel's accounting of
the proxy process. Rounds are interleaved; figures are medians. LiteLLM runs from its own environment,
`.hallmark-peers/litellm`, made from `benchmarks/peers/litellm.txt` by `--install-peers`; without it, the rest is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks.peers.litellm_proxy import PEER, install, litellm_config, locked_version  # noqa: E402

BUNDLE = ROOT / "policies" / "bundles" / "default"
PIECES, PIECE = 64, "model "
SECRET = "AKIA2E0A8F3B244C9986"
PROMPT = "Explain what this function does and where it is called from, in two sentences. " * 5
CALLERS = 32
STREAM_CALLERS = 8


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
    process: subprocess.Popen[bytes] | None = None
    figures: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.figures[name])


# ---- the proxies of our own, each run as a child of this script ---------------------------------------------------


def run_bare(uds: Path, port: int) -> None:
    """Pass every body through: our HTTP server and our client of the engine, and nothing between them."""
    from policies.listener import Listener, bind
    from policies.upstream import Upstream

    upstream = Upstream(uds)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        call = upstream.call(scope["method"], scope["path"], body)
        status = await call.start()
        headers = [(b"content-type", b"text/event-stream" if b'"stream":true' in body else b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        while data := await call.chunk():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    Listener(application, bind("127.0.0.1", port)).run()


def run_hallmark(uds: Path, port: int, folder: Path, rules: int) -> None:
    """Serve with everything on: keys, rate limit, Cedar, input and output rules, decision log on disk."""
    from policies.audit import DecisionLog
    from policies.authorize import Authorizer, ModelState
    from policies.bundle import compile_bundle, load
    from policies.callers import Callers, hash_secret
    from policies.desk import Desk, Front
    from policies.engine import Enforcer
    from policies.exchange import Served
    from policies.gateway import Gateway
    from policies.listener import Listener, bind, settled_memory
    from policies.upstream import Upstream
    from registry.journal import Journal

    bundle = load(_bundle(folder / "bundle", rules))
    row = {"name": "mia", "groups": ["members"], "attributes": {"requests_per_minute": 1_000_000_000},
           "key_id": "00", "key_hash": hash_secret("00", "secret")}  # fmt: skip
    (folder / "journal").mkdir()
    journal = Journal(folder / "journal", "benchmark")
    decisions = DecisionLog(journal.write, endpoint="prod")
    served = Served("prod", "model", "engine", "sha256:c", "sha256:cert", bundle.digest)
    desk = Desk(
        served, ModelState("model", "sha256:c", "sha256:cert", "certified"), Enforcer(compile_bundle(bundle)),
        Authorizer(bundle), Upstream(uds),
    )  # fmt: skip
    front = Front(Callers(lambda: [row]), decisions, os.urandom(32))
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when it has drained
    with settled_memory():
        Listener(Gateway(front, [desk]), bind("127.0.0.1", port), drain_s=5).run()
    decisions.close()


def _bundle(folder: Path, rules: int) -> Path:
    """Return a copy of the default bundle, filled up with made-up token formats to a number of rules."""
    shutil.copytree(BUNDLE, folder)
    path = folder / "bundle.yaml"
    text = path.read_text()
    made = text.count("id: ")
    text += "".join(
        f"  - {{id: made-up-{n}, kind: regex, side: both, type: token, pattern: '\\bmu{n}_[A-Za-z0-9]{{20,40}}'}}\n"
        for n in range(max(0, rules - made))
    )
    path.write_text(text)
    return folder


# ---- the load ----------------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, all its threads, user and system, from the kernel's clock of that process."""
    return time.clock_gettime((~pid << 3) | 2)


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def request_bytes(proxy: Proxy, **more: Any) -> bytes:
    """Return a whole HTTP request."""
    body = {"model": "model", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": PIECES, **more}
    data = json.dumps(body, separators=(",", ":")).encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {proxy.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n")  # fmt: skip
    return head.encode() + data


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """Send a request and return the body of its answer; raises RuntimeError unless it is a 200."""
    writer.write(request)
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
    if b" 200 " not in head[:20]:
        raise RuntimeError(f"{head[:40]!r} {body[:300]!r}")
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


def cost_us(proxy: Proxy, count: int, callers: int, request: bytes) -> tuple[float, float]:
    """Return (CPU microseconds of the proxy a request, median milliseconds a request)."""
    assert proxy.process is not None
    before = cpu_seconds(proxy.process.pid)
    took = asyncio.run(load(proxy, count, callers, request))
    return (cpu_seconds(proxy.process.pid) - before) * 1e6 / count, statistics.median(took)


def measure(proxy: Proxy) -> None:
    """Add one round's figures."""
    assert proxy.process is not None
    whole, stream = request_bytes(proxy), request_bytes(proxy, stream=True)
    one, p50 = cost_us(proxy, proxy.whole, 1, whole)
    many, _ = cost_us(proxy, max(proxy.whole, 2 * CALLERS), CALLERS, whole)
    streamed, _ = cost_us(proxy, max(proxy.streams, STREAM_CALLERS), STREAM_CALLERS, stream)
    proxy.note("request_us", one)
    proxy.note("request_32_us", many)
    proxy.note("stream_us", streamed)
    proxy.note("chunk_us", (streamed - one) / PIECES)
    proxy.note("p50_ms", p50)
    proxy.note("rss_mib", rss_mib(proxy.process.pid))


def leaks(proxy: Proxy) -> bool:
    """Say whether a planted key reaches the caller in a streamed answer: the deltas are put together again."""

    async def ask() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1 << 20)
        body = await exchange(reader, writer, request_bytes(proxy, stream=True, temperature=2))
        writer.close()
        events = [json.loads(line[6:]) for line in body.decode().split("\n") if line.startswith("data: {")]
        deltas = [choice["delta"].get("content") or "" for event in events for choice in event.get("choices", [])]
        return "".join(deltas)

    return SECRET in asyncio.run(ask())


# ---- one run -----------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(proxies: list[Proxy], engine: list[str], folder: Path) -> Iterator[None]:
    """Start the engine and every proxy; stop them afterwards."""
    quiet = {"LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1"}
    environment = {**os.environ, **quiet, "PYTHONPATH": str(ROOT), "LITELLM_LOG": "ERROR"}
    started = []
    try:
        started.append(subprocess.Popen(engine, env=environment))
        for proxy in proxies:
            log = (folder / f"{proxy.name.replace(' ', '-')}.log").open("wb")
            proxy.process = subprocess.Popen(proxy.command, stdout=log, stderr=log, env=environment, cwd=folder)
            started.append(proxy.process)
        for proxy in proxies:
            wait_for(proxy, folder)
        yield
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(proxy: Proxy, folder: Path) -> None:
    """Wait until a proxy answers a request."""
    end = time.monotonic() + 300
    while True:
        with contextlib.suppress(OSError, RuntimeError, asyncio.IncompleteReadError):
            asyncio.run(load(proxy, 1, 1, request_bytes(proxy)))
            return
        assert proxy.process is not None
        if proxy.process.poll() is not None or time.monotonic() > end:
            tail = (folder / f"{proxy.name.replace(' ', '-')}.log").read_text(errors="replace")[-1500:]
            raise SystemExit(f"{proxy.name} did not start:\n{tail}")
        time.sleep(0.5)


def make_proxies(folder: Path, uds: Path, engine_port: int, *, quick: bool) -> list[Proxy]:
    """Return what is compared; LiteLLM only where it is installed."""
    whole, streams = (200, 16) if quick else (1500, 64)
    own = [sys.executable, "-P", str(HERE / "gateway.py"), "--uds", str(uds)]
    proxies = []
    for name, arguments in (
        ("bare pass-through", ["--child", "bare"]),
        ("hallmark default bundle", ["--child", "hallmark", "--rules", "0"]),
        ("hallmark 200 rules", ["--child", "hallmark", "--rules", "200"]),
    ):
        port = free_port()
        place = folder / name.replace(" ", "-")
        place.mkdir()
        command = [*own, *arguments, "--port", str(port), "--folder", str(place)]
        proxies.append(Proxy(name, command, whole, streams, port, "hk_00_secret", guards="hallmark" in name))
    if not (PEER / "bin" / "litellm").exists():
        print(f"LiteLLM is not installed in {PEER}: run with --install-peers; the rest follows", file=sys.stderr)
        return proxies
    for name, content_filter in (("litellm no guardrail", False), ("litellm content filter", True)):
        port = free_port()
        path = folder / f"{name.replace(' ', '-')}.yaml"
        path.write_text(json.dumps(litellm_config(BUNDLE, engine_port, content_filter=content_filter)))
        command = [str(PEER / "bin" / "litellm"), "--config", str(path), "--host", "127.0.0.1", "--port", str(port),
                   "--num_workers", "1"]  # fmt: skip
        size = (20, 8) if quick else (60, 16)
        proxies.append(Proxy(name, command, *size, port, "sk-benchmark", guards=content_filter))
    return proxies


def report(proxies: list[Proxy], rounds: int) -> dict[str, Any]:
    """Print the table; return the figures."""
    names = ("request_us", "request_32_us", "chunk_us", "p50_ms", "rss_mib")
    print(f"CPU of the proxy process, median of {rounds} interleaved rounds (lowest to highest)\n")
    print(
        f"{'proxy':26} {'us/request':>22} {f'us, {CALLERS} callers':>22} {'us/chunk':>20} {'p50 ms':>8} {'RSS MiB':>8}"
    )
    figures: dict[str, Any] = {}
    for proxy in proxies:
        cells = []
        for name, width in zip(names[:3], (22, 22, 20), strict=True):
            values = proxy.figures[name]
            spread = f"{proxy.median(name):,.1f} ({min(values):,.1f}-{max(values):,.1f})"
            cells.append(f"{spread:>{width}}")
        cells += [f"{proxy.median('p50_ms'):8.2f}", f"{proxy.median('rss_mib'):8.0f}"]
        print(f"{proxy.name:26} {' '.join(cells)}")
        slug = proxy.name.replace(" ", "_").replace("-", "_")
        figures |= {f"{slug}_{name}": round(proxy.median(name), 3) for name in names}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer requests a round, nothing kept")
    parser.add_argument("--install-peers", action="store_true")
    parser.add_argument("--child", choices=("bare", "hallmark"), help=argparse.SUPPRESS)
    parser.add_argument("--uds", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rules", type=int, default=0, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child == "bare":
        return run_bare(chosen.uds, chosen.port)
    if chosen.child == "hallmark":
        return run_hallmark(chosen.uds, chosen.port, chosen.folder, chosen.rules)
    if chosen.install_peers and not (PEER / "bin" / "litellm").exists():
        install()
    with tempfile.TemporaryDirectory(prefix="hm-") as name:
        folder, engine_port = Path(name), free_port()
        uds = folder / "e.sock"
        engine = [sys.executable, "-P", str(ROOT / "tests/stubs/engine.py"), "--uds", str(uds), "--port",
                  str(engine_port), "--pieces", str(PIECES), "--piece", PIECE, "--delay", "0.002"]  # fmt: skip
        proxies = make_proxies(folder, uds, engine_port, quick=chosen.quick)
        with running(proxies, engine, folder):
            for proxy in proxies:
                asyncio.run(load(proxy, 20, 4, request_bytes(proxy)))  # warm
            leaked = {proxy.name: leaks(proxy) for proxy in proxies if proxy.guards}
            for number in range(chosen.rounds):
                for proxy in proxies[number % len(proxies) :] + proxies[: number % len(proxies)]:
                    measure(proxy)
        figures = report(proxies, chosen.rounds)
    print()
    for proxy_name, leak in leaked.items():
        print(f"a key cut over four deltas, streamed through {proxy_name}: {'LEAKED' if leak else 'redacted'}")
    result = {
        "benchmark": "gateway", "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(), "cpu": _cpu(), "cores": os.cpu_count(), "rounds": chosen.rounds,
        "load_1_minute": round(os.getloadavg()[0], 1), "pieces": PIECES, "uvicorn": version("uvicorn"),
        "litellm": locked_version(), **figures, "leaked": leaked,
    }  # fmt: skip
    if not chosen.quick:
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / "gateway.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    return None


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
