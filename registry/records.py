"""The nouns of Hallmark: frozen records that workers return and the journal keeps.

A record knows its `KIND`. Its id is the SHA-256 of its canonical JSON, so the same content always has the same id.
Digests are written `sha256:<hex>` or `blake3:<hex>`; times are UTC, ISO 8601, seconds; sizes are bytes.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar

import orjson
import rfc8785

SAFE_INTEGER = (1 << 53) - 1
"""The largest integer that every JSON number of RFC 8785 holds exactly."""


def canonical(value: Any) -> bytes:
    """Return the RFC 8785 canonical JSON of plain data (dicts, lists, strings, numbers, booleans, None)."""
    if _same_in_orjson(value):
        with suppress(orjson.JSONEncodeError):  # text that UTF-8 cannot write: refused below in the standard's words
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return rfc8785.dumps(value)


def _same_in_orjson(value: Any) -> bool:
    """Say whether orjson, twenty times as fast, writes a value as RFC 8785 does: no floats, ASCII keys, safe ints."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is dict:
        return all(type(key) is str and key.isascii() for key in value) and all(map(_same_in_orjson, value.values()))
    if kind is list or kind is tuple:
        return all(map(_same_in_orjson, value))
    return kind is int and -SAFE_INTEGER <= value <= SAFE_INTEGER


def digest_of(value: Any) -> str:
    """Return `sha256:<hex>` of the canonical JSON of plain data."""
    return sha256(canonical(value))


def sha256(data: bytes) -> str:
    """Return `sha256:<hex>` of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def plain(value: Any) -> Any:
    """Return a record (or anything built of records, dicts, tuples) as plain JSON data.

    A field that was added to a record later (`metadata={"later": True}`) is left out while it stands at its default.
    """
    if isinstance(value, str | int | float) or value is None:
        return value
    if hasattr(value, "__dataclass_fields__"):
        known = {f.name: getattr(value, f.name) for f in fields(value) if not _unsaid(f, getattr(value, f.name))}
        return {name: plain(item) for name, item in known.items()}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _unsaid(item: Field[Any], value: Any) -> bool:
    """Say whether a field that came later stands at its default: left out, records from before keep their id."""
    return bool(item.metadata.get("later")) and value == item.default


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the journal: what happened, who did it, and the hash of the line before it. `v` is the frame's."""

    segment: str
    pos: int
    ts: str
    actor: str
    kind: str
    subject: str
    body: dict[str, Any]
    prev: str
    hash: str
    v: int = 2
    sig: dict[str, Any] | None = None
    """The actor's seal (`registry/seals.py`), where there is one."""


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One file of a manifest: `path` is relative with forward slashes, `mode` the permission bits."""

    path: str
    size: int
    mode: int
    blake3: str
    sha256: str
    media_type: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A folder, content-addressed: the id is the SHA-256 of the canonical JSON of its entries, sorted by path."""

    entries: tuple[ManifestEntry, ...]

    @property
    def id(self) -> str:
        """`sha256:<hex>`, what certificates bind."""
        return digest_of(plain(self))

    def entry(self, path: str) -> ManifestEntry | None:
        """Return the entry of a path, or None."""
        return next((entry for entry in self.entries if entry.path == path), None)


@dataclass(frozen=True, slots=True)
class Record:
    """What every registered thing shares; subclasses set `KIND`."""

    KIND: ClassVar[str] = ""

    @property
    def id(self) -> str:
        """`sha256:<hex>` of kind and content."""
        return digest_of({"kind": self.KIND, "body": plain(self)})


@dataclass(frozen=True, slots=True)
class Dataset(Record):
    """Curated rows. `rows_digest` hashes the ordered logical rows; `manifest` is the stored folder of Parquet files.

    `splits` maps split name to row count; `drops` counts rows dropped by reason; `quarantined` lists files that could
    not be read, each with its reason; `sources` names each source with licence, version and digest.
    """

    KIND: ClassVar[str] = "dataset"
    name: str
    spec: str
    rows_digest: str
    manifest: str
    splits: dict[str, int]
    sources: list[dict[str, Any]]
    drops: dict[str, int]
    quarantined: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Tokenizer(Record):
    """A trained tokenizer. `manifest` addresses its files, template included; `digest` is that of `tokenizer.json`.

    `datasets` are those whose training splits it learned from; none where it came with an imported model.
    """

    KIND: ClassVar[str] = "tokenizer"
    name: str
    manifest: str
    vocab_size: int
    digest: str
    datasets: list[str]


@dataclass(frozen=True, slots=True)
class Recipe(Record):
    """What a run was told to do: every field of the recipe as plain data in `body`, and the digest of all of them."""

    KIND: ClassVar[str] = "recipe"
    name: str
    method: str
    digest: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run(Record):
    """One execution of a recipe. `state_digest` is the hash of the final weights, `environment` what reproduces it."""

    KIND: ClassVar[str] = "run"
    method: str
    recipe: str
    recipe_body: dict[str, Any]
    datasets: list[str]
    base: str | None
    state_digest: str
    steps: int
    tokens: int
    metrics: dict[str, float]
    environment: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelVersion(Record):
    """A plain Hugging Face folder. `manifest` addresses it; `weights` maps weight files to SHA-256."""

    KIND: ClassVar[str] = "version"
    name: str
    manifest: str
    run: str | None
    base: str | None
    datasets: list[str]
    architecture: str
    parameters: int
    weights: dict[str, str]


