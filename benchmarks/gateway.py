"""What does enforcement cost? CPU of the proxy process, per request and per streamed chunk, side by side.

    python benchmarks/gateway.py [--rounds 5] [--quick] [--install-peers]

One fast fake engine (`fake_engine.py`), in a process of its own, behind each proxy in turn: a bare pass-through (the
same HTTP server and the same client of the engine, no policy); Hallmark with every policy on (default bundle; 200
rules); LiteLLM's proxy without and with its content filter; the servers of NeMo Guardrails and guardrails-ai. Each peer
checks the default bundle's patterns by its own means, and runs from its own environment in `.hallmark-peers`, made from
its lock in `benchmarks/peers` by `--install-peers`; one that is not there is left out. CPU is the kernel's accounting
of the proxy process. Rounds are interleaved; figures are medians. A chunk's cost is that of a stream, less that of a
whole answer at 32 callers, by the engine's pieces.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks.load import PIECES, Proxy, cost, exchange, free_port, load, request_bytes, rss_mib  # noqa: E402
from benchmarks.measure import write_result  # noqa: E402
from benchmarks.peers.guardrails_server import GUARDRAILS, guardrails_command, guardrails_config  # noqa: E402
from benchmarks.peers.litellm_proxy import PEER, install, litellm_config, locked_version  # noqa: E402
from benchmarks.peers.nemo_server import NEMO, nemo_command, nemo_config  # noqa: E402
from benchmarks.proxies import BUNDLE, KEY  # noqa: E402

PIECE = "model "
SECRET = "AKIA2E0A8F3B244C9986"
CALLERS = 32
STREAM_CALLERS = 8
QUIET = {"LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR",
         "DO_NOT_TRACK": "1", "OTEL_SDK_DISABLED": "true", "OPENAI_API_KEY": "none"}  # fmt: skip
GOALS = {"request": 50, "chunk": 20}
"""How many times less than LiteLLM's proxy with its content filter."""


def measure(proxy: Proxy, engine: int) -> None:
    """Add one round's figures."""
    whole, stream = request_bytes(proxy), request_bytes(proxy, stream=True)
    one = cost(proxy, engine, proxy.whole, 1, whole)
    many = cost(proxy, engine, max(proxy.whole, 2 * CALLERS), CALLERS, whole)
    streamed = cost(proxy, engine, max(proxy.streams, STREAM_CALLERS), STREAM_CALLERS, stream)
    proxy.note("request_us", one.cpu_us)
    proxy.note("request_32_us", many.cpu_us)
    proxy.note("stream_us", streamed.cpu_us)
    proxy.note("chunk_us", (streamed.cpu_us - many.cpu_us) / PIECES)
    proxy.note("p50_ms", one.p50_ms)
    proxy.note("engine_share", max(one.engine_share, many.engine_share, streamed.engine_share))
    proxy.note("rss_mib", rss_mib(proxy.pid))


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


@contextlib.contextmanager
def running(proxies: list[Proxy], engine: list[str], engine_url: str, folder: Path) -> Iterator[int]:
    """Start the engine and every proxy; yield the engine's process id; stop them afterwards."""
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": engine_url,
                   "OPENAI_API_BASE": engine_url}  # fmt: skip
    started = []
    try:
        started.append(subprocess.Popen(engine, env=environment))
        for proxy in proxies:
            log = (folder / f"{proxy.name.replace(' ', '-')}.log").open("wb")
            proxy.process = subprocess.Popen(proxy.command, stdout=log, stderr=log, env=environment, cwd=folder)
            started.append(proxy.process)
        for proxy in proxies:
            wait_for(proxy, folder)
        yield started[0].pid
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


def own_proxies(folder: Path, uds: Path, *, quick: bool) -> list[Proxy]:
    """Return the proxies of our own."""
    whole, streams = (200, 16) if quick else (1500, 64)
    proxies = []
    for name, kind, rules in (
        ("bare pass-through", "bare", 0), ("hallmark default bundle", "hallmark", 0),
        ("hallmark 200 rules", "hallmark", 200),
    ):  # fmt: skip
        port = free_port()
        place = folder / name.replace(" ", "-")
        place.mkdir()
        command = [sys.executable, "-P", str(HERE / "proxies.py"), kind, "--uds", str(uds), "--port", str(port),
                   "--folder", str(place), "--rules", str(rules)]  # fmt: skip
        proxies.append(Proxy(name, command, whole, streams, port, KEY, guards=kind == "hallmark"))
    return proxies


