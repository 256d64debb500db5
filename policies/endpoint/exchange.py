"""One request at the endpoint from arrival to outcome: what its decision record will say."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zlib import crc32

from policies.access.authorize import Caller
from policies.endpoint.answer import Ledger
from policies.wire.refusal import Refusal
from policies.wire.request import Generating
from registry.traits import describe

if TYPE_CHECKING:
    from policies.endpoint.desk import Desk
    from policies.wire.frames import Frames

SURFACES = frozenset({"chat", "completions", "responses"})
"""What every engine can answer."""

_process = secrets.token_hex(5)
_serial = iter(range(1 << 62))


def new_receipt() -> str:
    """Return a request id: unique across processes, and cheap."""
    return f"hr-{_process}{next(_serial):08x}"


DESCRIBED_EVERY = 8
"""Of so many requests one has its texts described: drawn by its id, so that no rhythm of the traffic decides."""
BUSY_FACTOR = 8
"""While an endpoint is busy (`gateway.BUSY_RATE`), so many times fewer are described."""


@dataclass(frozen=True, slots=True)
class Served:
    """What an endpoint serves: the name callers use, and the digests every decision repeats.

    `defaults` are the candidate's generation defaults, `system_prompt` its first message. `certificate` is empty under
    an evaluation permit, where `endpoint` and `model` are `permit/<id>`. `surfaces` are what the engine can answer,
    `control_tokens` the tokenizer's own marks, `fim` its tokens for a prefix, a suffix and the middle between them.
    """

    endpoint: str
    model: str
    engine_model: str
    candidate: str
    certificate: str
    bundle: str
    system_prompt: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)
    surfaces: frozenset[str] = SURFACES
    control_tokens: tuple[str, ...] = ()
    fim: tuple[str, str, str] | None = None


@dataclass(slots=True)
class Exchange:
    """The facts of one request; `decision` is its record. `sending` is set once the first byte of a stream left.

    `purpose`, `data_class` and `traceparent` are what the caller said in its headers, `` where it did not. `unread` is
    set while a part of the body has not been read, `code` is that of the refusal, `busy` makes descriptions rarer,
    `described` says that the texts of this request are described in its decision.
    `frames` writes the stream, where there is one.
    """

    surface: str
    served: Served
    desk: Desk | None = None
    request_id: str = field(default_factory=new_receipt)
    started: float = field(default_factory=time.perf_counter)
    caller: Caller | None = None
    model: str = ""
    action: str = "allow"
    status: int = 200
    rules: list[str] = field(default_factory=list)
    finish: str = ""
    determinism: str = ""
    asked: bytes = b""
    inputs: list[str] = field(default_factory=list)
    """The body and its texts as they arrived, kept only where the bundle records texts."""
    input_chars: int = 0
    input_hash: str = ""
    input_traits: dict[str, Any] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    frames: Frames | None = None
    gone: bool = False
    sending: bool = False
    logged: bool = False
    purpose: str = ""
    data_class: str = ""
    traceparent: str = ""
    unread: bool = False
    code: str = ""
    busy: bool = False
    described: bool = False

    def seat(self, desk: Desk) -> None:
        """Bring the request to the desk that decides it; the gateway lets it go."""
        self.desk, self.served = desk, desk.served
        desk.active += 1

    def hit(self, rules: list[str] | tuple[str, ...]) -> None:
        """Note deciding rules, each once."""
        for rule in rules:
            if rule not in self.rules:
                self.rules.append(rule)

    def refuse(self, refusal: Refusal) -> None:
        """Take a refusal as this request's outcome."""
        self.action, self.status, self.code = refusal.action, refusal.status, refusal.code
        self.hit(refusal.rules)

    def note_input(self, texts: list[str], key: bytes) -> None:
        """Keep size, keyed hash and traits of the input as it arrived, never the text; the traits are of its end."""
        parts = [b"%d\n%b" % (len(text), text.encode("utf-8", "surrogatepass")) for text in texts]
        state = hashlib.blake2b(b"".join(parts), key=key, digest_size=16)
        if self.desk is not None and self.desk.records:
            self.inputs = list(texts)
        self.input_chars = sum(map(len, texts))
        self.input_hash = f"blake2b:{state.hexdigest()}"
        every = DESCRIBED_EVERY * BUSY_FACTOR if self.busy else DESCRIBED_EVERY
        self.described = crc32(self.request_id.encode()) % every == 0
        self.input_traits = describe(texts[-1], key) if texts and self.described else {}

    def note_sampling(self, request: Generating) -> None:
        """Keep how repeatable the answer is: greedy, seeded or sampled (batching can still move near-ties)."""
        if request.temperature == 0:
            self.determinism = "greedy"
        else:
            self.determinism = "sampled" if request.seed is None else "seeded"

    def seconds(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self.started

    def decision(self, key: bytes) -> dict[str, Any]:
        """Return the body of the `gateway.decision` event."""
        ledger, served, caller = self.ledger, self.served, self.caller
        usage = ledger.usage
        said = {
            "endpoint": served.endpoint,
            "request_id": self.request_id,
            "principal": caller.name if caller else "",
            "groups": sorted(caller.groups) if caller else [],
            "model": self.model,
            "candidate": served.candidate,
            "certificate": served.certificate,
            "bundle": served.bundle,
            "action": self.action,
            "rules": self.rules,
            "status": self.status,
            "prompt_tokens": usage.prompt_tokens if usage else 0,
            "completion_tokens": (usage.completion_tokens or 0) if usage else 0,
            "input_chars": self.input_chars,
            "output_chars": ledger.chars,
            "latency_ms": round(self.seconds() * 1000, 3),
            "finish_reason": self.finish or ledger.finish,
            "input_hash": self.input_hash,
            "output_hash": ledger.digest(key) if ledger.released else "",
            "determinism": self.determinism,
            "signals": {"input": self.input_traits, **ledger.signals(key, described=self.described)},
        }
        if self.purpose:
            said["purpose"] = self.purpose
        if self.data_class:
            said["data_class"] = self.data_class
        return said

    def intent(self) -> dict[str, Any]:
        """Return the body of the `gateway.intent` event."""
        return {
            "endpoint": self.served.endpoint,
            "request_id": self.request_id,
            "principal": self.caller.name if self.caller else "",
            "model": self.model,
            "certificate": self.served.certificate,
            "input_hash": self.input_hash,
        }
