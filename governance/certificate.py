"""Issues certificates: one DSSE-signed in-toto statement.

It binds the whole candidate, the instruments, the results, the statistical plan, the verdict and the approvals.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from governance.approvals import Approval, quorum
from registry.attestation import CERTIFICATE_PREDICATE, STATEMENT, STATEMENT_TYPE, parts_of, verify_certificate
from registry.checkpoints import origin_of
from registry.clock import trusted_now
from registry.errors import HallmarkError, Refused
from registry.identity import sign_envelope
from registry.merkle import Frontier
from registry.records import Asset, Candidate, Certificate, EvalRun, canonical, plain
from registry.workspace import Workspace

PLANNED = ("rule", "gating", "against", "slice", "scale", "level", "pass_level", "threshold", "bound", "look",
           "fraction", "n", "clusters", "source", "target", "judge", "contaminated")  # fmt: skip
"""What of a KPI's line in the decision is its plan: what was to be shown, at which level and look, by which method,
and where the evidence came from (`measured`, `imported`, or `unverified`: asked of a URL)."""
LEDGER = ("look", "judged", "familywise")
"""What of a decision says how often these samples were used: its look, and how many candidates they have judged."""


def statement_of(
    ws: Workspace, candidate: Candidate, decision: Asset, approvals: list[Approval], *, quorum: int, days: float
) -> dict[str, Any]:
    """Return the in-toto statement (v1): subjects are every file of weights and policy, by SHA-256."""
    now = trusted_now(ws)
    subjects = [
        {"name": f"{prefix}/{entry.path}", "digest": {"sha256": entry.sha256.removeprefix("sha256:")}}
        for prefix, manifest in parts_of(candidate)
        for entry in ws.artifacts.manifest(manifest).entries
    ]
    runs = [ws.get(run, EvalRun) for run in decision.body["eval_runs"]]
    return {
        "_type": STATEMENT,
        "subject": subjects,
        "predicateType": CERTIFICATE_PREDICATE,
        "predicate": {
            "candidate": plain(candidate),
            "candidateDigest": candidate.id,
            **_adapter(ws, candidate),
            "suite": decision.body["suite"],
            "instruments": {kpi: digest for run in runs for kpi, digest in run.instruments.items()},
            "results": [{"evalRun": run.id, "candidate": run.candidate, "rows": run.results, "imported": run.imported}
                        for run in runs],
            "plan": _plan(decision),
            "decision": decision.id,
            "verdict": decision.body["verdict"],
            "bootstrap": decision.body["bootstrap"],
            "baseline": decision.body["baseline"],
            "approvals": [approval.envelope for approval in approvals],
            "quorum": quorum,
            "approvers": sorted(approval.keyid for approval in approvals),
            "journal": _journal(ws),
            "workspace": ws.settings.workspace_id,
            "issued": now.isoformat(timespec="seconds"),
            "expires": (now + timedelta(days=days)).isoformat(timespec="seconds"),
        },
    }  # fmt: skip


def _plan(decision: Asset) -> dict[str, Any]:
    """Return the statistical plan a decision was made by: mode, alpha, and each KPI's rule, controls and role."""
    body = decision.body
    kpis = [{"kpi": kpi.get("kpi") or kpi.get("id"), **{key: kpi[key] for key in PLANNED if key in kpi}}
            for kpi in body["report"].get("kpis", [])]  # fmt: skip
    used = {key: body["report"][key] for key in LEDGER if key in body["report"]}
    return {"mode": body["mode"], "alpha": body["alpha"], "bootstrap": body["bootstrap"], **used, "kpis": kpis}


def _adapter(ws: Workspace, candidate: Candidate) -> dict[str, Any]:
    """Return which adapter a candidate carries and the version it changes; nothing where it carries none.

    Raises Refused for an adapter of another version.
    """
    if candidate.adapter == "none":
        return {}
    rows = ws.store.query(
        "SELECT id, json_extract_string(body, '$.base') AS base FROM asset WHERE kind = 'adapter'"
        " AND json_extract_string(body, '$.manifest') = ? ORDER BY seq",
        [candidate.adapter],
    )
    found = [row for row in rows if row["base"] == candidate.version]
    if not found:
        raise Refused("the candidate's adapter is not one of its version", hint="register it with this base")
    return {"adapter": {"id": found[0]["id"], "manifest": candidate.adapter, "base": candidate.version}}


def _journal(ws: Workspace) -> dict[str, Any]:
    """Return the state of the log this certificate was issued on: origin, size and root of its tree (RFC 6962)."""
    size, peaks = ws.store.frontier()
    return {
        "origin": origin_of(ws.settings.workspace_id), "size": size, "root": Frontier(size, peaks).root().hex(),
    }  # fmt: skip


def issue(
    ws: Workspace,
    candidate: Asset,
    decision: Asset,
    approvals: list[Approval],
    *,
    actor: str,
    passphrase: bytes | None = None,
) -> Asset:
    """Return the certificate of a candidate that passed and was approved; an existing one that holds is returned.

    Raises Refused when the verdict is not PASS.
    """
    if decision.body["verdict"] != "PASS" or decision.body["candidate"] != candidate.id:
        raise Refused("only a candidate's own PASS can be certified", hint="run the gate for this candidate")
    existing = _current(ws, decision.id)
    if existing:
        return existing
    statement = statement_of(
        ws, ws.get(candidate.id, Candidate), decision, approvals,
        quorum=quorum(ws), days=ws.settings.number("certificate_days"),
    )  # fmt: skip
    envelope = sign_envelope(STATEMENT_TYPE, canonical(statement), ws.keys.load(actor, passphrase))
    record = Certificate(
        candidate.id, candidate.body["version"], decision.id, statement["predicate"]["expires"], envelope
    )
    parents = [("candidate", candidate.id), ("decision", decision.id)]
    return ws.register(record, actor=actor, name=candidate.name, parents=parents)


def _current(ws: Workspace, decision: str) -> Asset | None:
    rows = ws.store.query(
        "SELECT a.id FROM asset a WHERE a.kind = 'certificate'"
        " AND json_extract_string(a.body, '$.decision') = ? AND NOT EXISTS (SELECT 1 FROM event e"
        " WHERE e.kind = 'certificate.revoked' AND e.subject = a.id) ORDER BY a.seq DESC LIMIT 1",
        [decision],
    )
    if not rows:
        return None
    try:
        verify_certificate(ws, rows[0]["id"])
    except HallmarkError:
        return None  # expired, or its signer's key was revoked: a new one is issued
    return ws.resolve(rows[0]["id"], "certificate")
