"""Exports: every event and relation has the fields its specification requires, and points at what is there."""

import json
import uuid
from datetime import datetime

import pytest

from registry.records import Dataset, ModelVersion, Run
from registry.workspace import Workspace
from reports.exports import EXPORTS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    ws = Workspace.create(tmp_path_factory.mktemp("exports") / "ws")
    data = ws.register(Dataset("d", "sha256:s", "sha256:r", "sha256:m", {}, [], {}, []), actor="trainer", name="d")
    run = ws.register(Run("sft", "sha256:x", {}, [data.id], None, "x", 1, 1, {}, {}), actor="trainer", name="m",
                      parents=[("dataset", data.id)])  # fmt: skip
    version = ws.register(ModelVersion("m", "sha256:w", run.id, None, [data.id], "M", 1, {}), actor="trainer", name="m",
                          parents=[("run", run.id)])  # fmt: skip
    other = ws.register(Dataset("e", "sha256:s", "sha256:q", "sha256:m", {}, [], {}, []), actor="trainer", name="e")
    return ws, data, run, version, other


def test_openlineage_events_have_every_required_field(made):
    ws, data, _run, version, _ = made
    lines = [json.loads(line) for line in EXPORTS.load("openlineage")(ws).splitlines()]
    assert [line["eventType"] for line in lines] == ["START", "COMPLETE"]
    for line in lines:
        assert {"eventTime", "producer", "schemaURL", "run", "job"} <= line.keys()
        assert datetime.fromisoformat(line["eventTime"]).tzinfo is not None
        assert str(uuid.UUID(line["run"]["runId"])) == line["run"]["runId"]
        facets = list(line["job"]["facets"].values())
        for each in (line["job"], *line["inputs"], *line["outputs"]):
            assert each["namespace"]
            assert each["name"]
        facets += [facet for each in (*line["inputs"], *line["outputs"]) for facet in each["facets"].values()]
        assert all(facet["_producer"] and facet["_schemaURL"] for facet in facets)
    assert lines[0]["run"] == lines[1]["run"]
    assert [each["name"] for each in lines[1]["inputs"]] == [f"dataset/d:1/{data.id}"]
    assert [each["name"] for each in lines[1]["outputs"]] == [f"version/m:1/{version.id}"]


def test_prov_relations_point_at_what_the_document_names(made):
    ws, data, run, version, other = made
    document = json.loads(EXPORTS.load("prov")(ws, version.id))
    assert set(document["activity"]) == {f"hm:{run.id}"}
    assert set(document["entity"]) == {f"hm:{data.id}", f"hm:{version.id}"}
    assert f"hm:{other.id}" in json.loads(EXPORTS.load("prov")(ws))["entity"]
    (generated,) = document["wasGeneratedBy"].values()
    assert generated == {"prov:entity": f"hm:{version.id}", "prov:activity": f"hm:{run.id}"}
    (used,) = document["used"].values()
    assert used == {"prov:activity": f"hm:{run.id}", "prov:entity": f"hm:{data.id}"}
    named = {name for kind in ("entity", "activity", "agent") for name in document[kind]}
    for kind in ("used", "wasGeneratedBy", "wasAttributedTo", "wasAssociatedWith"):
        assert all(name in named for each in document[kind].values() for name in each.values())
