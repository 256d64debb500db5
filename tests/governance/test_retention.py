"""Withdrawal: what a source, a file or a person touched is listed, no later build takes it, bytes go only as told."""

import json
import re

import pytest

import training.data
from governance import approvals, candidates, collection, holds, promotion, retention
from governance.cli.app import run
from governance.cli.main import cli
from governance.verification import verify
from registry import withdrawals
from registry.attestation import verify_certificate
from registry.errors import NotFound, Refused, SpecError, Tampered, UnknownName
from registry.records import Dataset, ModelVersion, Release, Run
from registry.workspace import Workspace
from tests.governance.withdrawing import build, write_spec

NAME = "Jane Q. Doe-Smith"


@pytest.fixture
def notes(ws, tmp_path):
    return build(ws, tmp_path, "notes", person=NAME)


def train(ws, model, dataset, name="code"):
    """Register a run and a version made from a dataset, as training would."""
    manifest = ws.artifacts.add_tree(model)
    parents = [("dataset", dataset.id)]
    run_asset = ws.register(
        Run("sft", "sha256:r", {"name": name}, [dataset.id], None, "x", 1, 1, {}, {}), actor="trainer", name="tune",
        parents=parents,
    )  # fmt: skip
    record = ModelVersion(name, manifest.id, run_asset.id, None, [dataset.id], "MistralForCausalLM", 64, {})
    return ws.register(record, actor="trainer", name=name, parents=[("run", run_asset.id), *parents])


def test_a_source_lists_everything_made_from_it_and_what_to_do(ws, model, notes, tmp_path):
    other = build(ws, tmp_path, "other", dataset="other", seed=4)
    version = train(ws, model, notes)
    candidate = candidates.create(ws, version.id, actor="trainer")
    ws.point(Release("unrelated", "sha256:0", "sha256:1", "sha256:2", "2026-01-01T00:00:00Z", ""))
    found = retention.survey(ws, "notes")
    assert found.what == "source"
    assert found.datasets == (notes.id,)
    kinds = {item["id"]: item["kind"] for item in found.assets}
    assert kinds[notes.id] == "dataset"
    assert kinds[version.id] == "version"
    assert kinds[candidate.id] == "candidate"
    assert other.id not in kinds
    assert [step for step in found.plan if "hallmark data build" in step]
    assert [step for step in found.plan if "recipe `tune`" in step]
    assert withdrawals.withdrawals(ws) == []


@pytest.mark.parametrize("how", ["name", "digest"])
def test_a_withdrawn_source_is_refused_by_name_from_then_on(ws, notes, tmp_path, how):
    wanted = "notes" if how == "name" else notes.body["sources"][0]["digest"]
    retention.withdraw(ws, wanted, reason="licence ended")
    with pytest.raises(Refused, match="source `notes` was withdrawn by `operator` on .*: licence ended"):
        training.data.build(ws, write_spec(tmp_path, "notes", dataset="again"), actor="trainer")
    build(ws, tmp_path, "other", dataset="other", seed=4)
    (tmp_path / "notes").rename(tmp_path / "renamed")
    with pytest.raises(Refused, match="`renamed` was withdrawn"):
        build(ws, tmp_path, "renamed", dataset="sly")


def test_one_file_is_withdrawn_wherever_it_was_taken(ws, notes, tmp_path):
    found = retention.withdraw(ws, "notes/t02.txt", reason="asked back")
    assert found.what == "file"
    assert {row["path"] for row in found.rows} == {"t02.txt"}
    with pytest.raises(Refused, match="`t02.txt` of source `notes` holds what `operator` withdrew"):
        training.data.build(ws, write_spec(tmp_path, "notes"), actor="trainer")
    (tmp_path / "notes" / "t02.txt").unlink()
    assert training.data.build(ws, write_spec(tmp_path, "notes"), actor="trainer").id != notes.id


