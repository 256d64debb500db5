"""What the views read out of a workspace: frozen facts, each with the evidence it rests on.

An `Evidence` names an event by its hash, an asset by its id, or bytes by their digest; a reader can look each one up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

EvidenceKind = Literal["event", "asset", "digest"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing a statement rests on: `ref` is an event hash, an asset id or a content digest."""

    kind: EvidenceKind
    ref: str
    what: str = ""
    """An event's kind, an asset's kind, or what the digest addresses."""
    seq: int | None = None
    """The event's position in the projection, for events only."""


@dataclass(frozen=True, slots=True)
class AsOf:
    """The last event a report has seen: everything in it holds at this point of the journal."""

    seq: int
    ts: str
    hash: str


@dataclass(frozen=True, slots=True)
class Filed:
    """A registered record: its asset row, its plain body and the events that speak of it."""

    id: str
    kind: str
    name: str
    number: int
    owner: str
    created: str
    body: dict[str, Any]
    evidence: tuple[Evidence, ...]

    @property
    def label(self) -> str:
        """`name:number`, or the kind and number of a nameless record."""
        return f"{self.name or self.kind}:{self.number}"


@dataclass(frozen=True, slots=True)
class Edge:
    """`child` was made from `parent`; `relation` says how."""

    child: str
    relation: str
    parent: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """Everything a version was made from: the root's ancestors, nearest first, and the edges between them."""

    root: str
    nodes: tuple[Filed, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class Kpi:
    """One KPI's row of a gate decision. Numbers are None where the gate could not compute them."""

    id: str
    rule: dict[str, Any]
    verdict: str
    gating: bool
    """Whether it could stop this candidate: not advisory, and judged."""
    estimate: float | None
    lower: float | None
    upper: float | None
    threshold: float | None
    """Where the rule draws its line, on the estimate's own axis."""
    better: int
    """+1 where a larger estimate is better, -1 where a smaller one is."""
    level: float | None
    bound: str
    n: int | None
    clusters: int | None
    samples_needed: int | None
    """How many more samples would probably decide."""
    control: str
    control_verdict: str
    reasons: tuple[str, ...]
    worst: tuple[dict[str, Any], ...]
    unit: str = ""
    owner: str = ""
    against: str = ""
    """`baseline`, `anchor`, or empty for a rule on the candidate alone."""
    candidate_value: float | None = None
    baseline_value: float | None = None
    slice: str = ""
    """Which part of the samples it is about, as `field=value`; empty: all of them."""
    look: int = 1
    fraction: float | None = None
    """Share of the planned clusters measured when the verdict was reached."""
    source: str = "measured"
    """`measured` here, `imported` from another harness, or `unverified`: asked of an outside URL."""
    contaminated: int = 0
    """How many of the samples the candidate was trained on."""

    @property
    def label(self) -> str:
        """The KPI's id and slice, with what it is compared with where that is not the ordinary baseline."""
        name = f"{self.id} [{self.slice}]" if self.slice else self.id
        return f"{name} ({self.against})" if self.against not in {"", "baseline"} else name

    @property
    def marks(self) -> tuple[str, ...]:
        """What a reader should know of its evidence before its numbers."""
        said = {"imported": "imported evidence", "unverified": "measured at an outside URL"}.get(self.source, "")
        dirty = f"{self.contaminated} samples were trained on" if self.contaminated else ""
        return tuple(mark for mark in (said, dirty) if mark)

    @property
    def holds(self) -> bool:
        """Whether it stops nothing: it passed, or it does not gate."""
        return self.verdict == "PASS" or not self.gating


@dataclass(frozen=True, slots=True)
class Decision:
    """A gate decision with its KPI rows; `version` is the model version of the candidate it judged."""

    id: str
    created: str
    actor: str
    candidate: str
    version: str
    version_label: str
    baseline: str | None
    baseline_label: str
    suite: str
    suite_label: str
    verdict: str
    bootstrap: bool
    mode: str
    alpha: float
    eval_runs: tuple[str, ...]
    differs: tuple[str, ...]
    reasons: tuple[str, ...]
    kpis: tuple[Kpi, ...]
    evidence: tuple[Evidence, ...]
    plan: str = ""
    """How the samples were looked at, how often they have judged, and what that makes of the error rate."""


@dataclass(frozen=True, slots=True)
class Approval:
    """A signed approval of a candidate, given on a decision."""

    candidate: str
    actor: str
    role: str
    ts: str
    reason: str
    decision: str
    key: str
    signature: str
    """`good`, or why it is not."""
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its decoded statement and the state of its signature."""

    id: str
    created: str
    candidate: str
    decision: str
    expires: str
    expired: bool
    revoked: str
    """The reason of its revocation, else empty."""
    statement: dict[str, Any]
    keys: tuple[str, ...]
    signer: str
    signature: str
    """`good`, or why it is not. Content, approvals and bytes are checked by `hallmark verify`."""
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """One line of an alias's history: what it pointed at from then on."""

    alias: str
    certificate: str
    candidate: str
    version: str
    version_label: str
    actor: str
    ts: str
    reason: str
    current: bool
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule of a bundle: an access policy or a content rule."""

    file: str
    id: str
    kind: str
    action: str
    text: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """The inference policy that a candidate serves under: its files by digest and the rules read from them."""

    id: str
    files: tuple[dict[str, Any], ...]
    rules: tuple[PolicyRule, ...]
    unreadable: str
    """Why the files could not be read, else empty."""
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the endpoint decided for this version's candidates, counted."""

    total: int
    endpoints: tuple[tuple[str, int], ...]
    """(endpoint, count): an alias that serves, or a permit under which the candidate was evaluated."""
    first: str
    last: str
    actions: tuple[tuple[str, int], ...]
    rules: tuple[tuple[str, str, int], ...]
    """(action, rule id, count)."""
    principals: int
    prompt_tokens: int
    completion_tokens: int
    p50_ms: float | None
    p95_ms: float | None
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How complete the decision log is: every request known from an intent or a decision must have a decision.

    An intent is only logged where its decision did not reach the disk in the same write, so intents alone prove little.
    """

    requests: int
    decisions: int
    unanswered: int
    """Intents with no decision of the same request id."""
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One event of the journal that speaks of the subject."""

    seq: int
    ts: str
    actor: str
    kind: str
    subject: str
    summary: str
    hash: str


@dataclass(frozen=True, slots=True)
class Story:
    """Everything the views know about one version, before compliance is judged."""

    workspace: str
    as_of: AsOf
    version: Filed
    lineage: Lineage
    candidates: tuple[Filed, ...]
    suites: tuple[Filed, ...]
    eval_runs: tuple[Filed, ...]
    decisions: tuple[Decision, ...]
    refusals: tuple[Decision, ...]
    approvals: tuple[Approval, ...]
    certificates: tuple[Certificate, ...]
    moves: tuple[Move, ...]
    bundles: tuple[Bundle, ...]
    files: dict[str, list[dict[str, Any]]]
    """The files of each candidate's model folder, by manifest id."""
    traffic: Traffic
    coverage: Coverage
    drift: tuple[Filed, ...]
    roles: tuple[dict[str, Any], ...]
    steps: tuple[Step, ...]