def peer_proxies(folder: Path, engine_port: int, *, quick: bool) -> list[Proxy]:
    """Return the peers that are installed, and say which are not."""
    size = (20, 8) if quick else (60, 16)
    proxies = []
    if (PEER / "bin" / "litellm").exists():
        for name, content_filter in (("litellm no guardrail", False), ("litellm content filter", True)):
            port = free_port()
            path = folder / f"{name.replace(' ', '-')}.yaml"
            path.write_text(json.dumps(litellm_config(BUNDLE, engine_port, content_filter=content_filter)))
            command = [str(PEER / "bin" / "litellm"), "--config", str(path), "--host", "127.0.0.1", "--port", str(port),
                       "--num_workers", "1"]  # fmt: skip
            proxies.append(Proxy(name, command, *size, port, "sk-benchmark", guards=content_filter))
    if NEMO.installed:
        port = free_port()
        command = nemo_command(nemo_config(folder, BUNDLE, engine_port), port)
        proxies.append(Proxy("nemo guardrails regex", command, *size, port, model="engine"))
    if GUARDRAILS.installed:
        port = free_port()
        command = guardrails_command(guardrails_config(folder, BUNDLE), port)
        proxies.append(Proxy("guardrails-ai patterns", command, *size, port, model="openai/engine",
                             path="/guards/filter/openai/v1/chat/completions"))  # fmt: skip
    if len(proxies) < 4:
        print("not all peers are installed: run with --install-peers; the rest follows", file=sys.stderr)
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
    return figures | ratios(figures)


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """Print and return what Hallmark with 200 rules adds, and how many times less it costs than each peer."""
    ours = "hallmark_200_rules"
    found = {"added_p50_ms": round(figures[f"{ours}_p50_ms"] - figures["bare_pass_through_p50_ms"], 3)}
    print(f"\nadded p50 at one caller: {found['added_p50_ms']} ms")
    for key in sorted(figures):
        peer = key.removesuffix("_request_32_us")
        if peer != key and not peer.startswith(("hallmark", "bare")):
            request = figures[key] / figures[f"{ours}_request_32_us"]
            chunk = figures[f"{peer}_chunk_us"] / figures[f"{ours}_chunk_us"]
            found |= {f"{peer}_request_ratio": round(request, 1), f"{peer}_chunk_ratio": round(chunk, 1)}
            print(f"{peer.replace('_', ' '):26} costs {request:6.1f} times as much a request, {chunk:6.1f} a chunk")
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer requests a round, nothing kept")
    parser.add_argument("--install-peers", action="store_true")
    chosen = parser.parse_args()
    if chosen.install_peers:
        install_peers()
    with tempfile.TemporaryDirectory(prefix="hm-") as name:
        folder, engine_port = Path(name), free_port()
        uds = folder / "e.sock"
        engine = [sys.executable, "-P", str(HERE / "fake_engine.py"), "--uds", str(uds), "--port", str(engine_port),
                  "--pieces", str(PIECES), "--piece", PIECE]  # fmt: skip
        proxies = own_proxies(folder, uds, quick=chosen.quick)
        proxies += peer_proxies(folder, engine_port, quick=chosen.quick)
        with running(proxies, engine, f"http://127.0.0.1:{engine_port}/v1", folder) as engine_pid:
            for proxy in proxies:
                asyncio.run(load(proxy, 20, 4, request_bytes(proxy)))  # warm
            leaked = {proxy.name: leaks(proxy) for proxy in proxies if proxy.guards}
            for number in range(chosen.rounds):
                for proxy in proxies[number % len(proxies) :] + proxies[: number % len(proxies)]:
                    measure(proxy, engine_pid)
        figures = report(proxies, chosen.rounds)
    share = max(max(proxy.figures["engine_share"]) for proxy in proxies)
    print(f"\nthe engine took at most {share:.0%} of a core: it was {'' if share > 0.8 else 'not '}the limit")
    for proxy_name, leak in leaked.items():
        print(f"a key cut over four deltas, streamed through {proxy_name}: {'LEAKED' if leak else 'redacted'}")
    print()
    result = {
        "rounds": chosen.rounds, "pieces": PIECES, "engine_core_share": round(share, 2), **figures, "leaked": leaked,
        "peers": {"litellm": locked_version(), "nemo": NEMO.version(), "guardrails": GUARDRAILS.version()},
    }  # fmt: skip
    out = Path(tempfile.gettempdir()) / "gateway-quick.json" if chosen.quick else None
    write_result(
        "gateway", result, packages=("uvicorn", "uvloop", "httptools", "msgspec", "orjson", "hyperscan"), out=out
    )


def install_peers() -> None:
    """Make the environments that are missing."""
    if not (PEER / "bin" / "litellm").exists():
        install()
    NEMO.install()
    GUARDRAILS.install()


if __name__ == "__main__":
    main()