def test_a_person_is_found_and_kept_out_without_being_named(ws, notes, tmp_path):
    found = retention.withdraw(ws, person="jane q doe smith", reason="article 17")
    assert found.what == "person"
    assert [(row["source"], row["path"], row["rows"]) for row in found.rows] == [("notes", "t02.txt", 1)]
    for segment in ws.journal.segments():
        assert not re.search(rb"\b(jane|smith)\b", segment.read_bytes().lower())  # as words: chance writes letters
    assert (ws.root / withdrawals.SALT).stat().st_mode & 0o077 == 0
    with pytest.raises(Refused, match="`t02.txt` of source `notes`"):
        training.data.build(ws, write_spec(tmp_path, "notes"), actor="trainer")
    (tmp_path / "notes" / "t05.txt").write_text(
        "A letter of JANE Q.\nDOE-SMITH to the council of the town of birches.\n"
    )
    (tmp_path / "notes" / "t02.txt").unlink()
    with pytest.raises(Refused, match="`t05.txt`"):
        training.data.build(ws, write_spec(tmp_path, "notes"), actor="trainer")
    (tmp_path / "notes" / "t05.txt").unlink()
    training.data.build(ws, write_spec(tmp_path, "notes"), actor="trainer")
    (ws.root / withdrawals.SALT).unlink()
    with pytest.raises(Tampered, match="not the key"):
        training.data.build(ws, write_spec(tmp_path, "notes"), actor="trainer")


def test_nothing_new_is_trained_on_a_dataset_that_holds_it(ws, notes, tmp_path):
    other = build(ws, tmp_path, "other", dataset="other", seed=4)
    retention.withdraw(ws, person=NAME, reason="article 17")
    with pytest.raises(Refused, match="holds a person's rows, withdrawn by `operator`"):
        withdrawals.refuse_datasets(ws, [other.id, notes.id])
    withdrawals.refuse_datasets(ws, [other.id])
    retention.withdraw(ws, other.id, reason="asked back")
    with pytest.raises(Refused, match="holds dataset"):
        withdrawals.refuse_datasets(ws, [other.id])


def test_what_nothing_came_from_and_what_is_too_short_are_refused(ws, notes):
    with pytest.raises(UnknownName, match="unknown source `note`") as caught:
        retention.survey(ws, "note")
    assert "did you mean `notes`" in caught.value.hint
    with pytest.raises(UnknownName, match="--person"):
        retention.survey(ws, person="Nobody Of This Name")
    with pytest.raises(SpecError, match="four letters"):
        withdrawals.person_mark(ws, "a")
    with pytest.raises(Refused, match="needs a reason"):
        retention.withdraw(ws, "notes", reason=" ")
    with pytest.raises(Refused, match="may not withdraw data"):
        retention.withdraw(ws, "notes", reason="x", actor="trainer")


def test_deletion_takes_the_bytes_and_leaves_the_hashes(ws, notes, tmp_path):
    found = retention.withdraw(ws, "notes", reason="licence ended", delete=True)
    assert found.deleted == (notes.id,)
    assert verify(ws, "notes").problems == ("withdrawn: licence ended",)
    with pytest.raises(Refused, match="withdrawn"):
        ws.artifacts.checkout(notes.body["manifest"], tmp_path / "copy")
    ws.artifacts.inflight.end()
    gone = collection.collect(ws, grace_h=0)
    assert gone.count == len(ws.artifacts.manifest(notes.body["manifest"]).entries)
    assert ws.artifacts.manifest(notes.body["manifest"]).entries[0].sha256.startswith("sha256:")
    assert verify(ws, "notes").problems == ("withdrawn: licence ended",)
    assert ws.get("notes", Dataset).rows_digest == notes.body["rows_digest"]


def test_a_hold_forbids_deletion_by_name_until_it_is_lifted(ws, model, notes):
    version = train(ws, model, notes)
    hold = holds.place(ws, version.id, reason="matter 2026-14")
    with pytest.raises(Refused, match=f"hold `{hold.id}` by `auditor` covers .*matter 2026-14"):
        retention.withdraw(ws, "notes", reason="licence ended", delete=True)
    assert withdrawals.withdrawals(ws) == []
    holds.lift(ws, hold.id, reason="closed")
    assert retention.withdraw(ws, "notes", reason="licence ended", delete=True).deleted == (notes.id,)


