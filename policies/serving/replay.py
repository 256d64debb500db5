"""Decides a past request once more: same bundle, same weights, same request, and says what came out otherwise.

How much can be compared is the decision's determinism class (`CLASSES`). Nothing is recorded as a request, and no
budget is charged: a replay is an examination.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from policies.access.authorize import Authorizer
from policies.access.callers import Callers, create_key
from policies.bundle import compile_bundle, load
from policies.endpoint import recording
from policies.endpoint.audit import DECISION, DecisionLog
from policies.endpoint.desk import Desk, Front
from policies.endpoint.gateway import SURFACES, Gateway
from policies.endpoint.hash_key import hash_key
from policies.endpoint.upstream import Upstream
from policies.enforcement.compiled import CompiledCache
from policies.enforcement.engine import Enforcer
from policies.guarding.guards import workers_of
from policies.serving import assembly
from policies.serving.fleet import Build, adapter_name
from policies.serving.plan import Plan
from policies.serving.proof import Target, Verified
from policies.serving.scratch import claim_scratch, socket_folder
from registry.errors import NotFound, Refused, SpecError
from registry.protocols import Progress, silent
from registry.records import Candidate
from registry.workspace import Workspace

CLASSES = {
    "exact": "decided without the engine: access rules and input rules alone, the same at any time",
    "greedy": "no chance in sampling: the same tokens on the same engine version and hardware, save near-ties that "
    "batching can turn",
    "seeded": "sampled from the request's seed: as repeatable as greedy on the same engine version and hardware",
    "sampled": "sampled without a seed: tokens differ; what came before them, and the rules, are compared",
    "circumstance": "decided by load, a budget, a time limit or the caller's leaving: nothing of it can be repeated",
}
"""Determinism class of a decision, and what it promises."""

BEFORE = ("action", "status", "rules", "input_hash")
AFTER = ("finish_reason", "output_hash", "completion_tokens")
CIRCUMSTANCES = frozenset({401, 408, 429, 499, 500, 502, 503, 504})
FACTS = ((b"x-hallmark-purpose", "purpose"), (b"x-hallmark-data-class", "data_class"))
PATHS = {surface: path for path, surface in SURFACES.items()}


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found. `differences` are lines `field: then -> now` over `compared` fields only."""

    receipt: str
    determinism: str
    promise: str
    decision: dict[str, Any]
    compared: tuple[str, ...]
    differences: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 when all that can be compared came out the same, 1 when something did not."""
        return 1 if self.differences else 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came: JSON body, surface, and who sent it with what groups and attributes."""

    body: bytes
    surface: str
    caller: str
    groups: tuple[str, ...]
    attributes: Mapping[str, Any]


def decision_of(ws: Workspace, receipt: str) -> dict[str, Any]:
    """Return the decision of a receipt, as the journal has it; raises NotFound."""
    rows = ws.store.query("SELECT ts, body FROM event WHERE kind = ? AND subject = ?", [DECISION, receipt])
    if not rows:
        raise NotFound(f"no decision with the receipt `{receipt}`", hint="it stands in the `x-hallmark-receipt` header")
    body = rows[0]["body"]
    return {"ts": rows[0]["ts"], **(json.loads(body) if isinstance(body, str) else body)}


def determinism_of(decision: Mapping[str, Any]) -> str:
    """Return the determinism class of a decision, a name of CLASSES."""
    if decision["status"] in CIRCUMSTANCES:
        return "circumstance"
    return str(decision["determinism"]) or "exact"


def asked_of(ws: Workspace, decision: Mapping[str, Any], file: Path | None = None) -> Asked:
    """Return the request of a decision: from its recording, or from `file`, the caller's own copy of the JSON body.

    Raises:
        NotFound: it was not recorded and no file is named.
        SpecError: the file is not a JSON object.
    """
    kept = recording.find(ws, decision["request_id"])
    if file is None and kept is None:
        hint = "the bundle records hashes only: name the caller's own copy of the request with `--request FILE`"
        raise NotFound(f"the request of `{decision['request_id']}` was not recorded", hint=hint)
    body = _body_of(file) if file is not None else (kept.body.encode() if kept else b"")
    attributes = kept.attributes if kept else _attributes(ws, decision["principal"])
    surface = kept.surface if kept else _surface(body)
    return Asked(body, surface, decision["principal"], tuple(decision["groups"]), attributes)


