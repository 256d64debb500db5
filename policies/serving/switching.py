"""Follows what is served: closes a desk whose proof ended, and puts the next release's desk in its place under load.

The next release is opened beside the running one and takes every request from one moment on; the desk it replaces keeps
what it has taken in, to its end. What cannot be opened changes nothing: the last good release stays as long as its own
certificate holds, and the next one is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from typing import Any, Protocol

from policies.endpoint.gateway import Gateway
from policies.endpoint.listener import resettle_memory
from policies.serving import proof
from policies.serving.aside import aside
from policies.serving.occurrences import Occurrences
from policies.serving.plan import Upkeep
from policies.serving.proof import Verified
from policies.serving.starting_desk import AnyFleet, Opening, OpenRelease
from policies.serving.steady import steady_now
from registry.errors import HallmarkError, Locked, Refused, Tampered
from registry.workspace import Workspace

log = logging.getLogger(__name__)

VERIFY_SECONDS = 15.0
POINTER_SECONDS = 1.0
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 300.0
DRAIN_LOOK_SECONDS = 0.05


class Host(Protocol):
    """The endpoint, as a follower needs it."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task that ends with the endpoint."""

    def attend(self, fleet: AnyFleet) -> None:
        """Supervise a fleet from now on."""

    def end(self) -> None:
        """End the endpoint; running requests get their time."""


