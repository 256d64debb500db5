"""Turns plain bodies of the journal into facts. Bodies of older or other writers may lack fields: absent stays absent.

Nothing here trusts a value: a body of another shape gives an empty fact, never an error in the middle of a report.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

import orjson

from registry.attestation import APPROVAL_TYPE, STATEMENT_TYPE
from registry.errors import HallmarkError
from registry.identity import Principal, open_envelope
from reports.facts import Approval, Certificate, Decision, Evidence, Filed, Kpi, Move

COMPARES = frozenset({"noninferior", "superior"})


def number(value: Any) -> float | None:
    """Return a finite float, or None for anything else; an infinite bound is an absent one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def count(value: Any) -> int | None:
    """Return a whole number, or None."""
    found = number(value)
    return None if found is None else int(found)


def texts(value: Any) -> tuple[str, ...]:
    """Return a list of texts; one text is a list of one."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(item) for item in value) if isinstance(value, list | tuple) else ()


def mapping(value: Any) -> dict[str, Any]:
    """Return a mapping as it is, anything else as an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def kpi(body: Mapping[str, Any]) -> Kpi:
    """Return one KPI's row of a decision's report."""
    rule = _rule(body)
    found = {name: number(body.get(name)) for name in ("estimate", "lower", "upper", "level")}
    control = mapping(body.get("control"))
    return Kpi(
        id=str(body.get("kpi") or body.get("id") or ""),
        rule=rule,
        verdict=str(body.get("verdict") or "INVALID"),
        gating=bool(body.get("gating", rule["type"] != "advisory")) and body.get("verdict") != "NOT_JUDGED",
        threshold=_threshold(body, rule),
        better=_better(body, rule),
        bound=str(body.get("bound") or ""),
        n=count(body.get("n")),
        clusters=count(body.get("clusters")),
        samples_needed=count(body.get("samples_needed")),
        control=str(control.get("name") or body.get("control") or "") if control else str(body.get("control") or ""),
        control_verdict=str(control.get("verdict") or body.get("control_verdict") or ""),
        reasons=texts(body.get("reasons")),
        worst=tuple(dict(item) for item in body.get("worst") or () if isinstance(item, Mapping)),
        unit=str(body.get("unit") or ""),
        owner=str(body.get("owner") or ""),
        against=str(body.get("against") or ""),
        candidate_value=number(body.get("candidate")),
        baseline_value=number(body.get("baseline")),
        slice=str(body.get("slice") or ""),
        look=count(body.get("look")) or 1,
        fraction=number(body.get("fraction")),
        source=str(body.get("source") or "measured"),
        contaminated=count(body.get("contaminated")) or 0,
        **found,
    )


