"""Turns events into rows of the projection's tables: one function per kind that has a table of its own."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from registry.artifacts import Artifacts
from registry.records import Event

Rows = dict[str, list[tuple[Any, ...]]]


def project(events: Iterable[tuple[int, Event]]) -> Rows:
    """Return the rows of every table for numbered events, in event order."""
    rows: Rows = defaultdict(list)
    for seq, event in events:
        rows["event"].append((seq, event.segment, event.pos, event.ts, event.actor, event.kind, event.subject,
                              _json(event.body), event.prev, event.hash, event.v,
                              _json(event.sig) if event.sig else None))  # fmt: skip
        projector = PROJECTORS.get(event.kind)
        if projector:
            projector(rows, seq, event)
    return rows


def sample_tables(events: Iterable[tuple[int, Event]], artifacts: Artifacts) -> list[Any]:
    """Return one Arrow table of sample rows per evaluation run among the events, read from its verified blob."""
    tables = []
    for _, event in events:
        body = event.body
        if event.kind == "asset.registered" and body["kind"] == "eval_run":
            import pyarrow as pa
            import pyarrow.parquet as pq

            table = pq.read_table(io.BytesIO(artifacts.read_bytes(body["body"]["results"])))
            run = pa.array([event.subject] * table.num_rows, pa.string())
            tables.append(table.add_column(0, "eval_run", run))
    return tables


def _asset(rows: Rows, seq: int, event: Event) -> None:
    body = event.body
    rows["asset"].append((event.subject, body["kind"], body["name"], body["number"], event.actor, event.ts,
                          _json(body["body"]), seq))  # fmt: skip
    for relation, parent in body["parents"]:
        rows["edge"].append((event.subject, relation, parent, seq))
    if body["kind"] == "decision":
        _decision(rows, seq, event.subject, body["body"])


def _decision(rows: Rows, seq: int, decision: str, body: dict[str, Any]) -> None:
    for kpi in body["report"].get("kpis", []):
        rows["gate_kpi"].append((decision, kpi.get("kpi") or kpi.get("id"), _rule(kpi.get("rule")), kpi.get("verdict"),
                                 kpi.get("estimate"), kpi.get("lower"), kpi.get("upper"), kpi.get("n"),
                                 kpi.get("clusters"), _json(kpi), seq))  # fmt: skip


def _rule(rule: Any) -> str:
    return str(rule.get("type", "")) if isinstance(rule, dict) else str(rule or "")


def _alias(rows: Rows, seq: int, event: Event) -> None:
    body = event.body
    rows["alias_history"].append((event.subject, body["certificate"], body["candidate"], body["version"], event.actor,
                                  event.ts, body["reason"], body["release"], seq))  # fmt: skip


def _approval(rows: Rows, seq: int, event: Event) -> None:
    body = event.body
    rows["approval"].append((body["candidate"], body["decision"], event.actor, body["keyid"], event.ts, body["reason"],
                             _json(body["envelope"]), seq))  # fmt: skip


def _gateway(rows: Rows, seq: int, event: Event) -> None:
    body = event.body
    groups = body.get("groups")
    rows["gateway_decision"].append((
        event.ts, body.get("endpoint"), body.get("request_id") or event.subject, body.get("principal"),
        ",".join(groups) if isinstance(groups, list) else groups, body.get("model"), body.get("candidate"),
        body.get("certificate"), body.get("bundle"), body.get("action"), _json(body.get("rules", [])),
        body.get("status"), body.get("prompt_tokens"), body.get("completion_tokens"), body.get("input_chars"),
        body.get("output_chars"), body.get("latency_ms"), body.get("finish_reason"), body.get("input_hash"),
        body.get("output_hash"), body.get("determinism"), seq,
    ))  # fmt: skip


PROJECTORS: dict[str, Callable[[Rows, int, Event], None]] = {
    "asset.registered": _asset,
    "alias.moved": _alias,
    "approval.given": _approval,
    "gateway.decision": _gateway,
}


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
