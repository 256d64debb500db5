"""The questions that controls ask of an evidence bundle: each probe looks at one kind of record and says what it found.

A probe is pure: bundle in, finding out. `na` means that the question does not arise for this version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from reports.decoding import mapping
from reports.phrases import counted

State = Literal["yes", "part", "no", "na"]
Name = Literal[
    "version_identified", "candidate_described", "lineage_complete", "training_recorded", "base_recorded",
    "datasets_recorded", "sources_licensed", "cleaning_counted", "holdout_protected", "suite_registered", "gate_judged",
    "gate_passed", "intervals_stated", "worst_items_shown", "results_stored", "controls_failed", "limits_tested",
    "guarded_tested", "approved", "approver_independent", "certified", "weights_bound", "policy_bound", "access_ruled",
    "output_ruled", "release_history", "release_reversible", "journal_chained", "log_complete", "drift_checked",
    "roles_recorded",
]  # fmt: skip
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found, why in a few words, and what that rests on."""

    state: State
    reason: str
    evidence: list[dict[str, Any]] = field(default_factory=list)


def _of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [ref for row in rows for ref in row["evidence"]]


def _nodes(doc: Document, kind: str) -> list[dict[str, Any]]:
    return [node for node in doc["lineage"]["nodes"] if node["kind"] == kind]


def _some(rows: list[dict[str, Any]], yes: str, no: str) -> Finding:
    return Finding("yes", yes, _of(rows)) if rows else Finding("no", no)


def _share(good: list[dict[str, Any]], rows: list[dict[str, Any]], yes: str, no: str) -> Finding:
    """Return yes where every row is good, part where some are, no where none is."""
    if not rows or not good:
        return Finding("no", no)
    if len(good) == len(rows):
        return Finding("yes", yes, _of(rows))
    return Finding("part", f"{yes}: {len(good)} of {len(rows)}", _of(good))


def _newest(doc: Document) -> dict[str, Any] | None:
    return doc["decisions"][-1] if doc["decisions"] else None


def _gating(doc: Document) -> list[dict[str, Any]]:
    newest = _newest(doc)
    return [{**row, "evidence": newest["evidence"]} for row in newest["kpis"] if row["gating"]] if newest else []


def _version_identified(doc: Document) -> Finding:
    body = doc["version"]["body"]
    if body.get("manifest") and body.get("weights"):
        return Finding(
            "yes", "the version is addressed by its content, every weight file by digest", doc["version"]["evidence"]
        )
    return Finding("part", "the version is registered, its weight files are not listed", doc["version"]["evidence"])


def _candidate_described(doc: Document) -> Finding:
    return _some(
        doc["candidates"],
        "the complete configuration that would serve is recorded",
        "no candidate was made of this version",
    )


def _lineage_complete(doc: Document) -> Finding:
    known = {node["id"] for node in doc["lineage"]["nodes"]}
    lost = {edge["parent"] for edge in doc["lineage"]["edges"]} - known
    if len(known) == 1:
        return Finding("no", "nothing is recorded that the version was made from")
    if lost:
        return Finding(
            "part",
            f"lineage is recorded, {counted(len(lost), 'ancestor')} not registered",
            _of(doc["lineage"]["nodes"]),
        )
    return Finding(
        "yes", f"lineage is recorded back over {counted(len(known) - 1, 'ancestor')}", _of(doc["lineage"]["nodes"])
    )


def _training_recorded(doc: Document) -> Finding:
    runs = _nodes(doc, "run")
    whole = [
        run
        for run in runs
        if run["body"].get("recipe") and run["body"].get("environment") and run["body"].get("state_digest")
    ]
    return _share(
        whole,
        runs,
        "recipe, environment and final state of every training run are recorded",
        "no training run is recorded",
    )


def _base_recorded(doc: Document) -> Finding:
    base = doc["version"]["body"].get("base")
    if not base:
        return Finding("na", "no base model: trained from random weights")
    rows = [node for node in doc["lineage"]["nodes"] if node["id"] == base]
    return _some(rows, "the base model is registered by digest", "the base model is not registered here")


