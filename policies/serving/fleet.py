"""The replicas of one engine on one private, verified copy of weights and adapters, and the way to reach them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.endpoint.desk import Desk
from policies.endpoint.upstream import Pool, Upstream
from policies.serving.occurrences import Occurrences
from policies.serving.plan import Plan, Upkeep
from policies.serving.scratch import socket_folder
from policies.serving.supervisor import Supervisor
from registry.errors import EngineFailure, Refused, Tampered
from registry.protocols import Progress, silent
from registry.records import Candidate
from registry.workspace import Workspace

if TYPE_CHECKING:
    from policies.engines import EngineHandle
    from policies.engines.remote import RemoteEngine

log = logging.getLogger(__name__)

ENGINE_MODEL = "engine"
NONE = "none"


@dataclass(frozen=True, slots=True)
class Build:
    """What decides how an engine is started: two candidates with the same build can share one.

    `adapters` are manifest ids; an engine answers for each under `adapter_name`, and for the bare weights under
    `ENGINE_MODEL`.
    """

    kind: str
    version: str
    weights: str
    quantisation: str
    adapters: frozenset[str] = frozenset()
    options: Mapping[str, Any] = field(default_factory=dict)

    def shares_base(self, candidate: Candidate) -> bool:
        """Say whether a candidate stands on the same weights in the same engine, whatever its adapter."""
        made = (self.kind, self.version, self.weights, self.quantisation)
        return made == (candidate.engine, candidate.engine_version, candidate.weights, candidate.quantisation)

    def fits(self, candidate: Candidate) -> bool:
        """Say whether an engine of this build answers for a candidate as it was proven."""
        return self.shares_base(candidate) and (candidate.adapter == NONE or candidate.adapter in self.adapters)

    def with_adapters(self, adapters: Iterable[str]) -> Build:
        """Return the same build with adapters."""
        return replace(self, adapters=frozenset(adapters))

    def start_options(self, adapters: Mapping[str, Path]) -> dict[str, Any]:
        """Return the options that the engine is started with."""
        found = dict(self.options)
        if self.quantisation != NONE:
            found["quantisation"] = self.quantisation
        if adapters:
            found["adapters"] = dict(adapters)
        return found


def adapter_name(manifest: str) -> str:
    """Return the name that an engine knows an adapter by; `ENGINE_MODEL` for none."""
    return ENGINE_MODEL if manifest == NONE else f"adapter-{manifest.removeprefix('sha256:')[:16]}"


class Fleet:
    """`begin`, then `await_ready`; `attend` supervises on the event loop; the last `let_go` closes it.

    `folder` is private to this fleet. Every desk that is seated here is closed while no replica answers.
    """

    def __init__(self, ws: Workspace, plan: Plan, build: Build, folder: Path, occurrences: Occurrences) -> None:
        self.build = build
        self.desks: set[Desk] = set()
        self.on_restart: Callable[[str], None] = lambda model: None
        """Called for each model whose engine was started again."""
        self.on_end: Callable[[str], None] = lambda why: None
        """Called when an engine is given up and the plan says that the endpoint then ends."""
        self.folder = folder
        self._ws, self._plan, self._occurrences = ws, plan, occurrences
        self._stack = ExitStack()
        self._handles: list[EngineHandle] = []
        self._crew: list[_Replica] = []
        self._weights, self._adapters = folder / "weights", dict[str, Path]()
        self._copies = 0
        self._closed = False
        self.upstream: Upstream | Pool

    @property
    def upkeep(self) -> Upkeep:
        """How its engines are looked after."""
        return self._plan.upkeep

    @property
    def weights(self) -> Path:
        """The verified copy of the weights' folder."""
        return self._weights

    @property
    def handle(self) -> EngineHandle:
        """The first replica's engine."""
        return self._handles[0]

    @property
    def surfaces(self) -> frozenset[str]:
        """What its engine answers."""
        return self.handle.surfaces

    def fits(self, candidate: Candidate) -> bool:
        """Say whether it answers for a candidate as it was proven."""
        return self.build.fits(candidate)

    # ---- start ---------------------------------------------------------------------------------------------------

    def begin(self, progress: Progress = silent) -> None:
        """Copy and verify, start the engines, and return at once. Raises Tampered, Refused, NotFound, SpecError."""
        progress("verify weights", 0, 1, self.build.weights[:19])
        self._copy()
        progress("verify weights", 1, 1, self.build.weights[:19])
        sockets = self._stack.enter_context(socket_folder())
        places = [sockets / ("engine.sock" if index == 0 else f"engine-{index}.sock")
                  for index in range(self.upkeep.replicas)]  # fmt: skip
        for index, uds in enumerate(places):
            if self._closed:
                raise EngineFailure("the endpoint is ending", hint="start it again")
            self._handles.append(self._launch(index, uds))
        upstreams = [Upstream(uds) for uds in places]
        self.upstream = upstreams[0] if len(upstreams) == 1 else Pool(upstreams)
        self._crew = [_Replica(self, index, uds) for index, uds in enumerate(places)]

    def await_ready(self, progress: Progress = silent) -> None:
        """Wait until every replica answers, is the proven version, and has loaded what was verified.

        Raises EngineFailure, Refused, Tampered.
        """
        for handle in self._handles:
            handle.wait_ready(self.upkeep.ready_s, progress)
            self._check_version(handle)
        self.check_copies()

    def check_copies(self) -> None:
        """Raise Tampered when a private copy is not what was verified any more."""
        check_copies(self._ws, {self.build.weights: self._weights, **self._adapters})

    def start_again(self, index: int, uds: Path) -> EngineHandle:
        """Start one replica anew, on bytes verified before and after; blocks. Raises as `begin` and `await_ready`."""
        try:
            self.check_copies()
        except Tampered:
            self._copy()  # somebody wrote there: this attempt fails and says so, the next one has a fresh copy
            raise
        handle = self._handles[index] = self._launch(index, uds)
        try:
            if not self._closed:
                handle.wait_ready(self.upkeep.ready_s)
                self._check_version(handle)
                self.check_copies()
        except BaseException:
            handle.stop()
            raise
        if self._closed:
            handle.stop()
        return handle

    # ---- running -------------------------------------------------------------------------------------------------

    def hold(self, desk: Desk) -> None:
        """Seat a desk here."""
        self.desks.add(desk)
        self._tell_desks()

    def let_go(self, desk: Desk) -> bool:
        """Unseat a desk; return whether it was the last one, so that the fleet may be closed."""
        self.desks.discard(desk)
        return not self.desks

    async def attend(self) -> None:
        """Supervise every replica for ever; to be cancelled."""
        async with asyncio.TaskGroup() as group:
            for replica in self._crew:
                group.create_task(replica.supervisor.attend())

    def again(self) -> None:
        """Let replicas that are down try at once."""
        for replica in self._crew:
            replica.supervisor.again()

    def serves_only(self, desk: Desk) -> bool:
        """Say whether no other desk is seated here."""
        return self.desks == {desk}

    def pause(self) -> None:
        """End the engines for now, to make room; `resume`, then `attend`, starts them again. Blocks."""
        for replica in self._crew:
            replica.supervisor.close()

    def resume(self) -> None:
        """Let `attend` start the engines again; desks are closed until one answers."""
        for replica in self._crew:
            replica.supervisor.reopen()
            replica.healthy, replica.why = False, "the engine is being started again"
        self._tell_desks()

    def close(self) -> None:
        """End the engines and remove the sockets; the folder is the owner's. Blocks; any thread."""
        self._closed = True
        for replica in self._crew:
            replica.supervisor.close()
        for handle in self._handles:
            handle.stop()
        self._stack.close()

    def _tell_desks(self) -> None:
        """Close the desks while no replica answers."""
        up = any(replica.healthy for replica in self._crew)
        why = next((replica.why for replica in self._crew if not replica.healthy), "")
        for desk in self.desks:
            if up:
                desk.closed.pop("engine", None)
            else:
                desk.closed["engine"] = why

    def fared(self, replica: _Replica) -> None:
        """Take note of a replica that went down or came up."""
        if isinstance(self.upstream, Pool):
            self.upstream.mark(replica.uds, replica.healthy)
        elif not replica.healthy:
            self.upstream.close()
        self._tell_desks()

    def say(self, kind: str, replica: int, **facts: Any) -> None:
        """Record what happened to a replica, beside the event loop."""
        models = sorted(desk.served.model for desk in self.desks)
        told = {"engine": self.build.kind, "replica": replica, "models": models, **facts}
        asyncio.get_running_loop().run_in_executor(None, lambda: self._occurrences.tell(kind, **told))

    def ended(self, why: str) -> None:
        """End the endpoint if no replica is left and the plan says so."""
        if self.upkeep.engine_down == "stop" and all(replica.given_up for replica in self._crew):
            self.on_end(why)

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _copy(self) -> None:
        """Take a verified private copy of weights and adapters."""
        self._copies += 1
        root = self.folder if self._copies == 1 else self.folder / f"copy-{self._copies}"
        self._weights = self._ws.artifacts.checkout(self.build.weights, root / "weights")
        self._adapters = {
            manifest: self._ws.artifacts.checkout(manifest, root / "adapters" / adapter_name(manifest))
            for manifest in sorted(self.build.adapters)
        }

    def _launch(self, index: int, uds: Path) -> EngineHandle:
        from policies import engines

        name = self._plan.name.replace("/", "-") + ("" if index == 0 else f"-{index}")
        adapters = {adapter_name(manifest): folder for manifest, folder in self._adapters.items()}
        return engines.start(
            self.build.kind, self._weights, uds, served_name=ENGINE_MODEL,
            log=self._ws.work("logs") / f"engine-{name}.log", options=self.build.start_options(adapters),
        )  # fmt: skip

    def _check_version(self, handle: EngineHandle) -> None:
        """Refuse another version of the engine than the proven one."""
        if self.build.version not in (own_version(handle), handle.version):
            raise Refused(
                f"engine `{self.build.kind}` is version {handle.version}, the candidate was proven with "
                f"{self.build.version}",
                hint="install the version it was proven with, or evaluate the candidate again",
            )