def replay(ws: Workspace, receipt: str, *, request: Path | None = None, progress: Progress = silent) -> Replay:
    """Decide a past request again and compare.

    The candidate's engine runs on its verified weights, unless the decision needs none.

    Raises:
        NotFound: no such receipt, or its request is not known.
        Refused: nothing of the decision can be repeated, or the endpoint had not come to know the model.
        Tampered, EngineFailure: as an endpoint's start.
    """
    then = decision_of(ws, receipt)
    kind = determinism_of(then)
    if kind == "circumstance":
        raise Refused(f"status {then['status']} was {CLASSES[kind]}", hint="replay another request of this caller")
    if not then["candidate"]:
        raise Refused("the request named no model of its endpoint", hint="there is nothing to decide again")
    asked = asked_of(ws, then, request)
    candidate = ws.get(then["candidate"], Candidate)
    with ExitStack() as stack:
        uds = None if kind == "exact" else stack.enter_context(_engine(ws, candidate, progress))
        now = _decide(ws, candidate, then, asked, uds)
    compared = BEFORE if kind in ("exact", "sampled") else BEFORE + AFTER
    differences = tuple(_differences(then, now, compared))
    return Replay(receipt, kind, CLASSES[kind], then, compared, differences, tuple(_notes(candidate, asked)))


def _decide(
    ws: Workspace, candidate: Candidate, then: Mapping[str, Any], asked: Asked, uds: Path | None
) -> dict[str, Any]:
    """Put the request through a gateway of its own; return the body of its decision."""
    with ExitStack() as stack:
        scratch = stack.enter_context(claim_scratch(ws.work("serve")))
        desk = _desk(ws, candidate, then, Upstream(uds or scratch / "none.sock"), scratch, stack)
        key, key_id, key_hash = create_key()
        row = {"name": asked.caller, "groups": asked.groups, "attributes": asked.attributes, "key_id": key_id,
               "key_hash": key_hash}  # fmt: skip
        decisions: list[dict[str, Any]] = []

        def keep(records: Sequence[tuple[str, str, dict[str, Any], str]]) -> None:
            decisions.extend(body for kind, _, body, _ in records if kind == DECISION)

        log = DecisionLog(keep, endpoint="replay")
        gateway = Gateway(Front(Callers(lambda: [row]), log, hash_key(ws)), [desk])
        head = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
        head += [(name, str(then[field]).encode()) for name, field in FACTS if then.get(field)]
        try:
            asyncio.run(_send(gateway, PATHS[asked.surface], asked.body, head))
        finally:
            log.close()
    return decisions[0]


def _desk(
    ws: Workspace, candidate: Candidate, then: Mapping[str, Any], upstream: Upstream, scratch: Path, stack: ExitStack
) -> Desk:
    """Return the desk that the request met: the candidate's bundle, and access rules asked as they were."""
    bundle = load(ws.artifacts.checkout(candidate.bundle, scratch / "bundle"), candidate.bundle)
    enforcer = Enforcer(compile_bundle(bundle, CompiledCache(ws.work("patterns"), hash_key(ws))))
    guards = workers_of(enforcer)
    for pool in guards.values():
        stack.callback(pool.close)
    name, certificate = str(then["model"]), str(then["certificate"])
    target = Target(alias=name) if certificate else Target(permit=name.removeprefix("permit/"))
    plan = Plan(alias=target.alias, permit=target.permit)
    expires = _expiry(ws, certificate)
    found = Verified(candidate, certificate, "certified" if certificate else "permit", expires, 0.0)
    served = assembly.served_of(plan, target, found, _tokenizer(ws, candidate, scratch / "tokenizer"))
    return Desk(served, assembly.state_of(plan, target, found), enforcer, Authorizer(bundle), upstream, guards)


