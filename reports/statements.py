"""What the evidence says, in sentences: the headline, the short summary, and how to check it all.

A sentence is written only from fields of the bundle, and carries the evidence of the rows it speaks of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reports import phrases
from reports.decoding import mapping

NOT_JUDGED = "NOT JUDGED"


def headline(doc: dict[str, Any]) -> dict[str, Any]:
    """Return the verdict in one line, the state of certificate and release, and what they rest on."""
    label = doc["subject"]["label"]
    newest = doc["decisions"][-1] if doc["decisions"] else None
    certificate, release = _certificate(doc), _release(doc)
    if newest is None:
        verdict, evidence = NOT_JUDGED, doc["version"]["evidence"]
        sentence = f"{label} has not been judged by a gate."
    else:
        verdict, evidence = newest["verdict"], newest["evidence"]
        sentence = f"{label} {phrases.meaning(verdict)}{_because(newest)}."
    return {
        "verdict": verdict,
        "sentence": sentence,
        "decision": newest["id"] if newest else None,
        "certificate": certificate,
        "release": release,
        "evidence": evidence,
    }


def _because(decision: dict[str, Any]) -> str:
    gating = [row for row in decision["kpis"] if row["gating"]]
    broken = [row["id"] for row in gating if row["verdict"] == decision["verdict"]]
    level = f"one-sided level {phrases.number(decision['alpha'])}"
    if decision["verdict"] == "PASS":
        against = f" against {decision['baseline_label']}" if decision["baseline_label"] else ""
        first = ", as the first of its line (bootstrap: no baseline)" if decision["bootstrap"] else against
        return f": {phrases.counted(len(gating), 'gating KPI')} held at {level}{first}"
    if broken:
        return f": {', '.join(broken)} ({len(broken)} of {phrases.counted(len(gating), 'gating KPI')}, {level})"
    return f": {'; '.join(decision['reasons'])}" if decision["reasons"] else ""


def _certificate(doc: dict[str, Any]) -> dict[str, Any]:
    if not doc["certificates"]:
        return {"state": "none", "text": "no certificate", "id": None}
    newest = doc["certificates"][-1]
    if newest["revoked"]:
        state, text = "revoked", f"revoked: {newest['revoked']}"
    elif newest["signature"] != "good":
        state, text = "broken", f"signature does not hold: {newest['signature']}"
    elif newest["expired"]:
        state, text = "expired", f"expired on {newest['expires'][:10]}"
    else:
        state, text = "valid", f"signed by {newest['signer']}, valid until {newest['expires'][:10]}"
    return {"state": state, "text": text, "id": newest["id"]}


def _release(doc: dict[str, Any]) -> dict[str, Any]:
    current = [m for m in doc["moves"] if m["current"] and m["version"] == doc["subject"]["id"]]
    past = [m for m in doc["moves"] if m["version"] == doc["subject"]["id"]]
    if current:
        text = ", ".join(f"{m['alias']} since {m['ts'][:10]}" for m in current)
        return {"state": "serving", "text": text, "aliases": [m["alias"] for m in current]}
    if past:
        return {"state": "replaced", "text": f"no longer: was {past[-1]['alias']}", "aliases": []}
    return {"state": "none", "text": "not released", "aliases": []}


def write(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the short summary: sentences, each `{section, text, evidence}`."""
    parts = (_model, _training, _data, _gate, _refused, _people, _certified, _served, _drifted)
    return [
        {"section": section, "text": text, "evidence": evidence}
        for part in parts
        for section, text, evidence in part(doc)
        if evidence
    ]


Sentences = Iterator[tuple[str, str, list[dict[str, Any]]]]


def _model(doc: dict[str, Any]) -> Sentences:
    body = doc["version"]["body"]
    base = _label(doc, body.get("base")) if body.get("base") else ""
    origin = f", made from {base}" if base else ", made without a base model"
    files = phrases.counted(len(mapping(body.get("weights"))), "weight file")
    yield (
        "version",
        f"{doc['subject']['label']} is a {body.get('architecture') or 'model'} with"
        f" {phrases.number(body.get('parameters'))} parameters in {files}{origin}.",
        doc["version"]["evidence"],
    )


def _training(doc: dict[str, Any]) -> Sentences:
    run = next((n for n in doc["lineage"]["nodes"] if n["id"] == doc["version"]["body"].get("run")), None)
    if run:
        body = run["body"]
        yield (
            "lineage",
            f"It was trained by {run['owner']} with method {body.get('method')}:"
            f" {phrases.counted(body.get('steps') or 0, 'step')}, {phrases.counted(body.get('tokens') or 0, 'token')}.",
            run["evidence"],
        )