def _rule(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rule as a mapping with `type`; the gate writes the type's name beside scale and threshold."""
    rule = body.get("rule")
    if isinstance(rule, Mapping):
        return {"type": "", **rule}
    spec: dict[str, Any] = {"type": str(rule or "")}
    line = number(body.get("threshold"))
    key = {"noninferior": "margin", "superior": "min_gain", "floor": "value", "max_rate": "limit"}.get(spec["type"])
    if key and line is not None:
        spec[key] = -line if key == "margin" else line
    if spec["type"] in COMPARES:
        spec["scale"] = str(body.get("scale") or "absolute")
    return spec


def _threshold(body: Mapping[str, Any], rule: Mapping[str, Any]) -> float | None:
    """Return where the rule draws its line on the axis of the estimate."""
    if "threshold" in body:
        return number(body["threshold"])
    if rule["type"] == "noninferior":
        margin = number(rule.get("margin"))
        return None if margin is None else -margin
    key = {"superior": "min_gain", "floor": "value", "max_rate": "limit"}.get(rule["type"])
    return number(rule.get(key)) if key else (0.0 if rule["type"] == "zero_tolerance" else None)


def _better(body: Mapping[str, Any], rule: Mapping[str, Any]) -> int:
    """Return which way is better on the axis of the estimate: gains are turned already, rates count bad events.

    A floor is a ceiling where lower is better; where the row does not say which, its verdict tells the side.
    """
    if rule["type"] in {"max_rate", "zero_tolerance"}:
        return -1
    if rule["type"] in COMPARES or body.get("against"):
        return 1
    if body.get("direction") in {"higher", "lower"}:
        return 1 if body["direction"] == "higher" else -1
    line, found = _threshold(body, rule), number(body.get("estimate"))
    if line is None or found is None or body.get("verdict") not in {"PASS", "FAIL"}:
        return 1
    return 1 if (found >= line) == (body["verdict"] == "PASS") else -1


def decision(filed: Filed, named: Mapping[str, Filed], versions: Mapping[str, Filed]) -> Decision:
    """Return a gate decision; `named` holds the candidates and suites it speaks of, `versions` their versions."""
    body, report = filed.body, mapping(filed.body.get("report"))
    candidate = named.get(str(body.get("candidate")))
    baseline = named.get(str(body.get("baseline")))
    suite = named.get(str(body.get("suite")))
    version = str(candidate.body.get("version", "")) if candidate else ""
    base_version = versions.get(str(baseline.body.get("version"))) if baseline else None
    return Decision(
        id=filed.id,
        created=filed.created,
        actor=filed.owner,
        candidate=str(body.get("candidate") or ""),
        version=version,
        version_label=versions[version].label if version in versions else "",
        baseline=body.get("baseline") or None,
        baseline_label=base_version.label if base_version else "",
        suite=str(body.get("suite") or ""),
        suite_label=suite.label if suite else "",
        verdict=str(body.get("verdict") or "INVALID"),
        bootstrap=bool(body.get("bootstrap")),
        mode=str(body.get("mode") or ""),
        alpha=number(body.get("alpha")) or 0.0,
        eval_runs=texts(body.get("eval_runs")),
        differs=texts(body.get("differs")),
        reasons=texts(report.get("reasons")),
        kpis=tuple(kpi(item) for item in report.get("kpis") or () if isinstance(item, Mapping)),
        evidence=filed.evidence,
        plan=_plan(report),
    )


def _plan(report: Mapping[str, Any]) -> str:
    """Return in words how a decision's samples were looked at and how often they have judged."""
    planned, judged = count(report.get("looks")) or 1, count(report.get("judged")) or 1
    looks = f"look {count(report.get('look')) or 1} of {planned}; " if planned > 1 else ""
    chance = number(report.get("familywise"))
    sure = f", any of them wrongly promoted with chance at most {chance:.3g}" if chance else ""
    return f"{looks}these samples have judged {judged} candidate{'s' if judged > 1 else ''}{sure}"


def payload(envelope: Any) -> dict[str, Any]:
    """Return the JSON inside a DSSE envelope, unverified; empty when it does not decode."""
    try:
        return mapping(orjson.loads(base64.b64decode(str(mapping(envelope).get("payload", "")), validate=True)))
    except (binascii.Error, ValueError):
        return {}


def keys(envelope: Any) -> tuple[str, ...]:
    """Return the ids of the keys that signed a DSSE envelope."""
    signatures = mapping(envelope).get("signatures")
    return tuple(str(mapping(s).get("keyid", "")) for s in signatures) if isinstance(signatures, list) else ()


def approval(row: Mapping[str, Any], principals: Mapping[str, Principal]) -> Approval:
    """Return an approval from its table row joined with its event; its signature is checked against its key."""
    envelope, key = mapping(orjson.loads(row["envelope"])), row["keyid"] or ""
    holder = principals.get(key)
    return Approval(
        candidate=row["candidate"],
        actor=row["principal"],
        role=holder.role if holder else "",
        ts=row["ts"],
        reason=row["reason"] or "",
        decision=row["decision"] or "",
        key=key,
        signature=signature(envelope, APPROVAL_TYPE, {key: holder} if holder else {}),
        evidence=(Evidence("event", row["hash"], "approval.given", row["seq"]),),
    )


def signature(envelope: dict[str, Any], payload_type: str, signers: Mapping[str, Principal]) -> str:
    """Return `good` when one of the signers signed the envelope, else why it does not hold."""
    try:
        open_envelope(envelope, payload_type, {k: p.public for k, p in signers.items()})
    except HallmarkError as error:
        return error.message
    return "good"


def certificate(
    filed: Filed, revoked: Mapping[str, Any] | None, now: str, principals: Mapping[str, Principal]
) -> Certificate:
    """Return a certificate as of a time (ISO 8601); `revoked` is the row of the event that revoked it."""
    envelope, expires = filed.body.get("envelope"), str(filed.body.get("expires") or "")
    evidence = filed.evidence
    reason = ""
    if revoked is not None:
        body = mapping(orjson.loads(revoked["body"]))
        reason = str(body.get("reason") or "no reason given")
        evidence = (*evidence, Evidence("event", revoked["hash"], revoked["kind"], revoked["seq"]))
    return Certificate(
        id=filed.id,
        created=filed.created,
        candidate=str(filed.body.get("candidate") or ""),
        decision=str(filed.body.get("decision") or ""),
        expires=expires,
        expired=bool(expires) and expires <= now,
        revoked=reason,
        statement=payload(envelope),
        keys=keys(envelope),
        signer=", ".join(principals[k].name for k in keys(envelope) if k in principals),
        signature=signature(
            mapping(envelope), STATEMENT_TYPE, {k: p for k, p in principals.items() if p.role == "operator"}
        ),
        evidence=evidence,
    )


def move(row: Mapping[str, Any], labels: Mapping[str, str]) -> Move:
    """Return one line of an alias's history."""
    return Move(
        alias=row["alias"],
        certificate=row["certificate"] or "",
        candidate=row["candidate"] or "",
        version=row["version"] or "",
        version_label=labels.get(row["version"], ""),
        actor=row["actor"],
        ts=row["ts"],
        reason=row["reason"] or "",
        current=bool(row["current"]),
        evidence=(Evidence("event", row["hash"], "alias.moved", row["seq"]),),
    )


def rule_name(value: Any) -> str:
    """Return the id of a rule as the decision log writes it: a text, or a mapping with an id."""
    try:
        found = orjson.loads(value)
    except (orjson.JSONDecodeError, TypeError):
        found = value
    parts = mapping(found)
    return str(parts.get("rule") or parts.get("id") or "") if parts else str(found)


def window_candidates(body: Mapping[str, Any]) -> set[str]:
    """Return the candidates whose traffic a drift window looked at; empty where it names none."""
    sides = (mapping(body.get("reference")), mapping(body.get("current")))
    return {candidate for side in sides for candidate in texts(side.get("candidates")) if candidate}


def summary(kind: str, body: Mapping[str, Any]) -> str:
    """Return one line about an event, from the fields that most events share."""
    if kind == "asset.registered":
        name = body.get("name") or ""
        return f"{body.get('kind', '')} {name}:{body.get('number', '')}" if name else f"{body.get('kind', '')}"
    shown = ("verdict", "reason", "status", "role", "method", "error", "note")
    return "; ".join(f"{key} {body[key]}" for key in shown if isinstance(body.get(key), str | int | float))
