"""What changed between two assets, and why."""

import shutil

import pytest

from registry.changes import difference, flatten
from registry.errors import NotFound, SpecError
from registry.records import Candidate, Dataset, GateDecision, ModelVersion, Run, Suite
from registry.workspace import Workspace


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One workspace with two versions, copied for each test."""
    place = tmp_path_factory.mktemp("changes")
    ws = Workspace.create(place / "ws")
    made = two_versions(ws, place)
    ws.close()
    return place / "ws", made


@pytest.fixture
def ws(built, tmp_path):
    shutil.copytree(built[0], tmp_path / "ws")
    return Workspace.open(tmp_path / "ws")


@pytest.fixture
def versions(built):
    return built[1]


def folder(ws, tmp_path, files):
    place = tmp_path / "folder"
    place.mkdir()
    for name, text in files.items():
        (place / name).write_text(text)
    manifest = ws.artifacts.add_tree(place)
    for name in files:
        (place / name).unlink()
    place.rmdir()
    return manifest.id


def two_versions(ws, tmp_path):
    made, base = [], None
    for number, rate in enumerate((0.5, 0.25)):
        files = {"config.json": "{}", "model.safetensors": "w" * (10 + number), f"only-{number}.txt": "x"}
        source = [{"name": "house", "version": str(number), "licence": "MIT", "digest": "sha256:d"}]
        data = ws.register(
            Dataset("rows", "sha256:s", f"sha256:r{number}", "sha256:m", {"train": 3 + number}, source, {}, []),
            actor="trainer", name="rows",
        )  # fmt: skip
        recipe = {"optimiser": {"lr": rate}, "seed": 1}
        run = Run("sft", "sha256:x", recipe, [data.id], base, "x", 1, 9, {"loss": rate}, {"torch": f"2.{number}"})
        run = ws.register(run, actor="trainer", name="code", parents=[("dataset", data.id)])
        record = ModelVersion("code", folder(ws, tmp_path, files), run.id, base, [data.id], "M", 64, {})
        made.append(ws.register(record, actor="trainer", name="code", parents=[("run", run.id)]))
        base = made[-1].id
    return made


def candidate_of(ws, version, engine="transformers"):
    record = Candidate(
        version.id, version.body["manifest"], "t", "t", "none", {"eos_token_id": 1}, engine, "1", "none", "sha256:b"
    )
    return ws.register(record, actor="trainer", name="code", parents=[("version", version.id)])


def judge(ws, candidate, verdict, value):
    kpi = {"kpi": "code.pass", "rule": "floor", "verdict": verdict, "candidate": value, "estimate": 0.0}
    record = GateDecision(candidate.id, None, "sha256:s", verdict, False, "fixed", 0.05, [], [], {"kpis": [kpi]})
    return ws.register(record, actor="evaluator", name="code", parents=[("candidate", candidate.id)])


def table(changes):
    return {change.what: (change.before, change.after, change.by) for change in changes}


def test_two_versions_differ_in_files_data_recipe_environment_and_results(ws, versions):
    first, second = versions
    judge(ws, candidate_of(ws, first), "FAIL", 0.25)
    judge(ws, candidate_of(ws, second), "PASS", 0.75)
    found = difference(ws, first.id, second.id)
    inputs, configuration, results = table(found.inputs), table(found.configuration), table(found.results)
    assert inputs["weights/model.safetensors"][0].startswith("10 B ")
    assert inputs["weights/model.safetensors"][2] == 1.0
    assert inputs["weights/only-0.txt"][1] == inputs["weights/only-1.txt"][0] == "-"
    assert "weights/config.json" not in inputs
    assert inputs["data.rows"][0].startswith("rows:1 ")
    assert inputs["base"] == ("-", f"code:1 {first.id[7:19]}", 0.0)
    assert configuration["recipe.optimiser.lr"] == ("0.5", "0.25", -0.25)
    assert configuration["environment.torch"] == ("2.0", "2.1", 0.0)
    assert "recipe.seed" not in configuration
    assert results["metrics.loss"] == ("0.5", "0.25", -0.25)
    assert results["kpi.code.pass"] == ("0.25", "0.75", 0.5)
    assert results["verdict"] == ("FAIL", "PASS", 0.0)
    assert [reason.text for reason in found.reasons] == ["gate: FAIL", "gate: PASS"]
    assert difference(ws, first.id, first.id).inputs == ()


def test_reasons_are_what_people_recorded_about_either_in_time_order(ws, versions):
    first, second = versions
    other = candidate_of(ws, second)
    ws.record("asset.noted", second.body["run"], {"note": "half the rate: loss had spikes"}, actor="trainer")
    body = {"candidate": other.id, "decision": "sha256:d", "keyid": "k", "reason": "reads well", "envelope": {}}
    ws.record("approval.given", other.id, body, actor="approver")
    ws.record("source.withdrawn", "house", {"reason": "licence ended"}, actor="operator")
    ws.record("source.withdrawn", "elsewhere", {"reason": "not ours"}, actor="operator")
    ws.record("asset.noted", "sha256:" + "0" * 64, {"note": "about something else"}, actor="trainer")
    reasons = difference(ws, first.id, second.id).reasons
    assert [(reason.actor, reason.text) for reason in reasons] == [
        ("trainer", "noted: half the rate: loss had spikes"),
        ("approver", "approved: reads well"),
        ("operator", "source withdrawn: licence ended"),
    ]
    assert reasons[0].about == second.body["run"]


def test_two_candidates_of_one_version_differ_only_in_what_they_set_and_how_they_did(ws, versions):
    one, two = candidate_of(ws, versions[0]), candidate_of(ws, versions[0], engine="vllm")
    judge(ws, one, "PASS", 0.5)
    judge(ws, two, "PASS", 0.25)
    found = difference(ws, one.id, two.id)
    assert found.inputs == ()
    assert table(found.configuration) == {"engine": ("transformers", "vllm", 0.0)}
    assert table(found.results) == {"kpi.code.pass": ("0.5", "0.25", -0.25)}


def test_datasets_and_suites_are_compared_by_source_and_by_key(ws, versions, tmp_path):
    first, second = (version.body["datasets"][0] for version in versions)
    configuration = table(difference(ws, first, second).configuration)
    assert configuration["sources.house.version"] == ("0", "1", 0.0)
    assert configuration["splits.train"] == ("3", "4", 1.0)
    suites = []
    for limit in (0.1, 0.2):
        manifest = folder(ws, tmp_path, {"suite.yaml": f"kpis:\n- {{id: a, limit: {limit}}}\n- {{id: b, limit: 1}}\n"})
        suites.append(ws.register(Suite("s", 1, manifest, {"a": "sha256:i"}, ""), actor="evaluator", name="s"))
    found = difference(ws, *(suite.id for suite in suites))
    assert table(found.configuration) == {"suite.kpis.a.limit": ("0.1", "0.2", 0.1)}
    assert [change.what for change in found.inputs] == ["suite.yaml"]


def test_what_cannot_be_compared_is_refused(ws, versions):
    with pytest.raises(SpecError, match="cannot compare a version with a run"):
        difference(ws, versions[0].id, versions[0].body["run"])
    with pytest.raises(NotFound, match="nothing is registered"):
        difference(ws, versions[0].id, "sha256:'; DROP TABLE asset; --")


def test_lists_without_names_of_their_own_stay_lists():
    assert flatten({"a": [{"id": "x", "v": 1}, {"id": "y", "v": 2}], "b": [{"id": "x"}, {"id": "x"}], "c": {}}) == {
        "a.x.id": "x", "a.x.v": 1, "a.y.id": "y", "a.y.v": 2, "b": [{"id": "x"}, {"id": "x"}], "c": {},
    }  # fmt: skip
