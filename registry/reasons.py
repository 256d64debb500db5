"""What the journal says about assets: how they were measured, and why people decided as they did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from registry.projection import edge_key
from registry.workspace import Workspace

WORDS = {
    "approval.given": "approved",
    "approval.withdrawn": "approval withdrawn",
    "alias.moved": "released",
    "certificate.revoked": "certificate revoked",
    "source.withdrawn": "source withdrawn",
    "asset.tombstoned": "tombstoned",
    "hold.placed": "hold placed",
    "hold.lifted": "hold lifted",
    "asset.noted": "noted",
}
"""Kind of event to the word a reader sees before the reason that was given."""

SUBJECTS = """
CREATE OR REPLACE TEMP TABLE side AS SELECT * FROM (VALUES {sides}) AS given(side, kind, id, key);
CREATE OR REPLACE TEMP TABLE judged AS
  SELECT side, id, key FROM side WHERE kind = 'candidate'
  UNION SELECT s.side, e.child, e.child_key FROM edge e JOIN side s ON e.parent_key = s.key AND e.parent = s.id
    WHERE e.relation = 'version' AND s.kind = 'version'
      AND s.side NOT IN (SELECT side FROM side WHERE kind = 'candidate');
CREATE OR REPLACE TEMP TABLE made AS
  SELECT j.side, a.id, a.kind, a.owner, a.created, a.seq, a.body, j.id AS candidate
  FROM edge e JOIN judged j ON e.parent_key = j.key AND e.parent = j.id JOIN asset a ON a.id = e.child
  WHERE e.relation = 'candidate' AND a.kind IN ('decision', 'eval_run', 'certificate');
CREATE OR REPLACE TEMP TABLE subject AS
  SELECT side, id FROM side UNION SELECT side, id FROM judged UNION SELECT side, id FROM made
  UNION SELECT s.side, e.parent FROM edge e JOIN side s ON e.child_key = s.key AND e.child = s.id
    WHERE e.relation IN ('recipe', 'tokenizer');
"""
FACTS = """
SELECT m.side, 'kpi' AS what, m.seq, '' AS ts, '' AS actor, m.id AS about,
       to_json({{kpi: k.kpi, value: coalesce((k.detail->>'$.candidate')::DOUBLE, k.estimate)}}) AS data
FROM gate_kpi k JOIN made m ON m.id = k.decision
UNION ALL
SELECT m.side, 'kpi', m.seq, '', '', m.id, to_json({{kpi: r.kpi, value: sum(r.value) / sum(r.weight)}})
FROM sample_result r JOIN made m ON m.id = r.eval_run
WHERE coalesce(m.body->>'$.control', '') = '' AND coalesce(r.error, '') = '' GROUP BY m.side, m.seq, m.id, r.kpi
UNION ALL
SELECT side, 'gate.decided', seq, created, owner, candidate, to_json({{reason: body->>'$.verdict'}})
FROM made WHERE kind = 'decision'
UNION ALL
SELECT s.side, e.kind, e.seq, e.ts, e.actor, e.subject, e.body FROM event e JOIN subject s ON e.subject = s.id
WHERE e.kind IN ({kinds})
UNION ALL
SELECT s.side, e.kind, e.seq, e.ts, e.actor, e.body->>'$.certificate', e.body
FROM event e JOIN subject s ON e.body->>'$.certificate' = s.id WHERE e.kind = 'alias.moved'
UNION ALL
SELECT '', e.kind, e.seq, e.ts, e.actor, e.subject, e.body FROM event e WHERE e.kind = 'source.withdrawn'
ORDER BY seq
"""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why, as somebody recorded it: when, who, which event, about which asset (id) or source (name), in what words."""

    ts: str
    actor: str
    kind: str
    about: str
    text: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """By id: KPI values of the newest decision or evaluation run, and the newest verdict; and all reasons by time."""

    results: dict[str, dict[str, Any]]
    reasons: tuple[Reason, ...]


def literal(text: str) -> str:
    """Return a text as an SQL literal: an id in a forged journal stays a text."""
    return "'" + text.replace("'", "''") + "'"


def recorded(ws: Workspace, about: Mapping[str, Sequence[tuple[str, str]]], sources: set[str]) -> Recorded:
    """Return what is recorded about assets.

    Args:
        ws: the workspace.
        about: each asset's id to (kind, id) of itself and of what it names. Where a candidate is among them its results
            count, else those of every candidate of the version.
        sources: names of data sources whose withdrawal matters here.
    """
    sides = ", ".join(
        f"({literal(side)}, {literal(kind)}, {literal(ident)}, {edge_key(ident)})"
        for side, parts in about.items()
        for kind, ident in parts
    )
    kinds = ", ".join(literal(kind) for kind in WORDS if kind not in ("alias.moved", "source.withdrawn"))
    rows = ws.store.query(SUBJECTS.format(sides=sides) + FACTS.format(kinds=kinds))
    results: dict[str, dict[str, Any]] = {side: {} for side in about}
    reasons: dict[tuple[int, str], Reason] = {}
    for row in rows:  # in journal order: what came later replaces what came before
        data = orjson.loads(row["data"])
        if row["what"] == "kpi":
            results[row["side"]][f"kpi.{data['kpi']}"] = data["value"]
            continue
        if row["what"] == "gate.decided":
            results[row["side"]]["verdict"] = data["reason"]
        if row["what"] != "source.withdrawn" or _concerns(row, data, about, sources):
            reasons[row["seq"], row["what"]] = _reason(row, data)
    return Recorded(results, tuple(reasons.values()))


def _concerns(
    row: Mapping[str, Any], data: Mapping[str, Any], about: Mapping[str, Sequence[tuple[str, str]]], sources: set[str]
) -> bool:
    """Say whether a withdrawal names one of the assets, or a source of theirs."""
    idents = {ident for parts in about.values() for _, ident in parts}
    text = orjson.dumps(data).decode()
    return row["about"] in sources or any(ident in text for ident in idents)


def _reason(row: Mapping[str, Any], data: Mapping[str, Any]) -> Reason:
    word = WORDS.get(row["what"], "gate")
    if row["what"] == "alias.moved":
        word = f"released as `{data.get('pointer', {}).get('alias', '')}`"
    text = str(data.get("reason") or data.get("note") or "")
    return Reason(row["ts"], row["actor"], row["what"], row["about"], f"{word}: {text}" if text else word)