class Follower:
    """Watches one alias or permit and the desk that serves it. Everything here runs on the event loop."""

    def __init__(
        self, ws: Workspace, gateway: Gateway, opening: Opening, opened: OpenRelease, upkeep: Upkeep, *,
        occurrences: Occurrences, host: Host,
    ) -> None:  # fmt: skip
        self.opened = opened
        self.leaving: set[OpenRelease] = set()
        """Replaced releases whose requests have not all ended."""
        self._ws, self._gateway, self._opening, self._upkeep = ws, gateway, opening, upkeep
        self._occurrences, self._host = occurrences, host
        self._now = asyncio.Event()
        self._failures = 0
        self._retry_at = 0.0
        self._stamp: Any = None

    # ---- when to look --------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Look for ever: when the pointer file changed, when time is up, when asked to, and every now and then."""
        self._note_expiry()
        while True:
            self._stamp = self._pointer()
            await self._look()
            await self._pause()
            if self._pointer() != self._stamp:
                self._retry_at = 0.0

    def look_now(self) -> None:
        """Look at once, also for a release that could not be opened."""
        self._retry_at = 0.0
        self._now.set()

    async def _pause(self) -> None:
        until = steady_now() + VERIFY_SECONDS
        deadline = self.opened.verified.deadline
        if "proof" not in self.opened.desk.closed:
            until = min(until, deadline + 0.05)
        if self._failures:
            until = min(until, max(self._retry_at, steady_now()))
        while (left := until - steady_now()) > 0 and self._pointer() == self._stamp:
            try:
                async with asyncio.timeout(min(left, POINTER_SECONDS)):
                    await self._now.wait()
            except TimeoutError:
                continue
            self._now.clear()
            return

    def _note_expiry(self) -> None:
        verified = self.opened.verified
        self._gateway.front.metrics.expires(self.opened.target.name, verified.expires.timestamp())

    def _pointer(self) -> Any:
        """Return what changes when the alias is moved."""
        if self.opened.target.alias is None:
            return None
        try:
            state = self._ws.pointer(self.opened.target.alias).stat()
        except OSError:
            return None
        return state.st_ino, state.st_mtime_ns, state.st_size

    # ---- what is found -------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        name = self.opened.target.name
        try:
            found = await aside(proof.verify, self._ws, self.opened.target)
        except (Refused, Tampered) as error:
            if not await aside(proof.last_good, self._ws, self.opened.target, self.opened.verified):
                await self._withdraw(error.message)
            elif steady_now() < self._retry_at:
                await self._still_good()
            else:
                await self._keep(error.message, None)
            return
        except Locked as error:
            log.warning("cannot verify `%s` now, trying again: %s", name, error)
            await self._check_time()
            return
        except Exception:  # what cannot be verified is not served
            log.exception("cannot verify `%s`", name)
            await self._withdraw("its proof cannot be verified")
            return
        if not found.same(self.opened.verified):
            await self._switch(found)
        elif await self._check_time():
            self._failures = 0
            await self._confirm()

    async def _check_time(self) -> bool:
        """Withdraw what is past its time by the clock that cannot be set; say whether it may go on."""
        if steady_now() < self.opened.verified.deadline:
            return True
        await self._withdraw(f"its time ended at {self.opened.verified.expires.isoformat(timespec='seconds')}")
        return False

    async def _withdraw(self, reason: str) -> None:
        """Refuse every request from now on; a permit's endpoint ends."""
        closed = self.opened.desk.closed
        if closed.get("proof") != reason:
            closed["proof"] = reason
            log.error("`%s` is withdrawn: %s", self.opened.target.name, reason)
            await self._tell("endpoint.closed", reason=reason)
        if self.opened.target.permit is not None:
            self._host.end()

    async def _confirm(self) -> None:
        """Take requests again after a withdrawal that has ended."""
        if self.opened.desk.closed.pop("proof", None) is not None:
            log.warning("`%s` holds again", self.opened.target.name)
            await self._tell("endpoint.reopened")

    async def _keep(self, why: str, found: Verified | None) -> None:
        """Stay with the last good release for now, while its own certificate holds."""
        self._failures += 1
        self._gateway.front.metrics.reloaded("release", worked=False)
        wait = min(LONGEST_RETRY_SECONDS, RETRY_SECONDS * 2.0 ** min(self._failures - 1, 16))
        self._retry_at = steady_now() + wait * (1.0 - 0.5 * random.random())  # noqa: S311 - jitter
        certificate = found.certificate if found is not None else ""
        log.error("`%s` stays with its last good release: %s", self.opened.target.name, why)
        kept = await aside(self._why_not)
        await self._tell("endpoint.switch_failed", certificate=certificate, reason=why, kept=not kept)
        if kept:
            await self._withdraw(kept)
        elif await self._check_time():
            await self._confirm()

    def _why_not(self) -> str:
        try:
            return proof.why_not(self._ws, self.opened.verified)
        except Locked:
            return self.opened.desk.closed.get("proof", "")
        except Exception:  # what cannot be verified is not served
            log.exception("cannot verify what `%s` serves", self.opened.target.name)
            return "its proof cannot be verified"

    # ---- from one release to the next ----------------------------------------------------------------------------

    async def _switch(self, found: Verified) -> None:
        """Open what the alias names now and let its desk take over."""
        if self._failures and steady_now() < self._retry_at:
            await self._still_good()
            return
        before = self.opened
        fleet: AnyFleet | None = before.fleet if before.fleet.fits(found.candidate) else None
        stops = fleet is None and self._upkeep.switch == "stop_first" and before.fleet.serves_only(before.desk)
        if stops:
            before.desk.closed["switch"] = "another release is being opened"
            await self._drained(before)
            await aside(before.fleet.pause)
        try:
            opened = await aside(self._opening.open, before.target, found, fleet)
        except Exception as error:  # noqa: BLE001 - whatever it was, the last good release stays
            reason = error.message if isinstance(error, HallmarkError) else f"{type(error).__name__}: {error}"
            if stops:
                before.fleet.resume()
                self._host.attend(before.fleet)
                before.desk.closed.pop("switch", None)
            await self._keep(reason, found)
            return
        await self._put_in_place(opened, before, kept_engine=fleet is not None)

    async def _still_good(self) -> None:
        """Between two attempts: is what is served still good?"""
        why = await aside(self._why_not)
        if why:
            await self._withdraw(why)
        elif await self._check_time():
            await self._confirm()

    async def _put_in_place(self, opened: OpenRelease, before: OpenRelease, *, kept_engine: bool) -> None:
        self.opened, self._failures = opened, 0
        opened.fleet.hold(opened.desk)
        if not kept_engine:
            self._host.attend(opened.fleet)
        self._gateway.open(opened.desk)
        self._note_expiry()
        self._gateway.front.metrics.reloaded("release", worked=True)
        self.leaving.add(before)
        self._host.spawn(self._retire(before))
        await self._tell(
            "endpoint.switched",
            candidate=opened.verified.candidate.id,
            certificate=opened.verified.certificate,
            bundle=opened.verified.candidate.bundle,
            before=before.verified.certificate,
            engine="kept" if kept_engine else "new",
        )
        self._now.set()  # opening took its time: the alias may have moved on, or the certificate been revoked

    async def _retire(self, release: OpenRelease) -> None:
        """Let the running requests of a replaced release end, then end what only it used."""
        await self._drained(release)
        last = release.fleet.let_go(release.desk)
        await aside(release.close)
        if last:
            release.fleet.upstream.close()
            await aside(self._opening.discard, release.fleet)
        self.leaving.discard(release)
        await aside(resettle_memory)

    async def _drained(self, release: OpenRelease) -> None:
        """Wait until a desk has no running request, or their time is over."""
        until = steady_now() + self._upkeep.drain_s
        while release.desk.active and steady_now() < until:
            await asyncio.sleep(DRAIN_LOOK_SECONDS)
        if release.desk.active:
            log.warning("%s requests to `%s` did not end in time", release.desk.active, release.target.name)

    async def _tell(self, kind: str, **facts: Any) -> None:
        facts.setdefault("certificate", self.opened.verified.certificate)
        await aside(lambda: self._occurrences.tell(kind, model=self.opened.target.name, **facts))
