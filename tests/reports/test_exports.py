"""Exports: every event and relation is what its specification asks for, and points at what is there."""

import json
import uuid
from datetime import datetime

import jsonschema
import pytest

from registry import aliases
from registry.records import (
    Candidate,
    Certificate,
    Dataset,
    EvalRun,
    GateDecision,
    ModelVersion,
    Release,
    Run,
    digest_of,
)
from registry.workspace import Workspace
from reports.exports import EXPORTS

SPEC = "https://openlineage.io/spec"
TEXT = {"type": "string", "minLength": 1}
URI = {"type": "string", "pattern": "^[a-z][a-z0-9+.-]*:[^ ]+$"}
FACET_FIELDS = {"_producer": URI, "_schemaURL": URI}
FACETS = {"type": "object", "additionalProperties": {
    "type": "object", "properties": FACET_FIELDS, "required": list(FACET_FIELDS)}}  # fmt: skip
DATASETS = {"type": "array", "items": {
    "type": "object", "properties": {"namespace": TEXT, "name": TEXT, "facets": FACETS},
    "required": ["namespace", "name"], "additionalProperties": False}}  # fmt: skip
RUN_EVENT = {
    "type": "object",
    "properties": {
        "eventTime": {"type": "string", "format": "date-time"},
        "producer": URI,
        "schemaURL": {"const": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"},
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "run": {"type": "object", "properties": {"runId": {"type": "string", "format": "uuid"}, "facets": FACETS},
                "required": ["runId"], "additionalProperties": False},
        "job": {"type": "object", "properties": {"namespace": TEXT, "name": TEXT, "facets": FACETS},
                "required": ["namespace", "name"], "additionalProperties": False},
        "inputs": DATASETS,
        "outputs": DATASETS,
    },
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
    "additionalProperties": False,
}  # fmt: skip
"""What OpenLineage 2-0-2 asks of a run event, as far as Hallmark writes one."""
FACET = {
    f"{SPEC}/facets/2-0-3/JobTypeJobFacet.json#/$defs/JobTypeJobFacet": (
        "jobType", {"properties": {"processingType": {"enum": ["BATCH", "STREAMING"]}, "integration": TEXT,
                                   "jobType": TEXT}, "required": ["processingType", "integration"]}),
    f"{SPEC}/facets/1-0-1/OwnershipDatasetFacet.json#/$defs/OwnershipDatasetFacet": (
        "ownership", {"properties": {"owners": {"type": "array", "items": {
            "type": "object", "properties": {"name": TEXT}, "required": ["name"]}}}}),
    f"{SPEC}/facets/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet": (
        "version", {"properties": {"datasetVersion": TEXT}, "required": ["datasetVersion"]}),
}  # fmt: skip
"""URL of a facet's schema to the name under which it stands, and what the schema asks for."""
PROV_TIMES = {"activity": ("prov:startTime", "prov:endTime"), "wasGeneratedBy": ("prov:time",)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace with a trained, evaluated, judged, certified and released version, and a dataset beside it."""
    ws = Workspace.create(tmp_path_factory.mktemp("exports") / "ws")
    data = ws.register(Dataset("d", "sha256:s", "sha256:r", "sha256:m", {}, [], {}, []), actor="trainer", name="d")
    key = digest_of({"recipe": "sha256:x", "datasets": [data.id], "base": None})
    ws.record("run.started", key, {}, actor="trainer")
    start = ws.record("run.started", key, {}, actor="trainer").ts
    run = ws.register(Run("sft", "sha256:x", {}, [data.id], None, "x", 1, 1, {}, {}), actor="trainer", name="m",
                      parents=[("dataset", data.id)])  # fmt: skip
    ws.record("run.started", key, {}, actor="trainer")
    version = ws.register(ModelVersion("m", "sha256:w", run.id, None, [data.id], "M", 1, {}), actor="trainer", name="m",
                          parents=[("run", run.id)])  # fmt: skip
    candidate = ws.register(
        Candidate(version.id, "sha256:w", "t", "none", "none", {}, "transformers", "5", "none", "sha256:b"),
        actor="trainer", name="m", parents=[("version", version.id)],
    )  # fmt: skip
    rows = ws.artifacts.add_bytes(_rows())
    measured = ws.register(EvalRun(candidate.id, "sha256:q", {}, rows, {}, {}, {}, {}, {}), actor="evaluator", name="m",
                           parents=[("candidate", candidate.id)])  # fmt: skip
    decision = ws.register(
        GateDecision(candidate.id, None, "sha256:q", "PASS", True, "fixed", 0.05, [measured.id], [], {"kpis": []}),
        actor="evaluator", name="m", parents=[("candidate", candidate.id), ("eval_run", measured.id)],
    )  # fmt: skip
    certificate = ws.register(
        Certificate(candidate.id, version.id, decision.id, "2027-01-01T00:00:00+00:00", {}), actor="operator", name="m",
        parents=[("decision", decision.id), ("candidate", candidate.id)],
    )  # fmt: skip
    release = Release("prod", certificate.id, candidate.id, version.id, "2026-01-01T00:00:00+00:00", "ready")
    aliases.move(ws, release, None, "operator")
    other = ws.register(Dataset("e", "sha256:s", "sha256:q", "sha256:m", {}, [], {}, []), actor="trainer", name="e")
    found = {"data": data, "run": run, "version": version, "candidate": candidate, "measured": measured,
             "decision": decision, "certificate": certificate, "release": release, "other": other}  # fmt: skip
    return ws, found, start


def _rows():
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"sample_id": pa.string(), "kpi": pa.string(), "epoch": pa.int32(), "value": pa.float64(),
             "weight": pa.float64(), "cluster": pa.string(), "error": pa.string(), "detail": pa.string()}  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(pa.schema(types.items()).empty_table(), sink)
    return sink.getvalue()


def events(ws, ident=""):
    return [json.loads(line) for line in EXPORTS.load("openlineage")(ws, ident).splitlines()]


def names(event, key):
    return [each["name"] for each in event[key]]


def test_every_openlineage_event_is_what_the_specification_asks_for(made):
    ws, _, _ = made
    checker = jsonschema.Draft202012Validator(RUN_EVENT, format_checker=jsonschema.FormatChecker())
    for event in events(ws):
        checker.validate(event)
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        assert str(uuid.UUID(event["run"]["runId"])) == event["run"]["runId"]
        holders = [event["job"], event["run"], *event["inputs"], *event["outputs"]]
        for name, facet in (pair for holder in holders for pair in holder["facets"].items()):
            key, schema = FACET[facet["_schemaURL"]]
            assert key == name
            jsonschema.validate(facet, schema)


def test_openlineage_jobs_follow_one_another_from_data_to_release(made):
    ws, assets, start = made
    found = events(ws)
    assert [(event["eventType"], event["job"]["name"]) for event in found] == [
        ("START", "train/m"), ("COMPLETE", "train/m"), ("COMPLETE", "evaluate/m"), ("COMPLETE", "gate/m"),
        ("COMPLETE", "promote/prod"),
    ]  # fmt: skip
    began, trained, measured, judged, promoted = found
    assert began["run"] == trained["run"]
    assert began["eventTime"] == start, "the newest start before the run was registered"
    assert (began["outputs"], trained["eventTime"]) == ([], assets["run"].created)
    assert names(trained, "inputs") == [f"dataset/d:1/{assets['data'].id}"]
    assert names(trained, "outputs") == [f"version/m:1/{assets['version'].id}"]
    assert names(measured, "inputs") == [f"candidate/m:1/{assets['candidate'].id}"]
    assert names(measured, "outputs") == [f"eval_run/m:1/{assets['measured'].id}"]
    assert set(names(measured, "outputs")) < set(names(judged, "inputs"))
    certificate = f"certificate/m:1/{assets['certificate'].id}"
    assert certificate in names(judged, "outputs")
    assert names(promoted, "inputs") == [certificate]
    assert names(promoted, "outputs") == [f"release/prod:1/{assets['release'].id}"]
    assert len({event["run"]["runId"] for event in found}) == 4


def test_an_export_of_one_asset_is_about_what_it_came_from_and_what_came_of_it(made):
    ws, assets, _ = made
    assert events(ws, assets["other"].id) == []
    for name in ("data", "certificate", "release"):
        assert events(ws, assets[name].id) == events(ws)


def test_prov_relations_point_at_what_the_document_names(made):
    ws, assets, start = made
    document = json.loads(EXPORTS.load("prov")(ws, assets["version"].id))
    ident = {name: f"hm:{asset.id}" for name, asset in assets.items()}
    assert set(document["activity"]) == {ident["run"], ident["measured"], ident["decision"]}
    assert set(document["entity"]) == {
        ident[name] for name in ("data", "version", "candidate", "certificate", "release")
    }
    assert ident["other"] in json.loads(EXPORTS.load("prov")(ws))["entity"]
    assert document["activity"][ident["run"]]["prov:startTime"] == start
    assert "prov:startTime" not in document["activity"][ident["decision"]]
    assert {"prov:entity": ident["version"], "prov:activity": ident["run"]} in document["wasGeneratedBy"].values()
    assert {"prov:activity": ident["run"], "prov:entity": ident["data"]} in document["used"].values()
    informed = {"prov:informed": ident["decision"], "prov:informant": ident["measured"]}
    assert list(document["wasInformedBy"].values()) == [informed]
    derived = {"prov:generatedEntity": ident["release"], "prov:usedEntity": ident["certificate"]}
    assert derived in document["wasDerivedFrom"].values()
    assert "actedOnBehalfOf" not in document


def test_a_release_in_prov_says_who_moved_the_alias_when_and_why(made):
    ws, assets, _ = made
    document = json.loads(EXPORTS.load("prov")(ws, assets["release"].id))
    release = f"hm:{assets['release'].id}"
    said = document["entity"][release]
    assert (said["prov:label"], said["hm:alias"], said["hm:reason"]) == ("release prod:1", "prod", "ready")
    assert said["prov:type"] == {"$": "hm:release", "type": "prov:QUALIFIED_NAME"}
    moved = ws.store.query("SELECT ts FROM alias_history")[0]["ts"]
    assert {"prov:entity": release, "prov:time": moved} in document["wasGeneratedBy"].values()
    attributed = {"prov:entity": release, "prov:agent": "hm:principal/operator"}
    assert attributed in document["wasAttributedTo"].values()


def test_every_prov_name_is_defined_and_every_time_has_a_zone(made):
    ws, _, _ = made
    document = json.loads(EXPORTS.load("prov")(ws))
    known = {name for kind in ("entity", "activity", "agent") for name in document[kind]}
    relations = {"wasGeneratedBy", "used", "wasAttributedTo", "wasAssociatedWith", "wasDerivedFrom", "wasInformedBy"}
    assert relations < set(document)
    for relation in relations:
        for body in document[relation].values():
            assert {value for key, value in body.items() if key != "prov:time"} <= known
    for kind, keys in PROV_TIMES.items():
        times = [each[key] for each in document[kind].values() for key in keys if key in each]
        assert times
        assert all(datetime.fromisoformat(time).tzinfo for time in times)
    assert all(name.startswith("hm:") for name in known)
