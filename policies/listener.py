"""The listening side: a bound socket and uvicorn around an ASGI application, with background work on the same loop."""

from __future__ import annotations

import asyncio
import errno
import gc
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from registry.errors import Locked, Refused

log = logging.getLogger(__name__)

DRAIN_SECONDS = 30
IDLE_SECONDS = 75
YOUNG_OBJECTS = 20_000


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


@contextmanager
def settled_memory() -> Iterator[None]:
    """Enter once everything long-lived is loaded: the collector then looks at requests only, and less often."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


class Listener:
    """Serves an application until `stop`. `background` coroutines run beside it; one that fails stops the listener."""

    def __init__(
        self, application: Any, bound: socket.socket, *, drain_s: int = DRAIN_SECONDS,
        background: Sequence[Callable[[], Awaitable[None]]] = (), signals: bool = True,
    ) -> None:  # fmt: skip
        import uvicorn

        config = uvicorn.Config(
            application, loop="uvloop", http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, timeout_keep_alive=IDLE_SECONDS, timeout_graceful_shutdown=drain_s,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        if not signals:
            self._server.capture_signals = nullcontext
        self._bound, self._background = bound, background

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
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
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
