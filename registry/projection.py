"""Turns records into rows of the projection's tables: one function per kind that has a table of its own.

Most kinds need none: they are found in the `event` table. Chunks of records become columns without an object a record.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from registry.artifacts import Artifacts
from registry.merkle import Frontier
from registry.records import Event
from registry.segment import Chunk

Rows = dict[str, list[tuple[Any, ...]]]

FEW = 64
"""Below this many rows, plain inserts are quicker than importing Arrow."""
MANY = 500_000
"""About how many sample rows are inserted at once."""
STRINGS = ("segment", "ts", "actor", "kind", "subject", "body", "prev", "hash", "sig")
SAMPLE = ("sample_id", "kpi", "epoch", "value", "weight", "cluster", "error", "detail")
"""Columns of sample rows that every release has written."""
LATER = {"slices": "", "output": "", "latency_ms": 0.0, "prompt_tokens": 0, "completion_tokens": 0, "scorer": ""}
"""Columns that came later, and what rows of earlier releases hold in them."""
REPEATED = ["kpi", "cluster", "error", "slices", "scorer"]
"""Texts that occur many times: they travel as dictionaries, which DuckDB takes over without copying a text."""
EVENT = ("seq", "segment", "pos", "ts", "actor", "kind", "subject", "body", "prev", "hash", "v", "sig", "leaf")


class Intake:
    """Records on their way into the projection, in order; `first` is the number (from 1) of the first of them."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.rows: Rows = defaultdict(list)
        self.events: dict[str, list[Any]] = {name: [] for name in EVENT}
        self.segments: set[str] = set()
        self.runs: list[tuple[str, str]] = []
        """Evaluation runs and the digests of their sample rows."""

    def __len__(self) -> int:
        return len(self.events["seq"])

    def add(self, segment: str, chunk: Chunk) -> list[bytes]:
        """Take in a chunk; return its leaves in the log's tree."""
        seq, count = self.first + len(self), len(chunk.ends)
        self.segments.add(segment)
        sha256, dumps = hashlib.sha256, orjson.dumps  # what is dumped was written sorted: it stays so
        leaves = [sha256(b"\x00" + payload).digest() for payload in chunk.payloads]
        columns: dict[str, Sequence[Any]] = {
            "seq": range(seq, seq + count), "segment": [segment] * count,
            "pos": range(chunk.first, chunk.first + count), "ts": chunk.times, "actor": chunk.actors,
            "kind": chunk.kinds, "subject": chunk.subjects, "prev": chunk.prevs, "hash": chunk.hashes,
            "body": [dumps(body) for body in chunk.bodies], "v": chunk.versions, "leaf": leaves,
            "sig": [sig and dumps(sig) for sig in chunk.sigs],
        }  # fmt: skip
        for name, values in columns.items():
            self.events[name].extend(values)
        if not PROJECTORS.keys().isdisjoint(chunk.kinds):
            for index, kind in enumerate(chunk.kinds):
                projector = PROJECTORS.get(kind)
                if projector:
                    event = chunk.event(segment, index)
                    projector(self.rows, seq + index, event)
                    if kind == "asset.registered" and event.body["kind"] == "eval_run":
                        self.runs.append((event.subject, event.body["body"]["results"]))
        return leaves

    def insert(self, connection: Any, artifacts: Artifacts) -> None:
        """Insert everything taken in; the caller holds the transaction."""
        if len(self) < FEW:
            texts = {name: [value and value.decode() for value in self.events[name]] for name in ("body", "sig")}
            few = [self.events[name] if name not in texts else texts[name] for name in EVENT]
            _insert_rows(connection, "event", list(zip(*few, strict=True)))
        else:
            _insert_table(connection, "event", _event_table(self.events))
        for table, rows in self.rows.items():
            _insert_rows(connection, table, rows)
        _insert_samples(connection, self.runs, artifacts)


def extended(tree: Frontier, leaves: Sequence[bytes]) -> Frontier:
    """Return a tree with leaves added, level by level: what `Frontier.append` gives one by one (RFC 6962, 2.1)."""
    sha256, peaks, made, height = hashlib.sha256, list(tree.peaks), [], 0
    level = list(leaves)
    while level or tree.size >> height:
        if tree.size >> height & 1:
            level.insert(0, peaks.pop())
        if len(level) & 1:
            made.append(level[-1])
        pairs = iter(level)
        level = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)]
        height += 1
    return Frontier(tree.size + len(leaves), made[::-1])


def _event_table(columns: dict[str, list[Any]]) -> Any:
    import pyarrow as pa

    types = dict.fromkeys(STRINGS, pa.string()) | {"leaf": pa.binary(32), "v": pa.int32()}
    return pa.table({name: pa.array(columns[name], types.get(name, pa.int64())) for name in EVENT})


def _insert_table(connection: Any, name: str, table: Any) -> None:
    connection.register("incoming", table)
    try:
        names = ", ".join(table.column_names)
        connection.execute(f"INSERT INTO {name} ({names}) SELECT {names} FROM incoming")  # noqa: S608 (our own names)
    finally:
        connection.unregister("incoming")


