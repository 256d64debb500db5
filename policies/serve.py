"""Serves releases, or a candidate under an evaluation permit, until it is told to stop.

Nothing is served that was not verified on this start, and it is verified again while it serves. `Endpoint` does the
same in a child process, for an evaluation.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from policies.access.credentials import tls_of
from policies.endpoint.desk import Front
from policies.endpoint.gateway import Gateway
from policies.endpoint.listener import Listener, bind, settled_memory, url_of
from policies.serving import proof
from policies.serving.aside import finish
from policies.serving.assembly import front_of, own_version
from policies.serving.child import Endpoint
from policies.serving.fleet import Fleet
from policies.serving.occurrences import Occurrences
from policies.serving.operations import admin_of, admin_socket, renew_certificate
from policies.serving.plan import UNVERIFIED, Plan, check_plan
from policies.serving.scratch import claim_scratch
from policies.serving.signals import Signals
from policies.serving.starting_desk import AnyFleet, Opening, OpenRelease
from policies.serving.switching import Follower
from policies.serving.systemd import Notifier, inherited_socket
from registry.errors import EngineFailure, Refused, Tampered
from registry.protocols import Progress, silent
from registry.workspace import Workspace

log = logging.getLogger(__name__)

CALLERS_SECONDS = 3.0
LEFT_SECONDS = 30.0


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
        EngineFailure: the engine did not start; or it kept failing, and the plan says that the endpoint then ends.
    """
    run(ws, Plan(alias, permit, engine, host, port), progress, on_ready)


