"""Opens releases: what is verified, what is checked out, which engine is started, and the desk in front of it.

The engine is the candidate's own, in the version it was proven with; weights and policy bundle are private copies of
which every byte was hashed while it was copied.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from policies.access.authorize import Authorizer
from policies.bundle import compile_bundle, load
from policies.endpoint.desk import Desk
from policies.endpoint.hash_key import hash_key
from policies.enforcement.compiled import CompiledCache
from policies.enforcement.engine import Enforcer
from policies.guarding.guards import workers_of
from policies.serving.assembly import served_of, state_of
from policies.serving.fleet import Build, Fleet, check_copies
from policies.serving.occurrences import Occurrences
from policies.serving.plan import Plan
from policies.serving.proof import Target, Verified
from policies.serving.remote_fleet import RemoteFleet
from registry.artifacts import remove_tree
from registry.errors import Refused
from registry.protocols import Progress, silent
from registry.workspace import Workspace

if TYPE_CHECKING:
    from registry.records import Candidate

AnyFleet = Fleet | RemoteFleet


@dataclass(slots=True, eq=False)
class OpenRelease:
    """A release with its desk: what was verified, the fleet it is asked of, and what goes when it goes."""

    target: Target
    verified: Verified
    desk: Desk
    fleet: AnyFleet
    stack: ExitStack

    def close(self) -> None:
        """End the validators and remove the bundle's copy; the fleet is not touched. Blocks."""
        self.stack.close()


class Opening:
    """Opens releases of one endpoint, in folders under `scratch`. `fleets` are those that were not closed yet."""

    def __init__(self, ws: Workspace, plan: Plan, scratch: Path, occurrences: Occurrences) -> None:
        self._ws, self._plan, self._scratch, self._occurrences = ws, plan, scratch, occurrences
        self._numbers = itertools.count(1)
        self.fleets: set[AnyFleet] = set()

    def open_all(self, found: Sequence[tuple[Target, Verified]], progress: Progress) -> list[OpenRelease]:
        """Open what the endpoint starts with, each seated; releases on one base share an engine. Raises as `open`."""
        fleets: list[AnyFleet] = []
        for number, (_, verified) in enumerate(found):
            candidate = verified.candidate
            if not any(fleet.fits(candidate) for fleet in fleets):
                fleets.append(self.fleet_for([one.candidate for _, one in found[number:]]))
        with ExitStack() as undo:
            undo.callback(self.close)
            for fleet in fleets:
                fleet.begin(progress)
            opened = []
            for target, verified in found:
                fleet = next(fleet for fleet in fleets if fleet.fits(verified.candidate))
                opened.append(self._open(target, verified, fleet, progress))
                undo.callback(opened[-1].close)
            for fleet in fleets:
                fleet.await_ready(progress)
            for release in opened:
                self._settle(release)
                release.fleet.hold(release.desk)
            undo.pop_all()
        return opened

    def open(self, target: Target, found: Verified, fleet: AnyFleet | None, progress: Progress = silent) -> OpenRelease:
        """Open one release on a running fleet that fits it, or on a new one; blocks. Nothing is left when it fails.

        The caller seats its desk at the fleet, on the event loop.

        Raises:
            Tampered: a file of weights, adapter or bundle is not what was certified; names it.
            Refused: another engine, or another version of it, than the proven one.
            SpecError: the bundle does not compile.
            EngineFailure: engine or validators did not start.
        """
        new = fleet is None
        used = self.fleet_for([found.candidate]) if fleet is None else fleet
        with ExitStack() as undo:
            if new:
                undo.callback(self.discard, used)
                used.begin(progress)
            opened = self._open(target, found, used, progress)
            undo.callback(opened.close)
            if new:
                used.await_ready(progress)
            self._settle(opened)
            undo.pop_all()
        return opened

    def fleet_for(self, candidates: Sequence[Candidate]) -> AnyFleet:
        """Return a new fleet for the first candidate, with the adapters of all that stand on the same base."""
        if self._plan.remote is not None:
            fleet: AnyFleet = RemoteFleet(self._plan.remote, self._plan.upkeep, self._occurrences)
        else:
            folder = self._scratch / f"fleet-{next(self._numbers)}"
            fleet = Fleet(self._ws, self._plan, self._build(candidates), folder, self._occurrences)
        self.fleets.add(fleet)
        return fleet

    def discard(self, fleet: AnyFleet) -> None:
        """End a fleet and remove its copies; blocks."""
        self.fleets.discard(fleet)
        fleet.close()
        if isinstance(fleet, Fleet):
            remove_tree(fleet.folder)

    def close(self) -> None:
        """End every fleet, also one that is just starting; blocks. Their copies go with `scratch`."""
        for fleet in list(self.fleets):
            fleet.close()

    def _build(self, candidates: Sequence[Candidate]) -> Build:
        first = candidates[0]
        alone = Build(
            _engine_kind(self._plan, first), first.engine_version, first.weights, first.quantisation,
            options=dict(self._plan.engine_options),
        )  # fmt: skip
        adapters = [one.adapter for one in candidates if alone.shares_base(one) and one.adapter != "none"]
        return alone.with_adapters(adapters)

    def _open(self, target: Target, found: Verified, fleet: AnyFleet, progress: Progress) -> OpenRelease:
        """Check out and compile the bundle, start its validators and make the desk; it is not seated yet."""
        candidate = found.candidate
        with ExitStack() as stack:
            folder = self._scratch / f"desk-{next(self._numbers)}"
            stack.callback(remove_tree, folder)
            bundle = load(self._ws.artifacts.checkout(candidate.bundle, folder / "bundle"), candidate.bundle)
            cache = CompiledCache(self._ws.work("patterns"), hash_key(self._ws))
            enforcer = Enforcer(compile_bundle(bundle, cache))
            guards = workers_of(enforcer, progress=lambda names: progress("start validators", 0, None, names))
            for pool in guards.values():
                stack.callback(pool.close)
            served = served_of(self._plan, target, found, fleet.weights if isinstance(fleet, Fleet) else None)
            served = replace(served, surfaces=fleet.surfaces)
            state = state_of(self._plan, target, found)
            desk = Desk(served, state, enforcer, Authorizer(bundle), fleet.upstream, guards)
            desk.records = bundle.spec.record == "texts"
            if self._plan.remote:
                desk.stamp = [(b"x-hallmark-unverified", b"engine")]
            return OpenRelease(target, found, desk, fleet, stack.pop_all())

    def _settle(self, opened: OpenRelease) -> None:
        """Check what the validators have loaded, and note what the engine offers."""
        check_copies(self._ws, {opened.verified.candidate.bundle: opened.desk.enforcer.compiled.folder})


def _engine_kind(plan: Plan, candidate: Candidate) -> str:
    """Return the engine to start: the candidate's own, since it is part of what was proven."""
    if plan.engine in ("auto", candidate.engine):
        return candidate.engine
    raise Refused(
        f"the candidate was proven with the engine `{candidate.engine}`, not with `{plan.engine}`",
        hint=f"make and evaluate a candidate for it: `hallmark candidate create VERSION --engine {plan.engine}`",
    )
