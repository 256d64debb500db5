"""Every question the reports ask the projection: all SQL is here, all answers are frozen facts with their evidence.

A `Views` is fixed to one point of the journal, so its answers agree with one another while others keep writing, and
the same point gives the same answers later.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import orjson

from registry.errors import HallmarkError, NotFound
from registry.identity import Principal
from registry.workspace import Workspace
from reports import bundles, decoding
from reports.facts import (
    Approval,
    AsOf,
    Bundle,
    Certificate,
    Coverage,
    Decision,
    Edge,
    Evidence,
    Filed,
    Lineage,
    Move,
    Step,
    Traffic,
)

log = logging.getLogger(__name__)

ASSETS = """
SELECT a.id, a.kind, a.name, a.number, a.owner, a.created, a.body, a.seq, e.hash
FROM asset a JOIN event e ON e.seq = a.seq
WHERE a.seq <= ? AND {where} ORDER BY a.seq
"""
ANCESTRY = """
WITH RECURSIVE up(id) AS (
  SELECT ?::VARCHAR UNION SELECT edge.parent FROM edge JOIN up ON edge.child = up.id WHERE edge.seq <= ?
)
SELECT id FROM up
"""
MINE = """
WITH mine AS (SELECT *, coalesce(action, '') AS did FROM gateway_decision WHERE seq <= $1 AND candidate IN $2)
"""
TRAFFIC = """
SELECT count(*) AS total, coalesce(min(ts), '') AS first, coalesce(max(ts), '') AS last, min(seq) AS first_seq,
       max(seq) AS last_seq, count(DISTINCT principal) AS principals,
       coalesce(sum(prompt_tokens), 0)::BIGINT AS prompt_tokens,
       coalesce(sum(completion_tokens), 0)::BIGINT AS completion_tokens,
       quantile_disc(latency_ms, 0.5) AS p50_ms, quantile_disc(latency_ms, 0.95) AS p95_ms
FROM mine
"""
ACTIONS = "SELECT did, count(*) AS n FROM mine GROUP BY did ORDER BY n DESC, did"
ENDPOINTS = """
SELECT coalesce(endpoint, '') AS name, count(*) AS n FROM mine GROUP BY name ORDER BY n DESC, name
"""
RULES = """
SELECT did, rule, count(*) AS n
FROM (SELECT did, unnest(rules::JSON[]) AS rule FROM mine WHERE json_type(rules) = 'ARRAY')
GROUP BY did, rule ORDER BY n DESC, did, rule
"""
COVERAGE = """,
answered AS (SELECT DISTINCT request_id FROM mine),
intent AS (SELECT subject AS request_id, min(seq) AS seq FROM event
           WHERE kind = 'gateway.intent' AND seq <= $1
             AND (body->>'$.candidate' IN $2 OR body->>'$.certificate' IN $3) GROUP BY subject),
lost AS (FROM intent WHERE request_id NOT IN (SELECT request_id FROM gateway_decision WHERE seq <= $1))
SELECT (SELECT count(*) FROM (SELECT request_id FROM intent UNION FROM answered)) AS requests,
       (SELECT count(*) FROM answered) AS decisions, (SELECT count(*) FROM lost) AS unanswered,
       (SELECT min(seq) FROM lost) AS first_lost, (SELECT max(seq) FROM mine) AS last_seq
