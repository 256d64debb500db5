"""Serves a release, or a candidate under an evaluation permit, until it is told to stop.

Nothing is served that was not verified on this start, and it is verified again while it serves. `Endpoint` does the
same in a child process, for an evaluation.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Any

from policies.assembly import Plan, Verified, assemble, check_plan, own_version, verify
from policies.child import Endpoint
from policies.gateway import Gateway
from policies.listener import Listener, bind, settled_memory, url_of
from registry.errors import Locked, Refused, Tampered
from registry.protocols import Progress, silent
from registry.workspace import Workspace

if TYPE_CHECKING:
    from policies.engines import EngineHandle

log = logging.getLogger(__name__)

POLL_SECONDS, CALLERS_SECONDS, VERIFY_SECONDS = 0.5, 3.0, 15.0


def serve(
    ws: Workspace, *, alias: str | None = None, permit: str | None = None, engine: str = "auto",
    host: str = "127.0.0.1", port: int = 0, progress: Progress = silent,
    on_ready: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Serve until SIGTERM or SIGINT, then let running requests end. `on_ready` gets `http://<host>:<port>`.

    Raises:
        SpecError: neither or both of alias and permit are named.
        NotFound: no such alias or permit.
        Refused: certificate or permit does not hold, another engine than the certified one, a permit off loopback.
        Tampered: a file of weights or bundle is not what was certified; names it.
        Locked: the port is taken.
        EngineFailure: the engine did not start, or stopped.
    """
    run(ws, Plan(alias, permit, engine, host, port), progress, on_ready)


def run(ws: Workspace, plan: Plan, progress: Progress = silent, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve a plan; raises as `serve` does. A start refused for its proof is recorded as `endpoint.refused`."""
    check_plan(plan)
    with _Signals() as signals, ExitStack() as stack:
        bound = bind(plan.host, plan.port)
        stack.callback(bound.close)
        try:
            verified = verify(ws, plan)
            gateway, handle = assemble(ws, plan, verified, stack, progress)
            stack.enter_context(settled_memory())
        except (Refused, Tampered) as error:
            ws.record("endpoint.refused", plan.name, {"reason": error.message}, actor=f"endpoint:{plan.name}")
            raise
        RunningEndpoint(ws, plan, gateway, handle, verified).serve(bound, signals, on_ready)


class RunningEndpoint:
    """An engine and its gateway, ready to listen; watches engine, callers and certificate while it does."""

    def __init__(self, ws: Workspace, plan: Plan, gateway: Gateway, handle: EngineHandle, verified: Verified) -> None:
        self._ws, self._plan, self._gateway, self._handle, self._verified = ws, plan, gateway, handle, verified
        self._listener: Listener | None = None

    def serve(self, bound: Any, signals: _Signals, on_ready: Callable[[str], None] | None) -> None:
        """Listen until stopped, then write what is left of the decision log."""
        url, actor = url_of(bound), f"endpoint:{self._plan.name}"
        work = [self._watch_engine, self._watch_callers, self._watch_proof]
        if on_ready is not None:
            work.append(lambda: _announce(listener, url, on_ready))
        listener = self._listener = Listener(self._gateway, bound, background=work)
        served = self._gateway.desks[0].served
        facts = {"url": url, "candidate": served.candidate, "certificate": served.certificate, "bundle": served.bundle,
                 "engine": self._verified.candidate.engine, "engine_version": own_version(self._handle),
                 "packages": self._handle.version, "permit": self._plan.permit or ""}  # fmt: skip
        self._ws.record("endpoint.started", self._plan.name, facts, actor=actor)
        signals.hand_over(listener.stop)
        try:
            listener.run()
        finally:
            drained = self._gateway.front.decisions.close()
            decided = self._gateway.front.metrics.decided
            self._ws.record(
                "endpoint.stopped", self._plan.name, {"decisions": decided, "drained": drained}, actor=actor
            )

    async def _watch_engine(self) -> None:
        """Refuse requests from the moment the engine is gone."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._handle.alive():
                self._gateway.desks[0].closed["engine"] = "the engine has stopped"
                log.error("the engine of `%s` has stopped: every request is refused", self._plan.name)
                return

    async def _watch_callers(self) -> None:
        """Notice new and revoked keys."""
        while True:
            await asyncio.sleep(CALLERS_SECONDS)
            await asyncio.to_thread(self._gateway.front.callers.reload)

    async def _watch_proof(self) -> None:
        """Close the endpoint when its certificate stops holding or names something else, or its permit ends."""
        while True:
            left = VERIFY_SECONDS
            if self._verified.expires is not None:
                left = min(left, (self._verified.expires - datetime.now(UTC)).total_seconds() + 0.05)
            await asyncio.sleep(max(0.1, left))
            reason = await asyncio.to_thread(self._withdrawn)
            if not reason:
                self._gateway.desks[0].closed.pop("proof", None)
                continue
            self._gateway.desks[0].closed["proof"] = reason
            log.error("`%s` is withdrawn: %s", self._plan.name, reason)
            if self._plan.permit is not None and self._listener is not None:
                self._listener.stop()
                return

    def _withdrawn(self) -> str:
        """Return why what is served may no longer be, or ``."""
        try:
            now = verify(self._ws, self._plan)
        except (Refused, Tampered) as error:
            return error.message
        except Locked as error:
            log.warning("cannot verify `%s` now, trying again: %s", self._plan.name, error)
            return self._gateway.desks[0].closed.get("proof", "")
        except Exception:  # what cannot be verified is not served
            log.exception("cannot verify `%s`", self._plan.name)
            return "its proof cannot be verified"
        if (now.candidate.id, now.certificate) != (self._verified.candidate.id, self._verified.certificate):
            return f"`{self._plan.name}` now names another release: restart the endpoint"
        return ""


class _Signals:
    """SIGTERM and SIGINT: before `hand_over` they end the start, after it they call what was handed over."""

    def __init__(self) -> None:
        self._then: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def hand_over(self, then: Callable[[], None]) -> None:
        """From now on a signal calls `then`."""
        self._then = then

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return kind is _StopBeforeStart

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._then is None:
            self._then = lambda: None  # a second signal must not interrupt the cleaning up
            raise _StopBeforeStart
        self._then()


class _StopBeforeStart(BaseException):
    """A signal came while the endpoint was starting: everything is undone, and serving ends without an error."""


async def _announce(listener: Listener, url: str, on_ready: Callable[[str], None]) -> None:
    while not listener.started:
        await asyncio.sleep(0.005)
    on_ready(url)


__all__ = ["Endpoint", "Plan", "run", "serve"]

if __name__ == "__main__":
    from policies.child import main

    main()
