"""The fleet of an engine that somebody else runs: reached by URL, never started, never certified."""

from __future__ import annotations

import asyncio

from policies.endpoint.desk import Desk
from policies.engines.remote import RemoteEngine
from policies.serving.aside import aside
from policies.serving.occurrences import Occurrences
from policies.serving.plan import Remote, Upkeep
from registry.protocols import Progress, silent
from registry.records import Candidate

PROBE_SECONDS = 5.0


class RemoteFleet:
    """Stands where a `Fleet` does. It can be asked for any candidate, and proves none."""

    def __init__(self, remote: Remote, upkeep: Upkeep, occurrences: Occurrences) -> None:
        self.handle = RemoteEngine(remote.url, remote.api_key_env)
        self.upstream = self.handle.upstream()
        self.surfaces = self.handle.surfaces
        self._upkeep, self._occurrences = upkeep, occurrences
        self._desks: set[Desk] = set()

    def fits(self, candidate: Candidate) -> bool:
        """Say that it answers for a candidate: for every one, and for none as proven."""
        return True

    def begin(self, progress: Progress = silent) -> None:
        """Do nothing: it is running, or not."""

    def await_ready(self, progress: Progress = silent) -> None:
        """Wait until it answers; raises EngineFailure."""
        self.handle.wait_ready(self._upkeep.ready_s, progress)

    def hold(self, desk: Desk) -> None:
        """Seat a desk here."""
        self._desks.add(desk)

    def let_go(self, desk: Desk) -> bool:
        """Unseat a desk; return whether it was the last one."""
        self._desks.discard(desk)
        return not self._desks

    async def attend(self) -> None:
        """Close the desks while it does not answer; to be cancelled."""
        up = True
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            answers = await aside(self.handle.alive)
            for desk in self._desks:
                if answers:
                    desk.closed.pop("engine", None)
                else:
                    desk.closed["engine"] = "the remote engine does not answer"
            if answers != up:
                up = answers
                kind = "engine.restarted" if up else "engine.stopped"
                await aside(lambda kind=kind: self._occurrences.tell(kind, engine=self.handle.version))

    def again(self) -> None:
        """Do nothing: it is asked again every few seconds."""

    def serves_only(self, desk: Desk) -> bool:
        """Say whether no other desk is seated here."""
        return self._desks == {desk}

    def pause(self) -> None:
        """Do nothing: it takes no memory here."""

    def resume(self) -> None:
        """Do nothing, as `pause` did."""

    def close(self) -> None:
        """Do nothing: it belongs to somebody else."""
