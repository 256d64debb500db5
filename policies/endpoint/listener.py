"""The listening side: a bound socket and uvicorn around an ASGI application, with background work on the same loop."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import ipaddress
import logging
import resource
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from policies.endpoint.edge import Edge
from registry.errors import Locked, Refused

log = logging.getLogger(__name__)

DRAIN_SECONDS = 30
YOUNG_OBJECTS = 20_000
SPARE_DESCRIPTORS = 256
"""File descriptors kept back from callers' connections: for the engine, the journal, and whatever else is opened."""
MOST_DESCRIPTORS = 65_536


def is_loopback(host: str) -> bool:
    """Say whether an address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket; port 0 takes a free one. Raises Locked (port taken) or Refused (may not be bound)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(1024)  # from here on nobody else gets the port, however long the engine takes
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            hint = "choose another with `--port N`, or `--port 0` for any free one"
            raise Locked(f"port {port} on {host} is taken", hint=hint) from None
        why = error.strerror or str(error)
        raise Refused(
            f"cannot listen on {host} port {port}: {why}", hint="choose another `--host` or `--port`"
        ) from None
    return bound


def url_of(bound: socket.socket) -> str:
    """Return `http://<host>:<port>` of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _descriptors() -> int:
    """Return how many file descriptors this process may open, raised to what it is allowed to raise it to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


@contextmanager
def settled_memory() -> Iterator[None]:
    """Enter once everything long-lived is loaded: the collector then looks at requests only, and less often."""
    before = gc.get_threshold()
    gc.collect()
    _trim()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _trim() -> None:
    """Give freed memory back to the system, where the C library can: compiling rules leaves much of it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resettle_memory() -> None:
    """Free what a replaced release left behind, which `settled_memory` had set aside; takes a moment, once a switch."""
    if gc.get_freeze_count():
        gc.unfreeze()
        gc.collect()
        gc.freeze()


class Listener:
    """Serves an application until `stop`. `background` coroutines run beside it; one that fails stops the listener.

    With `tls` it speaks HTTPS only, and a verified client certificate is in the scope as the ASGI TLS extension says.
    `edge` limits the connections; without it, the application's own `edge` does.
    """

    def __init__(
        self, application: Any, bound: socket.socket, *, drain_s: int = DRAIN_SECONDS,
        background: Sequence[Callable[[], Awaitable[None]]] = (), tls: ssl.SSLContext | None = None,
        signals: bool = True, edge: Edge | None = None,
    ) -> None:  # fmt: skip
        import uvicorn

        from policies.endpoint.connection import connection_kind

        self.edge = edge or getattr(application, "edge", None) or Edge()
        self.edge.fit(_descriptors() - SPARE_DESCRIPTORS)
        config = uvicorn.Config(
            application, loop="uvloop", http=connection_kind(self.edge), ws="none", lifespan="off", log_config=None,
            access_log=False, proxy_headers=False, server_header=False, timeout_graceful_shutdown=drain_s,
        )  # fmt: skip
        config.load()
        config.ssl = tls
        self._server = uvicorn.Server(config)
        if not signals:
            self._server.capture_signals = nullcontext
        self._bound, self._background = bound, [self.edge.watch, *background]

    @property
    def started(self) -> bool:
        """Whether requests are answered."""
        return bool(self._server.started)

    def stop(self) -> None:
        """Stop accepting, let running requests end within the drain time, then return from `run`. Thread-safe."""
        self._server.should_exit = True

    def cut(self) -> None:
        """After `stop`: cancel the requests that still run, instead of waiting for them. Thread-safe."""
        self._server.should_exit = self._server.force_exit = True

    def run(self) -> None:
        """Block until stopped, by `stop` or, with `signals` and in the main thread, by SIGINT or SIGTERM."""
        with asyncio.Runner(loop_factory=self._new_loop) as runner:
            runner.run(self.answer())

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        """Return an event loop on which a TLS handshake takes no longer than it may."""
        import uvloop

        seconds = self.edge.limits.handshake_s

        class Loop(uvloop.Loop):
            async def create_server(self, *given: Any, **named: Any) -> Any:
                if named.get("ssl"):
                    named["ssl_handshake_timeout"] = seconds
                return await super().create_server(*given, **named)

        return Loop()

    async def answer(self) -> None:
        """Listen on the running event loop, until stopped or cancelled."""
        tasks = [asyncio.ensure_future(self._watched(work)) for work in self._background]
        try:
            await self._server.serve(sockets=[self._bound])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watched(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:
            log.exception("background work of the endpoint failed: stopping")
            self.stop()
            raise
