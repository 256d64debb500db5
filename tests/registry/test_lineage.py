"""Lineage: what something was made from, what was made from it, what changed."""

import pytest

from registry import lineage
from registry.records import Dataset, ModelVersion, Run
from registry.workspace import Workspace


@pytest.fixture
def line(tmp_path):
    ws = Workspace.create(tmp_path / "ws")
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


def test_ancestry_lists_each_ancestor_once_nearest_first(line):
    ws, data, (first, second) = line
    found = lineage.ancestry(ws, second.id)
    ids = [node["id"] for node in found]
    assert len(ids) == len(set(ids)) == 4
    assert found[0]["depth"] == 1
    assert {data.id, first.id} <= set(ids)
    assert next(node for node in found if node["id"] == data.id)["relation"] == "dataset"


def test_impact_reaches_everything_made_from_a_dataset(line):
    ws, data, versions = line
    assert {version.id for version in versions} <= {node["id"] for node in lineage.impact(ws, data.id)}
    assert lineage.impact(ws, versions[1].id) == []


def test_the_difference_names_recipe_results_and_weights(line):
    ws, _, (first, second) = line
    changes = {change["what"]: (change["from"], change["to"]) for change in lineage.difference(ws, first.id, second.id)}
    assert changes["recipe.optimiser.lr"] == ("0.1", "0.2")
    assert changes["metrics.loss"] == ("0.1", "0.2")
    assert "weights.w" in changes
    assert lineage.difference(ws, first.id, first.id) == []
