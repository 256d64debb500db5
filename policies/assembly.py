"""Puts an endpoint together: what is verified, what is checked out, which engine is started, and the gateway in front.

The engine is the candidate's own, in the version it was proven with; weights and policy bundle are private copies of
which every byte was hashed while it was copied.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from policies.audit import DecisionLog, Mode
from policies.authorize import Authorizer, ModelState
from policies.bundle import compile_bundle, load
from policies.callers import Callers
from policies.compiled import CompiledCache
from policies.desk import Desk, Front
from policies.engine import Enforcer
from policies.engines.folder import refuse_adapter
from policies.exchange import Served
from policies.gateway import Gateway
from policies.generation import PATHS
from policies.guards import GuardWorker
from policies.listener import is_loopback
from policies.scratch import claim_scratch, socket_folder
from policies.upstream import Upstream
from registry.attestation import verify_permit, verify_release
from registry.errors import Refused, SpecError, Tampered
from registry.protocols import Progress
from registry.records import Candidate, sha256
from registry.workspace import Workspace

if TYPE_CHECKING:
    from policies.engines import EngineHandle

ENGINE_MODEL = "engine"
READY_SECONDS = 900.0
KEY_BYTES = 32
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to serve and where. Exactly one of `alias` and `permit`; `extra_callers` are caller records of this run."""

    alias: str | None = None
    permit: str | None = None
    engine: str = "auto"
    host: str = "127.0.0.1"
    port: int = 0
    log_mode: Mode = "group"
    extra_callers: Sequence[Mapping[str, Any]] = ()
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The endpoint's name and the model's: the alias, or `permit/<id>`."""
        return self.alias if self.alias is not None else f"permit/{self.permit}"


@dataclass(frozen=True, slots=True)
class Verified:
    """What verification found now. `certificate` is empty under a permit; `expires` ends the permit."""

    candidate: Candidate
    certificate: str
    status: Literal["certified", "permit"]
    expires: datetime | None


def verify(ws: Workspace, plan: Plan) -> Verified:
    """Return what the plan's alias or permit stands for now; raises NotFound, Refused or Tampered."""
    if plan.permit is not None:
        permit = verify_permit(ws, plan.permit)
        return Verified(permit.candidate, "", "permit", datetime.fromisoformat(permit.expires))
    release = verify_release(ws, plan.alias or "")
    return Verified(release.candidate, release.certificate.id, "certified", None)


def check_plan(plan: Plan) -> None:
    """Refuse what can never be served; raises SpecError or Refused."""
    if (plan.alias is None) == (plan.permit is None):
        raise SpecError("name an alias or a permit to serve, not both", hint="`hallmark serve ALIAS`")
    if plan.permit is not None and not is_loopback(plan.host):
        raise Refused(
            f"a candidate under a permit is served on loopback only, not on `{plan.host}`", hint="leave `--host` out"
        )


def assemble(
    ws: Workspace, plan: Plan, found: Verified, stack: ExitStack, progress: Progress
) -> tuple[Gateway, EngineHandle]:
    """Return a gateway and its started engine; `stack` undoes everything. Raises Tampered, Refused, EngineFailure."""
    candidate = found.candidate
    kind = _engine_kind(plan, candidate)
    refuse_adapter(candidate.adapter)
    scratch = stack.enter_context(claim_scratch(ws.work("serve")))
    progress("verify weights", 0, 1, candidate.weights[:19])
    weights = ws.artifacts.checkout(candidate.weights, scratch / "weights")
    progress("verify weights", 1, 1, candidate.weights[:19])
    bundle = load(ws.artifacts.checkout(candidate.bundle, scratch / "bundle"), candidate.bundle)
    enforcer = Enforcer(compile_bundle(bundle, CompiledCache(ws.work("patterns"), hash_key(ws))))
    callers = Callers(lambda: [*ws.callers(), *plan.extra_callers])
    uds = stack.enter_context(socket_folder()) / "engine.sock"
    handle = _start_engine(kind, weights, uds, ws.work("logs"), plan)
    stack.callback(handle.stop)
    guards = _start_guards(enforcer, stack, progress)
    handle.wait_ready(READY_SECONDS, progress)
    _check_version(handle, candidate)
    _check_copies(ws, {candidate.weights: weights, candidate.bundle: bundle.folder})
    upstream = Upstream(uds)
    decisions = DecisionLog(ws.journal.append, endpoint=plan.name, mode=plan.log_mode)
    stack.callback(decisions.close)
    served = Served(
        plan.name, plan.name, ENGINE_MODEL, candidate.id, found.certificate, candidate.bundle,
        _system_prompt(candidate), _defaults(candidate),
    )  # fmt: skip
    model = ModelState(plan.name, candidate.id, found.certificate, found.status)
    desk = Desk(served, model, enforcer, Authorizer(bundle), upstream, guards)
    return Gateway(Front(callers, decisions, hash_key(ws)), [desk]), handle