def _datasets_recorded(doc: Document) -> Finding:
    rows = _nodes(doc, "dataset")
    whole = [row for row in rows if row["body"].get("rows_digest") and row["body"].get("splits")]
    return _share(whole, rows, "every dataset is recorded with row digest and splits", "no dataset is recorded")


def _sources_licensed(doc: Document) -> Finding:
    rows = _nodes(doc, "dataset")
    sources = [(mapping(s), row) for row in rows for s in row["body"].get("sources") or []]
    good = [row for source, row in sources if source.get("licence") or source.get("license")]
    return _share(good, [row for _, row in sources], "every source names its licence", "no source names a licence")


def _cleaning_counted(doc: Document) -> Finding:
    rows = _nodes(doc, "dataset")
    counts = [row for row in rows if row["body"].get("drops") or row["body"].get("quarantined")]
    return _share(
        counts, rows, "dropped rows are counted by reason, unreadable files quarantined", "no cleaning is counted"
    )


def _holdout_protected(doc: Document) -> Finding:
    rows = [s for s in doc["suites"] if s["body"].get("canary")]
    if not rows:
        return Finding("no", "no suite with a canary string is recorded")
    words = ("contamin", "canary", "overlap", "holdout", "held")
    swept = [
        d for d in _nodes(doc, "dataset") if any(w in key for key in mapping(d["body"].get("drops")) for w in words)
    ]
    if swept:
        return Finding("yes", "training data was swept for the hold-out; the suite carries a canary", _of(rows + swept))
    return Finding("part", "the suite carries a canary; no sweep of the training data is counted", _of(rows))


def _suite_registered(doc: Document) -> Finding:
    return _some(doc["suites"], "the suite is registered, one instrument digest per KPI", "no suite is recorded")


def _gate_judged(doc: Document) -> Finding:
    return _some(
        doc["decisions"][-1:], "the gate's decision is recorded with its rules", "no gate decision is recorded"
    )


def _gate_passed(doc: Document) -> Finding:
    newest = _newest(doc)
    if newest is None:
        return Finding("no", "no gate decision is recorded")
    if newest["verdict"] == "PASS":
        return Finding("yes", "the newest decision is PASS", newest["evidence"])
    return Finding("no", f"the newest decision is {newest['verdict']}")


def _intervals_stated(doc: Document) -> Finding:
    rows = _gating(doc)
    good = [
        row for row in rows if row["estimate"] is not None and (row["lower"] is not None or row["upper"] is not None)
    ]
    return _share(good, rows, "every gating KPI has an estimate with a bound", "no gating KPI has a bound")


def _worst_items_shown(doc: Document) -> Finding:
    rows = _gating(doc)
    good = [row for row in rows if row["worst"]]
    return _share(good, rows, "the worst items are listed per KPI", "no worst items are listed")


def _results_stored(doc: Document) -> Finding:
    rows = doc["eval_runs"]
    good = [row for row in rows if row["body"].get("results")]
    return _share(good, rows, "every sample's result is stored by digest", "no evaluation run is recorded")


def _controls_failed(doc: Document) -> Finding:
    rows = _gating(doc)
    good = [row for row in rows if row["control_verdict"] == "FAIL"]
    return _share(good, rows, "every gating KPI was failed by its control", "no control verdict is recorded")


def _limits_tested(doc: Document) -> Finding:
    rows = [row for row in _gating(doc) if row["rule"].get("type") in {"max_rate", "zero_tolerance"}]
    good = [row for row in rows if row["verdict"] == "PASS"]
    return _share(good, rows, "limits on bad events were tested and kept", "no limit on bad events was tested and kept")


def _guarded_tested(doc: Document) -> Finding:
    rows = [row for row in doc["eval_runs"] if "guarded" in mapping(row["body"].get("target")).values()]
    return _some(
        rows, "KPIs were measured through the guarded endpoint", "nothing was measured through the guarded endpoint"
    )


def _approved(doc: Document) -> Finding:
    rows = doc["approvals"]
    good = [row for row in rows if row["signature"] == "good"]
    return _share(good, rows, "a person approved with a signature that holds", "no approval is recorded")