"""


class Views:
    """The projection of one workspace as of event `upto` (default: the last one now)."""

    def __init__(self, ws: Workspace, upto: int | None = None) -> None:
        self.ws = ws
        self.as_of = self._as_of(upto)

    @cached_property
    def principals(self) -> dict[str, Principal]:
        """Key holders by key id; empty when the journal's list of them does not verify."""
        try:
            return self.ws.principals()
        except HallmarkError:
            log.warning("the list of principals does not verify; signatures in this report count as unknown")
            return {}

    def _as_of(self, upto: int | None) -> AsOf:
        rows = self.ws.store.query(
            "SELECT seq, ts, hash FROM event WHERE seq <= ? ORDER BY seq DESC LIMIT 1",
            [2**62 if upto is None else upto],
        )
        if not rows:
            raise NotFound("the journal has no event yet", hint="register something first, or check `--workspace`")
        row = rows[0]
        return AsOf(row["seq"], row["ts"], row["hash"])

    def _rows(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        return self.ws.store.query(sql, params)

    def assets(self, where: str, params: Sequence[Any] = ()) -> tuple[Filed, ...]:
        """Return registered records by an SQL condition on `a` (the asset table), oldest first."""
        rows = self._rows(ASSETS.format(where=where), [self.as_of.seq, *params])
        return tuple(_filed(row) for row in rows)

    def by_id(self, ids: Iterable[str]) -> dict[str, Filed]:
        """Return the records of some ids; unknown ids are left out."""
        wanted = sorted({i for i in ids if isinstance(i, str) and i})
        if not wanted:
            return {}
        return {a.id: a for a in self.assets("list_contains(?::VARCHAR[], a.id)", [wanted])}

    def version(self, ref: str) -> Filed:
        """Return a model version by any reference the workspace resolves. Raises NotFound."""
        asset = self.ws.resolve(ref, "version")
        found = self.by_id([asset.id])
        if not found:
            raise NotFound(f"version `{ref}` is newer than event {self.as_of.seq}", hint="ask for a later point")
        return found[asset.id]

    def decision(self, ref: str) -> Decision:
        """Return one gate decision by any reference the workspace resolves."""
        asset = self.ws.resolve(ref, "decision")
        return self.decisions("a.id = ?", [asset.id])[0]

    def lineage(self, root: str) -> Lineage:
        """Return everything an asset was made from, the asset included."""
        ids = [row["id"] for row in self._rows(ANCESTRY, [root, self.as_of.seq])]
        nodes = self.by_id(ids)
        edges = self._rows(
            "SELECT DISTINCT child, relation, parent FROM edge WHERE seq <= ? AND list_contains(?::VARCHAR[], child)"
            " ORDER BY child, relation, parent",
            [self.as_of.seq, sorted(nodes)],
        )
        order = sorted(nodes.values(), key=lambda n: (n.id != root, n.created, n.id))
        return Lineage(root, tuple(order), tuple(Edge(**row) for row in edges))

    def candidates(self, version: str) -> tuple[Filed, ...]:
        """Return the complete configurations that were made of a version."""
        return self.assets("a.kind = 'candidate' AND a.body->>'$.version' = ?", [version])

    def eval_runs(self, candidates: Sequence[str]) -> tuple[Filed, ...]:
        """Return the evaluation runs of some candidates."""
        return self.assets(
            "a.kind = 'eval_run' AND list_contains(?::VARCHAR[], a.body->>'$.candidate')", [list(candidates)]
        )

    def decisions(self, where: str, params: Sequence[Any]) -> tuple[Decision, ...]:
        """Return gate decisions by an SQL condition on `a`, oldest first."""
        filed = self.assets(f"a.kind = 'decision' AND {where}", params)
        bodies = [f.body for f in filed]
        named = self.by_id(b.get(key, "") for b in bodies for key in ("candidate", "baseline", "suite"))
        versions = self.by_id(c.body.get("version", "") for c in named.values() if c.kind == "candidate")
        return tuple(decoding.decision(f, named, versions) for f in filed)

    def decisions_on(self, candidates: Sequence[str]) -> tuple[Decision, ...]:
        """Return the gate decisions on some candidates."""
        return self.decisions("list_contains(?::VARCHAR[], a.body->>'$.candidate')", [list(candidates)])

    def line_of(self, version: Filed, lineage: Lineage) -> dict[str, str]:
        """Return the versions of the same line, id to how they are related: same name, same base, ancestor."""
        base = version.body.get("base") or ""
        found = {node.id: "ancestor" for node in lineage.nodes if node.kind == "version"}
        rows = self.assets("a.kind = 'version' AND (a.name = ? OR a.body->>'$.base' = ?)", [version.name, base])
        for row in rows:
            same_base = bool(base) and row.body.get("base") == base
            found.setdefault(row.id, "same base model" if same_base else "same name")
        found[version.id] = "this version"
        return found

    def refusals(self, line: dict[str, str]) -> tuple[Decision, ...]:
        """Return the decisions in a line of versions that let nothing through."""
        return self.decisions(
            "a.body->>'$.verdict' <> 'PASS' AND list_contains(?::VARCHAR[], (SELECT c.body->>'$.version' FROM asset c"
            " WHERE c.id = a.body->>'$.candidate' LIMIT 1))",
            [sorted(line)],
        )

    def approvals(self, candidates: Sequence[str]) -> tuple[Approval, ...]:
        """Return the approvals given to some candidates."""
        rows = self._rows(
            "SELECT p.*, e.hash FROM approval p JOIN event e ON e.seq = p.seq"
            " WHERE p.seq <= ? AND list_contains(?::VARCHAR[], p.candidate) ORDER BY p.seq",
            [self.as_of.seq, list(candidates)],
        )
        return tuple(decoding.approval(row, self.principals) for row in rows)

    def certificates(self, candidates: Sequence[str]) -> tuple[Certificate, ...]:
        """Return the certificates of some candidates, with whether they were revoked or had expired by then."""
        filed = self.assets(
            "a.kind = 'certificate' AND list_contains(?::VARCHAR[], a.body->>'$.candidate')", [list(candidates)]
        )
        ids = [f.id for f in filed]
        rows = self._rows(
            "SELECT subject, kind, body, seq, hash FROM event WHERE seq <= ? AND kind = 'certificate.revoked'"
            " AND list_contains(?::VARCHAR[], subject) ORDER BY seq",
            [self.as_of.seq, ids],
        )
        revoked = {row["subject"]: row for row in rows}
        return tuple(decoding.certificate(f, revoked.get(f.id), self.as_of.ts, self.principals) for f in filed)

    def moves(self, version: str) -> tuple[Move, ...]:
        """Return the whole history of every alias that ever pointed at a version."""
        rows = self._rows(
            "SELECT h.*, e.hash, h.seq = max(h.seq) OVER (PARTITION BY h.alias) AS current"
            " FROM alias_history h JOIN event e ON e.seq = h.seq WHERE h.seq <= ?"
            " AND h.alias IN (SELECT alias FROM alias_history WHERE version = ? AND seq <= ?) ORDER BY h.seq",
            [self.as_of.seq, version, self.as_of.seq],
        )
        labels = {a.id: a.label for a in self.by_id(row["version"] for row in rows).values()}
        return tuple(decoding.move(row, labels) for row in rows)

    def bundles(self, candidates: Sequence[Filed]) -> tuple[Bundle, ...]:
        """Return the policy bundles of some candidates, read from the object store."""
        seen = {c.body["bundle"]: c for c in candidates if c.body.get("bundle")}
        return tuple(bundles.read(self.ws.artifacts, manifest, by) for manifest, by in sorted(seen.items()))

    def files(self, manifest: str) -> list[dict[str, Any]]:
        """Return path, size and SHA-256 of a manifest's files; empty where the manifest is missing or altered."""
        try:
            return [bundles.told(entry) for entry in self.ws.artifacts.manifest(manifest).entries]
        except HallmarkError:
            log.warning("manifest %s cannot be read; its files are not listed", manifest)
            return []

    def traffic(self, candidates: Sequence[str]) -> Traffic:
        """Return counts of the endpoint's decisions for some candidates."""
        params = [self.as_of.seq, list(candidates)]
        total = self._rows(MINE + TRAFFIC, params)[0]
        actions = self._rows(MINE + ACTIONS, params)
        rules = self._rows(MINE + RULES, params)
        ends = (total.pop("first_seq"), total.pop("last_seq"))
        return Traffic(
            **total,
            endpoints=tuple((row["name"], row["n"]) for row in self._rows(MINE + ENDPOINTS, params)),
            actions=tuple((row["did"], row["n"]) for row in actions),
            rules=tuple((row["did"], decoding.rule_name(row["rule"]), row["n"]) for row in rules),
            evidence=self.events_at(ends),
        )

    def coverage(self, candidates: Sequence[str], certificates: Sequence[str]) -> Coverage:
        """Return how many of the requests known for some candidates (intents name the certificate) were decided."""
        row = self._rows(MINE + COVERAGE, [self.as_of.seq, list(candidates), list(certificates)])[0]
        ends = (row.pop("first_lost"), row.pop("last_seq"))
        return Coverage(**row, evidence=self.events_at(ends))

    def drift(self, aliases: Iterable[str], candidates: Iterable[str]) -> tuple[Filed, ...]:
        """Return the drift windows over traffic of the candidates, or of the aliases where a window names none."""
        windows = self.assets(
            "a.kind = 'drift' AND list_contains(?::VARCHAR[], a.body->>'$.alias')", [sorted(set(aliases))]
        )
        mine = set(candidates)
        return tuple(
            w for w in windows if not (named := decoding.window_candidates(w.body)) or not named.isdisjoint(mine)
        )

    def events_at(self, seqs: Iterable[int | None]) -> tuple[Evidence, ...]:
        """Return events by position, as evidence."""
        wanted = sorted({s for s in seqs if s is not None})
        rows = (
            self._rows("SELECT seq, kind, hash FROM event WHERE list_contains(?::BIGINT[], seq) ORDER BY seq", [wanted])
            if wanted
            else []
        )
        return tuple(Evidence("event", row["hash"], row["kind"], row["seq"]) for row in rows)

    def roles(self) -> tuple[dict[str, Any], ...]:
        """Return who holds a key in which role, with the event that registered them."""
        rows = self._rows(
            "SELECT subject AS name, body->>'$.role' AS role, body->>'$.keyid' AS key, seq FROM event"
            " WHERE kind = 'principal.created' AND seq <= ? ORDER BY seq",
            [self.as_of.seq],
        )
        found = {e.seq: e for e in self.events_at(row["seq"] for row in rows)}
        return tuple({**row, "evidence": (found[row.pop("seq")],)} for row in rows)

    def steps(self, subjects: Iterable[str], aliases: Iterable[str]) -> tuple[Step, ...]:
        """Return the journal's events about some subjects, requests of the endpoint left out."""
        wanted = sorted({*subjects, *aliases})
        rows = self._rows(
            "SELECT seq, ts, actor, kind, subject, body, hash FROM event WHERE seq <= ? AND kind NOT LIKE 'gateway.%'"
            " AND (list_contains(?::VARCHAR[], subject) OR list_contains(?::VARCHAR[], body->>'$.candidate'))"
            " ORDER BY seq",
            [self.as_of.seq, wanted, wanted],
        )
        return tuple(
            Step(
                r["seq"],
                r["ts"],
                r["actor"],
                r["kind"],
                r["subject"],
                decoding.summary(r["kind"], orjson.loads(r["body"])),
                r["hash"],
            )
            for r in rows
        )


def _filed(row: dict[str, Any]) -> Filed:
    found = Evidence("event", row.pop("hash"), "asset.registered", row.pop("seq"))
    body = orjson.loads(row.pop("body"))
    return Filed(**row, body=body, evidence=(Evidence("asset", row["id"], row["kind"]), found))
