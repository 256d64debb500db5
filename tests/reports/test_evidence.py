"""The bundle says what the workspace holds, cites what it says, and is the same bytes for the same journal."""

from __future__ import annotations

from typing import Any

import pytest

from registry.errors import HallmarkError, NotFound, UnknownName
from registry.records import canonical
from reports import evidence, outline

ROWS = (
    "candidates", "suites", "eval_runs", "decisions", "refusals", "approvals", "certificates", "moves", "bundles",
    "drift", "roles", "statements",
)  # fmt: skip


def test_headline_names_verdict_certificate_and_release(doc: dict[str, Any], world: Any) -> None:
    head = doc["headline"]
    assert head["verdict"] == "PASS"
    assert head["sentence"] == (
        "code-model:2 passed the gate: 5 gating KPIs held at one-sided level 0.05 against anchor:1."
    )
    assert head["certificate"]["state"] == "valid"
    assert head["certificate"]["id"] == world.certificate.id
    assert head["release"] == {"state": "serving", "text": head["release"]["text"], "aliases": ["prod"]}
    assert head["decision"] == world.passed.id


def test_the_refused_sibling_is_shown_with_its_reasons(doc: dict[str, Any], world: Any) -> None:
    (refusal,) = doc["refusals"]
    assert refusal["id"] == world.refused.id
    assert refusal["version_label"] == "code-model:1"
    held = {row["id"]: row["verdict"] for row in refusal["kpis"] if row["verdict"] != "PASS"}
    assert held == {"next_line": "FAIL", "domain_bpb": "FAIL", "general_bpb": "INCONCLUSIVE"}
    assert "0.02 is allowed" in refusal["kpis"][0]["reasons"][0]


def test_lineage_reaches_every_ancestor(doc: dict[str, Any]) -> None:
    labels = {node["label"] for node in doc["lineage"]["nodes"]}
    assert {"code-model:2", "anchor:1", "stdlib:1", "general:1"} <= labels
    assert "stdlib-corrupted:1" not in labels
    assert {edge["relation"] for edge in doc["lineage"]["edges"]} == {"run", "dataset", "base"}


def test_every_row_and_statement_rests_on_something(doc: dict[str, Any]) -> None:
    for section in ROWS:
        assert doc[section], section
        for row in doc[section]:
            assert row["evidence"], (section, row)
    assert all(node["evidence"] for node in doc["lineage"]["nodes"])
    for table in doc["compliance"]:
        for control in table["controls"]:
            assert bool(control["evidence"]) == (control["status"] in {"evidenced", "partial"}), control


def test_every_reference_can_be_looked_up(doc: dict[str, Any], world: Any) -> None:
    events = {row["hash"]: row["seq"] for row in world.ws.store.query("SELECT hash, seq FROM event")}
    assets = {row["id"] for row in world.ws.store.query("SELECT id FROM asset")}
    cited = outline.index(doc)
    assert {ref["kind"] for ref in cited} == {"event", "asset", "digest"}
    for ref in cited:
        if ref["kind"] == "event":
            assert events[ref["ref"]] == ref["seq"]
        elif ref["kind"] == "asset":
            assert ref["ref"] in assets
        else:
            assert world.ws.artifacts.manifest(ref["ref"]).entries


def test_log_counts_and_coverage(doc: dict[str, Any]) -> None:
    traffic, coverage = doc["traffic"], doc["coverage"]
    assert (traffic["total"], traffic["endpoints"]) == (11, [["prod", 11]])
    assert dict(traffic["actions"]) == {"allow": 8, "redact": 2, "deny": 1}
    assert traffic["rules"] == [["redact", "aws-key", 2], ["deny", "interns-denied", 1]]
    assert (coverage["requests"], coverage["decisions"], coverage["unanswered"]) == (12, 11, 1)
    assert (traffic["prompt_tokens"], traffic["p50_ms"]) == (220, 15.0)


def test_policy_rules_are_read_from_the_bundle(doc: dict[str, Any]) -> None:
    (bundle,) = doc["bundles"]
    assert {rule["id"]: (rule["kind"], rule["action"]) for rule in bundle["rules"]} == {
        "engineers-may-ask": ("access", "permit"),
        "interns-denied": ("access", "forbid"),
        "aws-key": ("regex", "redact"),
        "weapons": ("topic", "block"),
    }


def test_signatures_are_checked(doc: dict[str, Any]) -> None:
    (approval,), (certificate,) = doc["approvals"], doc["certificates"]
    assert (approval["actor"], approval["role"], approval["signature"]) == ("ada", "approver", "good")
    assert (certificate["signer"], certificate["signature"]) == ("operator", "good")
    rows = outline.certificate_files(doc, certificate)
    assert {row["state"] for row in rows} == {"same"}
    assert "weights/model.safetensors" in {row["name"] for row in rows}


def test_same_journal_same_bytes(world: Any) -> None:
    first = canonical(evidence.build(world.ws, "code-model:2"))
    world.ws.store.rebuild()
    assert canonical(evidence.build(world.ws, "code-model:2")) == first


def test_an_earlier_point_gives_the_earlier_document(world: Any) -> None:
    first = evidence.build(world.ws, "code-model:2")
    world.ws.record("note.made", world.good.id, {"note": "later"}, actor="ada")
    again = evidence.build(world.ws, "code-model:2", upto=first["as_of"]["seq"])
    now = evidence.build(world.ws, "code-model:2")
    assert canonical(again) == canonical(first)
    assert now["as_of"]["seq"] == first["as_of"]["seq"] + 1
    assert now["steps"][-1]["kind"] == "note.made"


def test_before_the_decision_nothing_is_claimed(world: Any) -> None:
    decided = world.ws.store.query("SELECT seq FROM asset WHERE id = ?", [world.passed.id])[0]["seq"]
    doc = evidence.build(world.ws, world.good.id, upto=decided - 1)
    assert doc["headline"]["verdict"] == "NOT JUDGED"
    assert doc["headline"]["certificate"]["state"] == "none"
    assert doc["headline"]["release"]["state"] == "none"
    assert "verify" in doc
    with pytest.raises(NotFound, match="newer than event"):
        evidence.build(world.ws, world.good.id, upto=1)


def test_the_refused_version_has_a_dossier_too(world: Any) -> None:
    doc = evidence.build(world.ws, "code-model:1")
    assert doc["headline"]["verdict"] == "FAIL"
    assert "next_line, domain_bpb" in doc["headline"]["sentence"]
    assert [row["id"] for row in doc["refusals"]] == [world.refused.id]
    assert doc["traffic"]["total"] == 0


def test_a_replaced_release_is_told(world: Any) -> None:
    doc = evidence.build(world.ws, "anchor:1")
    assert doc["headline"]["release"]["state"] == "replaced"
    assert "bootstrap" in doc["headline"]["sentence"]
    assert doc["refusals"] == []


def test_unknown_version_is_a_readable_error(world: Any) -> None:
    with pytest.raises(UnknownName) as error:
        evidence.build(world.ws, "code-modle")
    assert isinstance(error.value, HallmarkError)
    assert "code-model" in (error.value.hint or "")
