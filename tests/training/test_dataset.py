from __future__ import annotations

import json

import pytest

import training.data
from registry.errors import Refused, SpecError, Tampered, UnknownName
from registry.records import Dataset, Suite
from training.data.dataset import select
from training.data.rows import make_row
from training.data.spec import DataSpec, Decontaminate, Source


def test_build_registers_rows_and_reads_them_back(ws, spec_file):
    asset = training.data.build(ws, spec_file, actor="operator")
    record = ws.get("house", Dataset)
    assert record.id == asset.id
    assert set(record.splits) == {"domain_train", "domain_holdout", "general_train", "general_holdout"}
    rows = training.data.load_split(ws, asset.id, "domain_train")
    assert len(rows) == record.splits["domain_train"] > 50
    assert set(rows[0]) == {"id", "text", "source", "path", "kind"}
    held = {row["path"] for row in training.data.load_split(ws, asset.id, "domain_holdout")}
    assert held
    assert not held & {row["path"] for row in rows}
    assert record.sources[0]["licence"] == "Apache-2.0"
    assert record.sources[0]["files"] == 60


def test_second_build_adds_nothing(ws, spec_file):
    first = training.data.build(ws, spec_file, actor="operator")
    events = len(ws.store.query("SELECT seq FROM event"))
    assert training.data.build(ws, spec_file, actor="operator").id == first.id
    for receipt in ws.work("data").glob("*.json"):
        receipt.unlink()
    assert training.data.build(ws, spec_file, actor="operator").id == first.id
    assert len(ws.store.query("SELECT seq FROM event")) == events


def test_damaged_receipt_is_built_again(ws, spec_file):
    first = training.data.build(ws, spec_file, actor="operator")
    for receipt in ws.work("data").glob("*.json"):
        receipt.write_text("{")
    assert training.data.build(ws, spec_file, actor="operator").id == first.id


def test_changed_source_changes_the_dataset(ws, spec_file, code_base):
    first = ws.get(training.data.build(ws, spec_file, actor="operator").id, Dataset)
    (code_base / "m00.py").write_text("def other(a):\n    return [a, a, a, a, a, a, a, a, a, a, a]\n")
    second = ws.get(training.data.build(ws, spec_file, actor="operator").id, Dataset)
    assert second.rows_digest != first.rows_digest
    assert second.spec == first.spec


def test_files_that_cannot_be_read_are_quarantined_and_counted(ws, spec_file, code_base):
    (code_base / "syntax.py").write_text("def f(:\n")
    (code_base / "nul.py").write_bytes(b"x = 1\0\n")
    (code_base / "latin.md").write_bytes(b"caf\xe9\n" * 40)
    (code_base / "cookie.py").write_bytes(b"# -*- coding: no-such -*-\nx = 1\n")
    (code_base / "deep.py").write_text("x = " + "(" * 5000 + ")" * 5000 + "\n")
    record = ws.get(training.data.build(ws, spec_file, actor="operator").id, Dataset)
    reasons = {item["path"]: item["reason"] for item in record.quarantined}
    assert set(reasons) == {"syntax.py", "nul.py", "latin.md", "cookie.py", "deep.py"}
    assert reasons["nul.py"].endswith("NUL byte: not text")


def test_canary_refuses_the_whole_build(ws, spec_file, code_base):
    spec_file.write_text(spec_file.read_text() + "canaries: [CANARY-0b1c9d]\n")
    (code_base / "leak.md").write_text("Some prose that is long enough to be a row. CANARY-0b1c9d and more of it.\n")
    with pytest.raises(Refused, match=r"leak\.md"):
        training.data.build(ws, spec_file, actor="operator")
    assert ws.assets("dataset") == []


def register_suite(ws, tmp_path, text: str) -> None:
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "items.jsonl").write_text(json.dumps({"input": [text], "n": 1}) + "\n")
    manifest = ws.artifacts.add_tree(folder)
    ws.register(Suite("s", 1, manifest.id, {}, "CANARY-of-the-suite"), actor="operator", name="s")


def test_rows_that_overlap_a_registered_suite_are_dropped(ws, spec_file, tmp_path):
    spec_file.write_text(spec_file.read_text().replace("decontaminate: null", "decontaminate: {ngram: 40}"))
    plain = ws.get(training.data.build(ws, spec_file, actor="operator").id, Dataset)
    victim = training.data.load_split(ws, plain.id, "domain_train")[0]
    register_suite(ws, tmp_path, "prefix " + victim["text"].upper())
    clean = ws.get(training.data.build(ws, spec_file, actor="operator").id, Dataset)
    assert clean.drops["contaminated_suite"] >= 1
    left = {row["id"] for row in training.data.load_split(ws, clean.id, "domain_train")}
    assert victim["id"] not in left


def test_canary_of_a_suite_refuses(ws, spec_file, code_base, tmp_path):
    register_suite(ws, tmp_path, "nothing of interest stands here")
    (code_base / "leak.md").write_text("A text that carries CANARY-of-the-suite inside and is long enough to keep.\n")
    with pytest.raises(Refused):
        training.data.build(ws, spec_file, actor="operator")


def test_unknown_split_and_altered_bytes(ws, spec_file):
    asset = training.data.build(ws, spec_file, actor="operator")
    with pytest.raises(UnknownName, match="domain_trian"):
        training.data.load_split(ws, asset.id, "domain_trian")
    entry = ws.artifacts.manifest(asset.body["manifest"]).entry("domain_train.parquet")
    path = ws.artifacts.path(entry.blake3)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Tampered):
        training.data.load_split(ws, asset.id, "domain_train")


def test_an_empty_split_is_refused(ws, spec_file, code_base):
    for path in sorted(code_base.glob("*.py"))[1:]:
        path.unlink()
    with pytest.raises(SpecError, match="is empty"):
        training.data.build(ws, spec_file, actor="operator")


def test_of_two_copies_the_held_out_one_stays():
    source = Source(kind="folder", name="s", path=".", licence="MIT")
    spec = DataSpec(name="x", sources=(source,), holdout=0.5, decontaminate=Decontaminate(ngram=13))
    text = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma\n"
    rows = [make_row(text, source="s", path=f"p{i}", kind="domain", ordinal=0) for i in range(8)]
    splits, drops = select(rows, spec, [])
    assert len(splits["domain_holdout"]) == 1
    assert splits["domain_train"] == []
    assert drops["exact_duplicate"] == 7