@dataclass(frozen=True, slots=True)
class Adapter(Record):
    """A PEFT folder that changes one base version and no other. `base` is that version's id.

    `manifest` addresses the folder, `weights` maps its weight files to SHA-256, `method` is PEFT's name of the kind of
    adapter (`LORA`), `rank` its rank (0 where the method has none).
    """

    KIND: ClassVar[str] = "adapter"
    name: str
    base: str
    manifest: str
    method: str
    rank: int
    weights: dict[str, str]
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate(Record):
    """The complete configuration that would serve; what is evaluated, gated, certified and served.

    `weights` is the manifest id of the model folder, `tokenizer` and `template` digests of those parts inside it (or of
    the override), `bundle` the manifest id of the inference policy, `adapter` that of the adapter's folder, or `none`.
    """

    KIND: ClassVar[str] = "candidate"
    version: str
    weights: str
    tokenizer: str
    template: str
    system_prompt: str
    generation: dict[str, Any]
    engine: str
    engine_version: str
    quantisation: str
    bundle: str
    adapter: str = field(default="none", metadata={"later": True})


@dataclass(frozen=True, slots=True)
class Suite(Record):
    """A registered suite: `manifest` holds its YAML and data, `instruments` one digest per KPI."""

    KIND: ClassVar[str] = "suite"
    name: str
    version: int
    manifest: str
    instruments: dict[str, str]
    canary: str


@dataclass(frozen=True, slots=True)
class PolicyBundle(Record):
    """An inference policy: `manifest` addresses its folder, `version` is the author's own number."""

    KIND: ClassVar[str] = "bundle"
    name: str
    version: int
    manifest: str


@dataclass(frozen=True, slots=True)
class EvalRun(Record):
    """Results of one candidate on one suite. `results` is the digest of the Parquet blob of sample rows.

    `target` is `weights`, `guarded`, `vllm`, `url` or `import`, per KPI; `control` names the control that was evaluated
    instead of a real candidate, else it is empty; `imported` marks results of another harness. `planned` counts the
    samples of the whole suite and `completed` those of this run, which is fewer where it holds one look. `judges` says
    per judged KPI which judge scored it and how it stood (`evals.results.Judgement`, as plain data).
    """

    KIND: ClassVar[str] = "eval_run"
    candidate: str
    suite: str
    instruments: dict[str, str]
    results: str
    planned: dict[str, int]
    completed: dict[str, int]
    errors: dict[str, int]
    target: dict[str, str]
    harness: dict[str, str]
    permit: str = ""
    control: str = ""
    imported: bool = False
    judges: dict[str, dict[str, Any]] | None = field(default=None, metadata={"later": True})


@dataclass(frozen=True, slots=True)
class GateDecision(Record):
    """The gate's verdict on one candidate. `report` is the whole value of the pure decision, as plain data."""

    KIND: ClassVar[str] = "decision"
    candidate: str
    baseline: str | None
    suite: str
    verdict: str
    bootstrap: bool
    mode: str
    alpha: float
    eval_runs: list[str]
    differs: list[str]
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Certificate(Record):
    """A DSSE envelope over one in-toto statement; `candidate` and `decision` repeat what it binds, for joins."""

    KIND: ClassVar[str] = "certificate"
    candidate: str
    version: str
    decision: str
    expires: str
    envelope: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Release(Record):
    """An alias pointing at a certificate, as served: the content of the alias's pointer file."""

    KIND: ClassVar[str] = "release"
    alias: str
    certificate: str
    candidate: str
    version: str
    moved: str
    reason: str


@dataclass(frozen=True, slots=True)
class DriftWindow(Record):
    """Two windows of the decision log compared: one verdict a signal, with the stated false-alarm rate.

    `cause` is `traffic`, `model`, `both` or, where no canaries were compared, empty. `canaries` is what the replay of
    canaries said; `check` names the certificate, the level that this check used, and what that promises.
    """

    KIND: ClassVar[str] = "drift"
    alias: str
    verdict: str
    reference: dict[str, Any]
    current: dict[str, Any]
    signals: list[dict[str, Any]]
    html: str = ""
    cause: str = field(default="", metadata={"later": True})
    canaries: dict[str, Any] | None = field(default=None, metadata={"later": True})
    check: dict[str, Any] | None = field(default=None, metadata={"later": True})


@dataclass(frozen=True, slots=True)
class Asset:
    """A registered record as the store returns it: who owns it, when it came, and what it was made from."""

    id: str
    kind: str
    name: str
    number: int
    owner: str
    created: str
    body: dict[str, Any]
    parents: tuple[tuple[str, str], ...] = field(default=())
    """Pairs of (relation, parent id), e.g. `("dataset", "sha256:...")`."""
