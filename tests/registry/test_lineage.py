"""Lineage: what something was made from, what was made from it; any kind, any reference; cycles end."""

import pytest

from registry import lineage
from registry.errors import NotFound, UnknownName
from registry.records import Certificate, Dataset, ModelVersion, Release, Run, Tokenizer, plain
from registry.workspace import Workspace


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    ws = Workspace.create(tmp_path_factory.mktemp("line") / "ws")
    dataset = Dataset("d", "sha256:s", "sha256:r", "sha256:m", {"train": 3}, [], {}, [])
    data = ws.register(dataset, actor="t", name="d")
    versions, base = [], None
    for number, rate in enumerate((0.1, 0.2)):
        run = Run(
            "pretrain", f"sha256:{number}", {"optimiser": {"lr": rate}}, [data.id], base, "x", 1, 1, {"loss": rate}, {}
        )
        made = ws.register(run, actor="t", parents=[("dataset", data.id), *([("base", base)] if base else [])])
        record = ModelVersion(
            "m", f"sha256:w{number}", made.id, base, [data.id], "M", 1, {"w": f"sha256:{number}" + "0" * 63}
        )
        version = ws.register(record, actor="t", name="m", parents=[("run", made.id), ("dataset", data.id)])
        versions.append(version)
        base = version.id
    return ws, data, versions


@pytest.fixture(scope="module")
def released(line):
    ws, _, (first, second) = line
    moves = []
    for version in (first, second, first):
        record = Certificate("sha256:c", version.id, "sha256:d", "2030-01-01", {})
        certificate = ws.register(record, actor="o", name="m", parents=[("version", version.id)])
        release = Release("prod", certificate.id, "sha256:c", version.id, f"2026-01-0{len(moves) + 1}", "because")
        body = {"certificate": certificate.id, "candidate": "sha256:c", "version": version.id, "reason": "because",
                "release": release.id, "pointer": plain(release)}  # fmt: skip
        ws.record("alias.moved", "prod", body, actor="operator")
        moves.append((release.id, certificate.id))
    return ws, line[2], moves


def test_ancestry_lists_each_ancestor_once_nearest_first(line):
    ws, data, (first, second) = line
    found = lineage.ancestry(ws, second.id)
    ids = [node["id"] for node in found]
    assert len(ids) == len(set(ids)) == 4
    assert [node["depth"] for node in found] == sorted(node["depth"] for node in found)
    assert {data.id, first.id} <= set(ids)
    nearest = next(node for node in found if node["id"] == data.id)
    assert (nearest["relation"], nearest["via"], nearest["kind"], nearest["owner"]) == (
        "dataset",
        second.id,
        "dataset",
        "t",
    )
    assert (nearest["name"], nearest["number"], nearest["created"]) == ("d", 1, data.created)
    assert {node["depth"] for node in lineage.ancestry(ws, second.id, 1)} == {1}
    assert lineage.ancestry(ws, second.id, 0) == []


def test_impact_reaches_everything_made_from_a_dataset(line):
    ws, data, versions = line
    assert {version.id for version in versions} <= {node["id"] for node in lineage.impact(ws, data.id)}
    assert [node["kind"] for node in lineage.impact(ws, versions[1].id) if node["kind"] == "version"] == []


def test_a_parent_that_was_never_registered_is_shown_as_such(line):
    ws, _, _ = line
    token = ws.register(
        Tokenizer("t", "sha256:m", 300, "sha256:x", []), actor="t", parents=[("dataset", "sha256:" + "9" * 64)]
    )
    (node,) = lineage.ancestry(ws, token.id)
    assert (node["kind"], node["label"]) == (None, "not registered 999999999999")


def test_releases_are_nodes_in_both_directions(released):
    ws, (first, _), moves = released
    down = lineage.impact(ws, first.id)
    assert [node["id"] for node in down if node["kind"] == "release"] == [moves[0][0], moves[2][0], moves[1][0]]
    assert next(node for node in down if node["id"] == moves[2][0])["label"].startswith("release prod:3 ")
    up = lineage.ancestry(ws, moves[1][0])
    assert (up[0]["id"], up[0]["relation"], up[0]["depth"]) == (moves[1][1], "certificate", 1)
    assert {"version", "run", "dataset"} <= {node["kind"] for node in up}


def test_any_reference_to_any_kind(released):
    ws, (first, second), moves = released
    assert lineage.find(ws, "m").id == second.id
    assert lineage.find(ws, "m:1").id == first.id
    assert lineage.find(ws, "certificate/m:1").kind == "certificate"
    assert lineage.find(ws, "d").kind == "dataset"
    assert lineage.find(ws, first.body["run"]).kind == "run"
    assert lineage.find(ws, first.id[7:30]).id == first.id
    assert lineage.find(ws, second.id).parents == second.parents
    release = lineage.find(ws, "prod")
    assert (release.kind, release.number, release.id, release.owner) == ("release", 3, moves[2][0], "operator")
    assert lineage.find(ws, "release/prod:1").id == moves[0][0]
    assert lineage.find(ws, moves[1][0]).body["reason"] == "because"
    with pytest.raises(UnknownName, match="unknown asset `mm`"):
        lineage.find(ws, "mm")
    with pytest.raises(UnknownName, match="unknown dataset `m`"):
        lineage.find(ws, "dataset/m")


def test_a_prefix_of_several_ids_is_refused(tmp_path):
    ws = Workspace.create(tmp_path / "ws")
    body = {"kind": "run", "name": "", "number": 1, "body": {}, "parents": []}
    for end in "ab":
        ws.record("asset.registered", "sha256:" + "c" * 63 + end, body, actor="t")
    with pytest.raises(NotFound, match="fits 2 assets"):
        lineage.find(ws, "cccc")
    assert lineage.find(ws, "c" * 63 + "a").id.endswith("a")


def test_a_journal_that_claims_a_cycle_cannot_hang_the_walk(tmp_path):
    ws = Workspace.create(tmp_path / "ws")
    ids = [f"sha256:{number:064x}" for number in range(5)]
    for number, ident in enumerate(ids):
        parents = [["base", ids[(number + 1) % 5]], ["base", ident]]
        body = {"kind": "run", "name": "r", "number": number, "body": {}, "parents": parents}
        ws.record("asset.registered", ident, body, actor="t")
    assert [node["id"] for node in lineage.ancestry(ws, ids[0])] == ids[1:]
    assert [node["id"] for node in lineage.impact(ws, ids[0])] == ids[:0:-1]


def test_an_id_is_never_part_of_the_query(line):
    ws, _, _ = line
    assert lineage.ancestry(ws, "x' OR '1'='1") == []