def _data(doc: dict[str, Any]) -> Sentences:
    for node in doc["lineage"]["nodes"]:
        if node["kind"] == "dataset":
            body = node["body"]
            rows = sum(mapping(body.get("splits")).values())
            dropped = sum(mapping(body.get("drops")).values())
            sources = phrases.counted(len(body.get("sources") or []), "source")
            unread = phrases.counted(len(body.get("quarantined") or []), "file")
            yield (
                "data",
                f"Dataset {node['label']} holds {phrases.counted(rows, 'row')} from {sources};"
                f" {phrases.counted(dropped, 'row')} dropped for a counted reason, {unread} quarantined.",
                node["evidence"],
            )


def _gate(doc: dict[str, Any]) -> Sentences:
    for row in doc["decisions"][-1:]:
        suite = row["suite_label"] or "its suite"
        held = [k["id"] for k in row["kpis"] if k["gating"] and k["verdict"] == "PASS"]
        gating = [k for k in row["kpis"] if k["gating"]]
        yield (
            "gate",
            f"On {suite} the gate says {row['verdict']}: {len(held)} of"
            f" {phrases.counted(len(gating), 'gating KPI')} passed.",
            row["evidence"],
        )
        checked = [k for k in gating if k["control"]]
        failed = [k for k in checked if k["control_verdict"] == "FAIL"]
        of = phrases.counted(len(checked), "control")
        if checked:
            yield (
                "controls",
                f"The gate can say no: {len(failed)} of {of} failed, as required.",
                row["evidence"],
            )


def _refused(doc: dict[str, Any]) -> Sentences:
    rows = doc["refusals"]
    if rows:
        names = ", ".join(dict.fromkeys(r["version_label"] or phrases.short(r["candidate"]) for r in rows))
        yield (
            "refusals",
            f"{phrases.counted(len(rows), 'decision')} in the same line let nothing through: {names}.",
            [e for r in rows for e in r["evidence"]],
        )


def _people(doc: dict[str, Any]) -> Sentences:
    for row in doc["approvals"]:
        role = f" ({row['role']})" if row["role"] else ""
        sign = "" if row["signature"] == "good" else f"; the signature does not hold: {row['signature']}"
        yield (
            "approvals",
            f"{row['actor']}{role} approved it on {row['ts'][:10]}: \u201c{row['reason']}\u201d{sign}.",
            row["evidence"],
        )


def _certified(doc: dict[str, Any]) -> Sentences:
    for row in doc["certificates"][-1:]:
        yield "certificate", f"Certificate {phrases.short(row['id'])}: {_certificate(doc)['text']}.", row["evidence"]
    for move in doc["moves"]:
        if move["current"] and move["version"] == doc["subject"]["id"]:
            yield "releases", f"Alias {move['alias']} points at it since {move['ts'][:19]}.", move["evidence"]


def _served(doc: dict[str, Any]) -> Sentences:
    traffic = doc["traffic"]
    if traffic["total"]:
        actions = ", ".join(f"{count:,} {action or 'without action'}" for action, count in traffic["actions"])
        yield (
            "log",
            f"The decision log has {phrases.counted(traffic['total'], 'entry', 'entries')}: {actions}.",
            traffic["evidence"],
        )


def _drifted(doc: dict[str, Any]) -> Sentences:
    for row in doc["drift"][-1:]:
        yield "drift", f"The last drift check says {row['body'].get('verdict')}.", row["evidence"]


def _label(doc: dict[str, Any], ident: Any) -> str:
    return next((n["label"] for n in doc["lineage"]["nodes"] if n["id"] == ident), phrases.short(ident))


def commands(doc: dict[str, Any]) -> list[dict[str, str]]:
    """Return the commands that check this report against the workspace it came from."""
    subject = doc["subject"]["id"]
    steps = []
    if doc["headline"]["certificate"]["id"]:
        steps.append(
            (
                f"hallmark verify {doc['headline']['certificate']['id']}",
                "certificate: signature, content, approvals, expiry, revocation, every byte it binds",
            )
        )
    steps.append(("hallmark log verify", "journal: no event was edited, moved or removed"))
    if doc["decisions"]:
        steps.append((f"hallmark gate show {doc['decisions'][-1]['id']}", "the decision, row by row"))
    steps.append((f"hallmark lineage {subject}", "what the version was made from"))
    steps.append(
        (
            f"hallmark report dossier {subject} --format json",
            "this document as data; as of the same event it is the same bytes",
        )
    )
    return [{"command": command, "checks": checks} for command, checks in steps]
