"""Keeps one engine running: notices that it ended or hangs, starts it again, and knows when to give up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from policies.serving.aside import aside
from policies.serving.plan import Upkeep
from policies.serving.steady import steady_now

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
STEADY_SECONDS = 60.0
"""An engine that ran so long starts its count of failures anew."""


class Engine(Protocol):
    """A started engine (engines.EngineHandle is one)."""

    def alive(self) -> bool:
        """Say whether it runs."""

    def stop(self) -> None:
        """End it; repeating it is harmless."""


class Watcher(Protocol):
    """Who is told how an engine fares. Called on the event loop."""

    def down(self, why: str) -> None:
        """The engine is gone; nothing may be asked of it."""

    def up(self, attempts: int, seconds: float) -> None:
        """It answers again, after so many attempts and seconds."""

    def failed(self, attempt: int, why: str) -> None:
        """An attempt to start it failed."""

    def gave_up(self, attempts: int, why: str) -> None:
        """It was started too often in a row; only `again` starts it now."""


class Supervisor:
    """One engine, from its first start to `close`. `start` verifies what is loaded, and waits until it answers."""

    def __init__(
        self, engine: Engine, uds: Path, start: Callable[[], Engine], upkeep: Upkeep, watcher: Watcher
    ) -> None:
        self.engine, self.uds = engine, uds
        self._start, self._upkeep, self._watcher = start, upkeep, watcher
        self._again = asyncio.Event()
        self._closed = False
        self._failures = 0

    async def attend(self) -> None:
        """Watch the engine until `close`, or until cancelled."""
        while True:
            begun = steady_now()
            why = await self._lost()
            if self._closed:
                return
            self._watcher.down(why)
            await aside(self.engine.stop)
            if steady_now() - begun > STEADY_SECONDS:
                self._failures = 0
            await self._revive(why)

    def again(self) -> None:
        """Try once more at once, also after having given up."""
        self._failures = 0
        self._again.set()

    def close(self) -> None:
        """End the engine, also one that is just starting. Blocks; may be called from any thread."""
        self._closed = True
        self.engine.stop()

    def reopen(self) -> None:
        """Undo `close`: `attend` starts the engine again."""
        self._closed, self._failures = False, 0

    async def _lost(self) -> str:
        """Return why the engine counts as gone, once it does."""
        probed = steady_now()
        with exit_of(getattr(self.engine, "pid", 0)) as ended:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await ended.wait()
                if not self.engine.alive():
                    return "it ended"
                if steady_now() - probed < self._upkeep.probe_s:
                    continue
                if not await self._answers():
                    late = f"it did not answer within {self._upkeep.probe_deadline_s:g} s"
                    return late if self.engine.alive() else "it ended"
                probed = steady_now()

    async def _answers(self) -> bool:
        """Say whether the engine answers a probe before the deadline, or at least has not ended until then."""
        try:
            async with asyncio.timeout(self._upkeep.probe_deadline_s):
                while self.engine.alive():
                    if await probe(self.uds):
                        return True
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            pass
        return False

    async def _revive(self, why: str) -> None:
        """Start the engine until it answers."""
        begun, attempts = steady_now(), 0
        while True:
            if self._failures >= self._upkeep.restart_limit:
                self._watcher.gave_up(attempts, why)
                await self._asked_again(math.inf)
            await self._asked_again(pause_seconds(self._upkeep, self._failures, random.random()))  # noqa: S311 - jitter
            if self._over():
                return
            self._failures += 1
            attempts += 1
            try:
                self.engine = await aside(self._begin)
            except Exception as error:  # noqa: BLE001 - whatever it was, the engine is down and is tried again
                if self._over():
                    return
                why = str(error)
                log.warning("the engine did not start again: %s", why)
                self._watcher.failed(attempts, why)
                continue
            self._watcher.up(attempts, steady_now() - begun)
            return

    def _over(self) -> bool:
        return self._closed

    def _begin(self) -> Engine:
        engine = self._start()
        if self._closed:  # the endpoint ended while this engine was starting
            engine.stop()
        return engine

    async def _asked_again(self, seconds: float) -> None:
        """Wait so long, or until `again` or `close`."""
        self._again.clear()
        until = steady_now() + seconds
        while not self._closed and not self._again.is_set() and (left := until - steady_now()) > 0:
            try:
                async with asyncio.timeout(min(left, 0.5)):
                    await self._again.wait()
            except TimeoutError:
                continue


@contextlib.contextmanager
def exit_of(pid: int) -> Iterator[asyncio.Event]:
    """Yield an event that is set the moment a process ends; never for 0, or where the kernel does not tell."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(pid) if pid else None
    except OSError:
        descriptor = None
    if descriptor is None:
        yield ended
        return

    def note() -> None:
        loop.remove_reader(descriptor)
        ended.set()

    loop.add_reader(descriptor, note)
    try:
        yield ended
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def pause_seconds(upkeep: Upkeep, failures: int, chance: float) -> float:
    """Return the seconds before an attempt: doubled with each failure in a row, less up to half by `chance` (0 to 1).

    Source: "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), there "equal jitter".
    """
    whole = min(upkeep.restart_longest_s, upkeep.restart_wait_s * 2.0 ** min(failures, 32))
    return whole * (1.0 - 0.5 * chance)


async def probe(uds: Path) -> bool:
    """Say whether the engine at a Unix socket answers that it is well."""
    writer = None
    try:
        reader, writer = await asyncio.open_unix_connection(str(uds))
        writer.write(b"GET /health HTTP/1.1\r\nhost: engine\r\nconnection: close\r\n\r\n")
        line = await reader.readline()
    except OSError:
        return False
    finally:
        if writer is not None:
            writer.close()
    return line.split(b" ")[1:2] == [b"200"]