def _insert_rows(connection: Any, table: str, rows: list[tuple[Any, ...]]) -> None:
    """Insert rows in order: one by one where they are few, through Arrow (whose import costs more) where many."""
    if len(rows) < FEW:
        marks = ", ".join("?" for _ in rows[0])
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608 (our own names)
        return
    import pyarrow as pa

    names = [row[1] for row in connection.execute(f"PRAGMA table_info('{table}')").fetchall()]
    columns = {name: pa.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    _insert_table(connection, table, pa.table(columns))


def _insert_samples(connection: Any, runs: Sequence[tuple[str, str]], artifacts: Artifacts) -> None:
    """Insert the rows of evaluation runs, many at once: a batch below a row group costs DuckDB twice the work."""
    waiting: list[Any] = []
    for run, digest in runs:
        table = _samples(run, artifacts.read_bytes(digest))
        full = sum(each.num_rows for each in waiting) >= MANY
        if waiting and (full or waiting[0].schema != table.schema):
            _insert_tables(connection, waiting)
            waiting = []
        waiting.append(table)
    if waiting:
        _insert_tables(connection, waiting)


def _samples(run: str, parquet: bytes) -> Any:
    """Return the rows of a run as the projection has them; what earlier releases did not write is filled in."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(parquet), read_dictionary=REPEATED)
    columns = {name: table[name] for name in (*SAMPLE, *LATER) if name in table.column_names or name in SAMPLE}
    filled = {name: pa.repeat(value, table.num_rows) for name, value in LATER.items() if name not in columns}
    of = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), table.num_rows), [run])
    return pa.table({"eval_run": of, **columns, **filled})


def _insert_tables(connection: Any, tables: list[Any]) -> None:
    import pyarrow as pa

    _insert_table(connection, "sample_result", pa.concat_tables(tables).combine_chunks())


def _asset(rows: Rows, seq: int, event: Event) -> None:
    body = event.body
    rows["asset"].append((event.subject, body["kind"], body["name"], body["number"], event.actor, event.ts,
                          _json(body["body"]), seq))  # fmt: skip
    for relation, parent in body["parents"]:
        rows["edge"].append((event.subject, relation, parent, seq, edge_key(event.subject), edge_key(parent)))
    if body["kind"] == "decision":
        _decision(rows, seq, event.subject, body["body"])


def _decision(rows: Rows, seq: int, decision: str, body: dict[str, Any]) -> None:
    for kpi in body["report"].get("kpis", []):
        rows["gate_kpi"].append((decision, kpi.get("kpi") or kpi.get("id"), _rule(kpi.get("rule")), kpi.get("verdict"),
                                 kpi.get("estimate"), kpi.get("lower"), kpi.get("upper"), kpi.get("n"),
                                 kpi.get("clusters"), _json(kpi), seq))  # fmt: skip


def edge_key(ident: str) -> int:
    """Return the 64-bit key by which an id is looked up in the edge table; two ids may share one."""
    return int.from_bytes(hashlib.blake2b(ident.encode(), digest_size=8).digest(), "big", signed=True)


def _rule(rule: Any) -> str:
    return str(rule.get("type", "")) if isinstance(rule, dict) else str(rule or "")


def _alias(rows: Rows, seq: int, event: Event) -> None:
    body = event.body
    rows["alias_history"].append((event.subject, body["certificate"], body["candidate"], body["version"], event.actor,
                                  event.ts, body["reason"], body["release"], seq, edge_key(body["release"]),
                                  edge_key(body["certificate"])))  # fmt: skip


def _approval(rows: Rows, seq: int, event: Event) -> None:
    body = event.body
    rows["approval"].append((body["candidate"], body["decision"], event.actor, body["keyid"], event.ts, body["reason"],
                             _json(body["envelope"]), seq))  # fmt: skip


def _looked(rows: Rows, seq: int, event: Event) -> None:
    body = event.body
    for look in body["looks"]:
        rows["look"].append((look["test"], event.subject, look["opponent"], look["against"], body["suite"], look["kpi"],
                             look["slice"], look["instrument"], look["plan"], look["number"], look["samples"],
                             look["clusters"], look["fraction"], look["level"], look["p_pass"], look["p_fail"],
                             look["verdict"], event.actor, event.ts, seq))  # fmt: skip


def _gateway(rows: Rows, seq: int, event: Event) -> None:
    body = event.body
    groups = body.get("groups")
    rows["gateway_decision"].append((
        event.ts, body.get("endpoint"), body.get("request_id") or event.subject, body.get("principal"),
        ",".join(groups) if isinstance(groups, list) else groups, body.get("model"), body.get("candidate"),
        body.get("certificate"), body.get("bundle"), body.get("action"), _json(body.get("rules", [])),
        body.get("status"), body.get("prompt_tokens"), body.get("completion_tokens"), body.get("input_chars"),
        body.get("output_chars"), body.get("latency_ms"), body.get("finish_reason"), body.get("input_hash"),
        body.get("output_hash"), body.get("determinism"), _json(body["signals"]) if body.get("signals") else None, seq,
    ))  # fmt: skip


PROJECTORS: dict[str, Callable[[Rows, int, Event], None]] = {
    "asset.registered": _asset,
    "alias.moved": _alias,
    "approval.given": _approval,
    "gateway.decision": _gateway,
    "gate.looked": _looked,
}


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