def _tokenizer(ws: Workspace, candidate: Candidate, folder: Path) -> Path:
    """Write the tokenizer's file into a folder: what control tokens are told by, without the weights."""
    folder.mkdir()
    entry = ws.artifacts.manifest(candidate.weights).entry("tokenizer.json")
    if entry is None:
        raise NotFound("the candidate's weights have no `tokenizer.json`", hint="import a complete model folder")
    (folder / "tokenizer.json").write_bytes(ws.artifacts.read_bytes(entry.blake3))
    return folder


def _expiry(ws: Workspace, certificate: str) -> datetime:
    """Return when the certificate of a decision ends; a permit, long over, is taken as one that has no end."""
    if not certificate:
        return datetime(9999, 1, 1, tzinfo=UTC)
    return datetime.fromisoformat(ws.resolve(certificate, "certificate").body["expires"])


async def _send(gateway: Gateway, path: str, body: bytes, head: list[tuple[bytes, bytes]]) -> None:
    """Put one request through the application, whatever it answers."""
    head = [(b"host", b"replay"), *head, (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "http_version": "1.1", "headers": head, "extensions": {}}
    sent = asyncio.Event()
    arrived = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        message = next(arrived, None)
        if message is None:
            await sent.wait()
            return {"type": "http.disconnect"}
        return message

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            sent.set()

    await gateway(scope, receive, send)


@contextmanager
def _engine(ws: Workspace, candidate: Candidate, progress: Progress) -> Iterator[Path]:
    """Yield the socket of the candidate's engine on a verified copy of its weights and adapter."""
    from policies import engines

    with claim_scratch(ws.work("serve")) as scratch, socket_folder() as sockets:
        weights = ws.artifacts.checkout(candidate.weights, scratch / "weights")
        adapters = {}
        if candidate.adapter != "none":
            folder = ws.artifacts.checkout(candidate.adapter, scratch / "adapter")
            adapters[adapter_name(candidate.adapter)] = folder
        build = Build(candidate.engine, candidate.engine_version, candidate.weights, candidate.quantisation)
        handle = engines.start(
            candidate.engine, weights, sockets / "engine.sock", served_name=assembly.ENGINE_MODEL,
            log=ws.work("logs") / "engine-replay.log", options=build.start_options(adapters),
        )  # fmt: skip
        try:
            handle.wait_ready(assembly.READY_SECONDS, progress)
            yield sockets / "engine.sock"
        finally:
            handle.stop()


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], compared: Sequence[str]) -> Iterator[str]:
    for name in compared:
        before, after = then.get(name), now.get(name)
        if name == "rules":
            before, after = sorted(before or []), sorted(after or [])
        if before != after:
            yield f"{name}: {_shown(before)} -> {_shown(after)}"


def _notes(candidate: Candidate, asked: Asked) -> Iterator[str]:
    if not asked.attributes:
        yield "the caller's attributes then are not known: access was asked without any"
    yield f"engine {candidate.engine} {candidate.engine_version}, bundle {candidate.bundle[7:19]}"


def _body_of(file: Path) -> bytes:
    try:
        body = file.read_bytes()
        if not isinstance(json.loads(body), dict):
            raise SpecError("not a JSON object", file=str(file), hint="the body of the request as it was sent")
    except OSError as error:
        raise NotFound(f"cannot read `{file}`: {error.strerror}", hint="check the path") from None
    except ValueError:
        raise SpecError("not JSON", file=str(file), hint="the body of the request as it was sent") from None
    return body


def _surface(body: bytes) -> str:
    """Return the surface a body belongs to, by the field that only it has."""
    fields = json.loads(body)
    return "chat" if "messages" in fields else "responses" if "input" in fields else "completions"


def _attributes(ws: Workspace, name: str) -> Mapping[str, Any]:
    return next((dict(row["attributes"]) for row in ws.callers() if row["name"] == name), {})


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()
