"""Issues certificates: one DSSE-signed in-toto statement.

It binds the whole candidate, the instruments, the results, the statistical plan, the verdict and the approvals.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from governance.approvals import Approval
from registry.attestation import CERTIFICATE_PREDICATE, STATEMENT, STATEMENT_TYPE, verify_certificate
from registry.clock import trusted_now
from registry.errors import HallmarkError, Refused
from registry.identity import sign_envelope
from registry.records import Asset, Candidate, Certificate, EvalRun, canonical, plain
from registry.workspace import Workspace


def statement_of(
    ws: Workspace, candidate: Candidate, decision: Asset, approvals: list[Approval], *, quorum: int, days: float
) -> dict[str, Any]:
    """Return the in-toto statement (v1): subjects are every file of weights and policy, by SHA-256."""
    now = trusted_now(ws)
    subjects = [
        {"name": f"{prefix}/{entry.path}", "digest": {"sha256": entry.sha256.removeprefix("sha256:")}}
        for prefix, manifest in (("weights", candidate.weights), ("bundle", candidate.bundle))
        for entry in ws.artifacts.manifest(manifest).entries
    ]
    runs = [ws.get(run, EvalRun) for run in decision.body["eval_runs"]]
    report = decision.body["report"]
    return {
        "_type": STATEMENT,
        "subject": subjects,
        "predicateType": CERTIFICATE_PREDICATE,
        "predicate": {
            "candidate": plain(candidate),
            "candidateDigest": candidate.id,
            "suite": decision.body["suite"],
            "instruments": {kpi: digest for run in runs for kpi, digest in run.instruments.items()},
            "results": [{"evalRun": run.id, "candidate": run.candidate, "rows": run.results, "imported": run.imported}
                        for run in runs],
            "plan": {"mode": decision.body["mode"], "alpha": decision.body["alpha"],
                     "kpis": [{"kpi": kpi.get("kpi") or kpi.get("id"), "rule": kpi.get("rule")}
                              for kpi in report.get("kpis", [])]},
            "decision": decision.id,
            "verdict": decision.body["verdict"],
            "bootstrap": decision.body["bootstrap"],
            "baseline": decision.body["baseline"],
            "approvals": [approval.envelope for approval in approvals],
            "quorum": quorum,
            "workspace": ws.settings.workspace_id,
            "issued": now.isoformat(timespec="seconds"),
            "expires": (now + timedelta(days=days)).isoformat(timespec="seconds"),
        },
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
        quorum=int(ws.settings.number("approvals")), days=ws.settings.number("certificate_days"),
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