def test_a_deleted_version_is_neither_served_nor_promoted_nor_made_again(ws, add_version, model, tmp_path):
    version = add_version()
    candidate = candidates.create(ws, version.id, actor="trainer")
    done = retention.delete(ws, version.id, reason="asked back")
    assert set(done) == {version.id, candidate.id}
    assert ws.artifacts.verify(candidate.body["weights"]) == ["withdrawn: asked back"]
    with pytest.raises(Refused, match="withdrawn"):
        ws.artifacts.checkout(candidate.body["weights"], tmp_path / "served")
    with pytest.raises(Refused, match="withdrawn"):
        withdrawals.refuse_tombstoned(ws, candidate.id)
    other = add_version(b"b")
    assert ws.artifacts.verify(other.body["manifest"]) == []


def test_bytes_that_another_asset_still_has_are_not_marked(ws, add_version):
    first = add_version(name="code")
    second = add_version(name="twin")
    assert first.body["manifest"] == second.body["manifest"]
    retention.delete(ws, first.id, reason="asked back")
    assert ws.artifacts.verify(second.body["manifest"]) == []
    retention.delete(ws, second.id, reason="asked back too")
    assert ws.artifacts.verify(second.body["manifest"])[0].startswith("withdrawn")


def test_what_an_alias_points_at_is_not_withdrawn(ws, passed, capsys):
    candidate = passed()
    approvals.approve(ws, candidate, reason="reviewed")
    promotion.promote(ws, candidate, "prod")
    at = ["--workspace", str(ws.root)]
    assert run(cli, ["version", "withdraw", candidate.body["version"], "--reason", "x", *at]) == 1
    assert "alias `prod` points at it" in capsys.readouterr().err
    other = passed(b"b")
    approvals.approve(ws, other, reason="reviewed")
    promotion.promote(ws, other, "prod")
    assert run(cli, ["version", "withdraw", candidate.body["version"], "--reason", "x", *at]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    with pytest.raises(Tampered, match="weights: withdrawn: x"):
        promotion.rollback(ws, "prod", reason="back")
    with pytest.raises(Tampered, match="weights: withdrawn: x"):
        promotion.promote(ws, candidate, "prod")
    with pytest.raises(Refused, match="withdrawn"):
        verify_certificate(ws, ws.assets("certificate")[0].id)
    assert run(cli, ["version", "list", *at]) == 0
    assert "withdrawn" in capsys.readouterr().out.splitlines()[0]
    assert run(cli, ["version", "show", candidate.body["version"], *at]) == 0
    assert "withdrawn     x" in capsys.readouterr().out


def test_evidence_and_what_is_served_are_not_deleted(ws, passed):
    candidate = passed()
    decision = ws.assets("decision")[0]
    with pytest.raises(NotFound, match="evidence"):
        retention.delete(ws, decision.id, reason="x")
    assert retention.delete(ws, candidate.body["version"], reason="x")


def test_the_commands(ws, notes, capsys):
    at = ["--workspace", str(ws.root)]
    assert run(cli, ["data", "withdraw", "notes", "--reason", "x", "--dry-run", *at]) == 0
    assert "would withdraw" in capsys.readouterr().out
    assert run(cli, ["data", "withdraw", "--reason", "x", *at]) == 2
    assert run(cli, ["data", "withdraw", "--person", NAME, "--reason", "x", "--json", *at]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"][0]["path"] == "t02.txt"
    assert run(cli, ["hold", "place", "notes", "--reason", "matter", *at]) == 0
    assert run(cli, ["data", "withdraw", "notes", "--reason", "x", "--delete", *at]) == 1
    assert "covers" in capsys.readouterr().err
    assert run(cli, ["hold", "list", "--json", *at]) == 0
    ident = json.loads(capsys.readouterr().out)[0]["id"]
    assert run(cli, ["hold", "lift", ident, "--reason", "closed", *at]) == 0
    assert run(cli, ["hold", "list", *at]) == 0
    assert run(cli, ["data", "withdraw", "notes", "--reason", "x", "--delete", *at]) == 0
    assert "deleted" in capsys.readouterr().out
    assert run(cli, ["data", "verify", "notes", *at]) == 1
    assert "withdrawn: x" in capsys.readouterr().out
    assert len(withdrawals.tombstones(Workspace.open(ws.root))) == 1