def run(ws: Workspace, plan: Plan, progress: Progress = silent, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve a plan; raises as `serve` does. A start refused for its proof is recorded as `endpoint.refused`."""
    check_plan(plan)
    with Signals() as signals, ExitStack() as stack:
        bound = inherited_socket() or bind(plan.host, plan.port)
        stack.callback(bound.close)
        doors = Doors(bound, tls_of(ws.settings), admin_socket(ws.settings, stack)) if plan.operations else Doors(bound)
        try:
            found = [(target, proof.verify(ws, target)) for target in plan.targets]
            occurrences = Occurrences(ws, plan.name)
            scratch = stack.enter_context(claim_scratch(ws.work("serve")))
            opening = Opening(ws, plan, scratch, occurrences)
            stack.callback(opening.close)
            opened = opening.open_all(found, progress)
            for release in opened:
                stack.callback(release.close)
            front = front_of(ws, plan, stack)
            stack.enter_context(settled_memory())
        except (Refused, Tampered) as error:
            ws.record("endpoint.refused", plan.name, {"reason": error.message}, actor=f"endpoint:{plan.name}")
            raise
        RunningEndpoint(ws, plan, front, opening, opened, occurrences).serve(doors, signals, on_ready)


@dataclass(frozen=True, slots=True)
class Doors:
    """Where requests come in: the main socket, with or without TLS, and the admin port's."""

    main: socket.socket
    tls: ssl.SSLContext | None = None
    admin: socket.socket | None = None

    @property
    def url(self) -> str:
        """The endpoint's address."""
        plain = url_of(self.main)
        return plain if self.tls is None else plain.replace("http:", "https:", 1)


class RunningEndpoint:
    """Desks and their gateway, ready to listen; watches engines, callers and releases while it does."""

    def __init__(
        self, ws: Workspace, plan: Plan, front: Front, opening: Opening, opened: list[OpenRelease],
        occurrences: Occurrences,
    ) -> None:  # fmt: skip
        self._ws, self._plan, self._front, self._opening, self._occurrences = ws, plan, front, opening, occurrences
        self._gateway = Gateway(front, [release.desk for release in opened])
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure = ""
        self._notifier = Notifier()
        self._tls: ssl.SSLContext | None = None
        self._listener: Listener
        self._loop: asyncio.AbstractEventLoop
        self.followers = [
            Follower(
                ws, self._gateway, opening, release, plan.upkeep, occurrences=occurrences, host=self
            )
            for release in opened
        ]  # fmt: skip

    def serve(self, doors: Doors, signals: Signals, on_ready: Callable[[str], None] | None) -> None:
        """Listen until stopped, then write what is left of the decision log."""
        self._tls = doors.tls
        url, actor = doors.url, f"endpoint:{self._plan.name}"
        work = [self._watch, self._watch_callers, lambda: self._announce(url, on_ready)]
        if doors.admin is not None:
            work.append(admin_of(self._gateway, doors.admin).answer)
        drain_s = round(self._plan.upkeep.drain_s)
        self._listener = Listener(
            self._gateway, doors.main, tls=doors.tls, drain_s=drain_s, background=work, signals=False
        )
        self._ws.record("endpoint.started", self._plan.name, self._facts(url), actor=actor)
        signals.hand_over(self.end, self._listener.cut, self._look_now)
        try:
            self._listener.run()
        finally:
            self._notifier.stopping()
            drained = self._front.decisions.close()
            facts = {"decisions": self._front.metrics.decided, "drained": drained}
            self._ws.record("endpoint.stopped", self._plan.name, facts, actor=actor)
            for follower in self.followers:
                for release in (follower.opened, *follower.leaving):
                    release.close()
            self._opening.close()
            if not finish(LEFT_SECONDS):
                log.warning("work beside the endpoint did not end in time")
        if self._failure:
            raise EngineFailure(f"the engine keeps failing: {self._failure}", hint="its log is in `work/logs`")

    def _facts(self, url: str) -> dict[str, Any]:
        first = self.followers[0].opened
        served, handle = first.desk.served, first.fleet.handle
        facts: dict[str, Any] = {
            "url": url,
            "candidate": served.candidate,
            "certificate": served.certificate,
            "bundle": served.bundle,
            "engine": UNVERIFIED if self._plan.remote else first.verified.candidate.engine,
            "engine_version": own_version(handle),
            "packages": handle.version,
            "permit": self._plan.permit or "",
        }
        others = [follower.opened.desk.served for follower in self.followers[1:]]
        if others:
            facts["also"] = [
                {"model": one.model, "candidate": one.candidate, "certificate": one.certificate, "bundle": one.bundle}
                for one in others
            ]
        return facts

    # ---- work on the event loop ----------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Supervise engines, follow releases and feed the watchdog, until cancelled."""
        self._loop = asyncio.get_running_loop()
        for fleet in self._opening.fleets:
            self.attend(fleet)
        for follower in self.followers:
            self.spawn(follower.follow())
        self.spawn(self._notifier.feed())
        try:
            await asyncio.Event().wait()
        finally:
            for task in self._tasks:
                task.cancel()

    def attend(self, fleet: AnyFleet) -> None:
        """Supervise a fleet from now on."""
        if isinstance(fleet, Fleet):
            fleet.on_restart, fleet.on_end = self._front.metrics.restarted, self._fail
        self.spawn(fleet.attend())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task that ends with the endpoint; one that fails ends the endpoint."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work of the endpoint failed: stopping", exc_info=error)
            self.end()

    async def _watch_callers(self) -> None:
        """Notice new and revoked keys."""
        while True:
            await asyncio.sleep(CALLERS_SECONDS)
            if not await asyncio.to_thread(self._front.callers.reload):
                self._front.metrics.reloaded("callers", worked=False)

    async def _announce(self, url: str, on_ready: Callable[[str], None] | None) -> None:
        while not self._listener.started:
            await asyncio.sleep(0.005)
        self._notifier.ready(f"serving {', '.join(target.name for target in self._plan.targets)} at {url}")
        if on_ready is not None:
            on_ready(url)

    # ---- from outside --------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Be ready for nothing new, and let running requests end."""
        self._front.ending = True
        self._notifier.stopping()
        self._listener.stop()

    def _fail(self, why: str) -> None:
        self._failure = why
        self.end()

    def _look_now(self) -> None:
        """Look at releases, engines and the TLS certificate at once (SIGHUP)."""
        self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        self._notifier.reloading()
        if self._tls is not None:
            self._front.metrics.reloaded("tls", worked=renew_certificate(self._ws.settings, self._tls))
        for follower in self.followers:
            follower.look_now()
        for fleet in self._opening.fleets:
            fleet.again()
        self._notifier.ready("looked again")


__all__ = ["Endpoint", "Plan", "run", "serve"]

if __name__ == "__main__":
    from policies.serving.child import main

    main()