def _approver_independent(doc: Document) -> Finding:
    makers = {doc["version"]["owner"]} | {run["owner"] for run in _nodes(doc, "run")}
    rows = doc["approvals"]
    good = [row for row in rows if row["actor"] not in makers]
    return _share(good, rows, "who approved is not who trained", "no approval by someone other than the trainer")


def _certified(doc: Document) -> Finding:
    state = doc["headline"]["certificate"]["state"]
    rows = doc["certificates"][-1:]
    if state == "valid":
        return Finding("yes", "a signed certificate binds weights, policy, results and approvals", _of(rows))
    return (
        Finding("part", f"the certificate is {state}", _of(rows)) if rows else Finding("no", "there is no certificate")
    )


def _weights_bound(doc: Document) -> Finding:
    if doc["headline"]["certificate"]["state"] == "valid" and doc["certificates"][-1]["statement"].get("subject"):
        return Finding(
            "yes",
            "the certificate lists every served file by SHA-256; the endpoint refuses others",
            _of(doc["certificates"][-1:]),
        )
    if doc["version"]["body"].get("weights"):
        return Finding(
            "part", "weight files are recorded by digest, no valid certificate binds them", doc["version"]["evidence"]
        )
    return Finding("no", "weight files are not bound by digest")


def _policy_bound(doc: Document) -> Finding:
    rows = [row for row in doc["bundles"] if row["files"] and not row["unreadable"]]
    return _some(
        rows, "the inference policy is part of the candidate, by digest", "no inference policy is bound to a candidate"
    )


def _ruled(doc: Document, *, access: bool) -> list[dict[str, Any]]:
    return [row for row in doc["bundles"] if any((r["kind"] == "access") == access for r in row["rules"])]


def _access_ruled(doc: Document) -> Finding:
    return _some(
        _ruled(doc, access=True), "access rules are part of the candidate", "no access rule is bound to a candidate"
    )


def _output_ruled(doc: Document) -> Finding:
    return _some(
        _ruled(doc, access=False), "content rules are part of the candidate", "no content rule is bound to a candidate"
    )


def _release_history(doc: Document) -> Finding:
    if not doc["moves"]:
        return Finding("na", "never released")
    return Finding("yes", "the whole history of its aliases is recorded", _of(doc["moves"]))


def _release_reversible(doc: Document) -> Finding:
    if not doc["moves"]:
        return Finding("na", "never released")
    targets = {move["certificate"] for move in doc["moves"]}
    if len(targets) > 1:
        return Finding("yes", "an earlier certified release is on record to roll back to", _of(doc["moves"]))
    return Finding("part", "it can be revoked; no earlier release is on record to roll back to", _of(doc["moves"]))


def _journal_chained(doc: Document) -> Finding:
    point = doc["as_of"]
    rests = [{"kind": "event", "ref": point["hash"], "what": "newest event", "seq": point["seq"]}]
    return Finding("yes", f"{counted(point['seq'], 'event')} in a hash-chained journal", rests)


def _log_complete(doc: Document) -> Finding:
    coverage = doc["coverage"]
    if not doc["moves"] and not coverage["requests"]:
        return Finding("na", "never released, so no request was logged")
    if not coverage["requests"]:
        return Finding("no", "no request is logged yet")
    if coverage["unanswered"]:
        lost = f"{counted(coverage['unanswered'], 'request')} of {coverage['requests']:,} without a decision in the log"
        return Finding("part", lost, coverage["evidence"])
    return Finding("yes", f"all {coverage['requests']:,} requests have a decision in the log", coverage["evidence"])


def _drift_checked(doc: Document) -> Finding:
    if not doc["moves"]:
        return Finding("na", "never released, so there is no traffic to drift")
    return _some(doc["drift"], "drift was checked against a reference window", "no drift check is recorded")


def _roles_recorded(doc: Document) -> Finding:
    return _some(
        doc["roles"], "every principal has a key and a role, vouched for by an operator", "no principal is recorded"
    )


PROBES: dict[Name, Callable[[Document], Finding]] = {
    name: globals()[f"_{name}"]
    for name in Name.__args__  # type: ignore[attr-defined]
}