def _start_engine(kind: str, weights: Path, uds: Path, logs: Path, plan: Plan) -> EngineHandle:
    from policies import engines

    logfile = logs / f"engine-{plan.name.replace('/', '-')}.log"
    return engines.start(kind, weights, uds, served_name=ENGINE_MODEL, log=logfile, options=dict(plan.engine_options))


def _start_guards(enforcer: Enforcer, stack: ExitStack, progress: Progress) -> dict[str, GuardWorker]:
    """Return the validators of each surface that has any; surfaces with the same rules share a worker."""
    workers: dict[frozenset[str], GuardWorker] = {}
    guards = {}
    for surface in PATHS:
        rules = [rule for rule in enforcer.guard_rules if surface in rule.surfaces]
        names = frozenset(rule.id for rule in rules)
        if rules and names not in workers:
            progress("start validators", len(workers), None, ", ".join(sorted(names)))
            workers[names] = GuardWorker()
            stack.callback(workers[names].close)
            workers[names].start(rules)
        if rules:
            guards[surface] = workers[names]
    return guards


def _engine_kind(plan: Plan, candidate: Candidate) -> str:
    """Return the engine to start: the candidate's own, since it is part of what was proven."""
    if plan.engine in ("auto", candidate.engine):
        return candidate.engine
    raise Refused(
        f"the candidate was proven with the engine `{candidate.engine}`, not with `{plan.engine}`",
        hint=f"make and evaluate a candidate for it: `hallmark candidate create VERSION --engine {plan.engine}`",
    )


def _check_copies(ws: Workspace, copies: Mapping[str, Path]) -> None:
    """Refuse what engine and validators have loaded when their private copies are no longer what was verified."""
    for manifest, folder in copies.items():
        problems = ws.artifacts.verify_folder(manifest, folder)
        if problems:
            raise Tampered(f"changed while the endpoint started: {problems[0]}", hint="find out who wrote there")


def _check_version(handle: EngineHandle, candidate: Candidate) -> None:
    """Refuse another version of the engine than the proven one."""
    if candidate.engine_version not in (own_version(handle), handle.version):
        raise Refused(
            f"engine `{candidate.engine}` is version {handle.version}, the candidate was proven with "
            f"{candidate.engine_version}",
            hint="install the version it was proven with, or evaluate the candidate again",
        )


def own_version(handle: EngineHandle) -> str:
    """Return the engine's own version; a handle names several packages, the engine's first."""
    return handle.version.partition(",")[0].rpartition(" ")[2]


def _system_prompt(candidate: Candidate) -> str:
    """Return the system prompt; raises Tampered when the text is not the one the candidate names."""
    text = str(candidate.generation.get("system_prompt", ""))
    if text and sha256(text.encode()) != candidate.system_prompt:
        raise Tampered("the candidate's system prompt is not the one it names", hint="create the candidate again")
    return text


def _defaults(candidate: Candidate) -> dict[str, Any]:
    """Return the generation defaults in the request's terms."""
    generation = candidate.generation
    defaults = {name: generation[name] for name in SAMPLING if generation.get(name) is not None}
    if generation.get("max_new_tokens") is not None:
        defaults["max_tokens"] = generation["max_new_tokens"]
    if generation.get("do_sample") is False:
        defaults["temperature"] = 0.0
    return defaults


def hash_key(ws: Workspace) -> bytes:
    """Return the workspace's key for hashes of text in the decision log; made on first use, mode 0600."""
    path = ws.root / "keys" / "decision-log.key"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        found = path.read_bytes()
        if len(found) != KEY_BYTES:
            raise Tampered(f"`{path}` is damaged", hint="delete it: earlier hashes then no longer compare") from None
        return found
    data = secrets.token_bytes(KEY_BYTES)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return data
