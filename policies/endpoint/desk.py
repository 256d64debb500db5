"""What a request is decided with: the front of the endpoint, shared by all, and one desk for each release it serves.

A desk is replaced whole when its release changes: requests that it took in end with it, later ones meet the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from policies.access.limits import Limits
from policies.endpoint.edge import EdgeLimits
from policies.endpoint.metrics import Metrics
from policies.wire.control_tokens import ControlTokens

if TYPE_CHECKING:
    from policies.access.authorize import Authorizer, ModelState
    from policies.access.callers import Callers
    from policies.endpoint.audit import DecisionLog
    from policies.endpoint.exchange import Exchange, Served
    from policies.endpoint.upstream import Pool, Upstream
    from policies.enforcement.engine import Enforcer
    from policies.enforcement.rules import AnyRule
    from policies.guarding.guards import GuardOutcome


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bytes of a body, seconds to receive it, seconds of a whole request, bytes of a whole answer.

    `running` requests are at work at once, `waiting` more wait for their turn, at most `wait_s` seconds. Bodies that
    are still arriving hold at most `pending_bytes` together. `edge` limits the connections.
    """

    body_bytes: int = 1 << 20
    body_s: float = 30.0
    request_s: float = 600.0
    answer_bytes: int = 16 << 20
    running: int = 512
    waiting: int = 512
    wait_s: float = 5.0
    pending_bytes: int = 256 << 20
    edge: EdgeLimits = field(default_factory=EdgeLimits)


class GuardRunner(Protocol):
    """Validators that see a whole text before any of it leaves (guards.GuardPool is one)."""

    async def validate(self, text: str, deadline_s: float, *, exempt: frozenset[str] = frozenset()) -> GuardOutcome:
        """Return the outcome, less the rules in `exempt`; fails closed at the deadline."""


class Observer(Protocol):
    """Whoever wants to know of every request once it is decided: traces, recordings. It must neither wait nor raise."""

    def decided(self, exchange: Exchange) -> None:
        """Take note of a decided request."""


@dataclass(slots=True)
class Front:
    """What all releases of an endpoint share. `hash_key` keys the log's hashes of text; `ending`: it takes no more."""

    callers: Callers
    decisions: DecisionLog
    hash_key: bytes
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    bounds: Bounds = field(default_factory=Bounds)
    observers: tuple[Observer, ...] = ()
    ending: bool = False


@dataclass(slots=True, eq=False)
class Desk:
    """One release: what its certificate binds, and the engine that runs it. `guards` are validators by surface.

    `closed` holds why everything is refused: engine gone, certificate withdrawn. `active` counts running requests.
    `records`: its bundle wants the texts kept (`policies/endpoint/recording.py`).
    """

    served: Served
    model: ModelState
    enforcer: Enforcer
    authorizer: Authorizer
    upstream: Upstream | Pool
    guards: Mapping[str, GuardRunner] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    active: int = 0
    records: bool = False
    rules: tuple[AnyRule, ...] = field(init=False)
    control: ControlTokens = field(init=False)
    injected: dict[str, Any] = field(init=False)
    stamp: list[tuple[bytes, bytes]] = field(init=False)

    def __post_init__(self) -> None:
        compiled = self.enforcer.compiled
        self.rules = tuple({rule.id: rule for rule in (*compiled.input.rules, *compiled.output.rules)}.values())
        self.control = ControlTokens(self.served.control_tokens)
        self.injected = self.enforcer.decode_fields({})
        certificate = self.served.certificate.encode("ascii")
        self.stamp = [(b"x-hallmark-certificate", certificate)] if certificate else []