class _Replica:
    """One engine of a fleet, as its supervisor reports of it."""

    def __init__(self, fleet: Fleet, index: int, uds: Path) -> None:
        self.fleet, self.index, self.uds = fleet, index, uds
        self.healthy, self.given_up, self.why = True, False, ""
        self.supervisor = Supervisor(
            fleet._handles[index], uds, lambda: fleet.start_again(index, uds), fleet.upkeep, self
        )

    def down(self, why: str) -> None:
        self.healthy, self.why = False, "the engine has stopped and is being started again"
        self.fleet.fared(self)
        self.fleet.say("engine.stopped", self.index, reason=why)

    def up(self, attempts: int, seconds: float) -> None:
        self.healthy, self.given_up, self.why = True, False, ""
        self.fleet.fared(self)
        for desk in self.fleet.desks:
            self.fleet.on_restart(desk.served.model)
        self.fleet.say("engine.restarted", self.index, attempts=attempts, seconds=round(seconds, 3))

    def failed(self, attempt: int, why: str) -> None:
        self.fleet.say("engine.start_failed", self.index, attempt=attempt, reason=why)

    def gave_up(self, attempts: int, why: str) -> None:
        self.given_up, self.why = True, "the engine keeps failing and is not started again"
        self.fleet.fared(self)
        self.fleet.say("engine.given_up", self.index, attempts=attempts, reason=why)
        self.fleet.ended(why)


def check_copies(ws: Workspace, copies: Mapping[str, Path]) -> None:
    """Refuse what engine and validators have loaded when their private copies are no longer what was verified."""
    for manifest, folder in copies.items():
        problems = ws.artifacts.verify_folder(manifest, folder)
        if problems:
            raise Tampered(f"changed while the endpoint started: {problems[0]}", hint="find out who wrote there")


def own_version(handle: EngineHandle | RemoteEngine) -> str:
    """Return the engine's own version; a handle names several packages, the engine's first."""
    return handle.version.partition(",")[0].rpartition(" ")[2]
