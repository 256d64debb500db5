"""`hallmark suite`: keys, sealed files and screenings, each with its document, its exit code and its words."""

import io
import json

import pytest

from registry import sealing
from registry.records import Dataset

SUITE = """\
suite: screened
version: 1
canary: screened-canary-0123456789
kpis:
  - id: answers
    harness: lm-eval
    task: exact_match
    data: data.jsonl
    samples: 2
    direction: higher
    rule: {type: floor, value: 0.5}
    control: null_model
"""
QUESTIONS = [
    "which of the seven valves on the north side closes first when the pressure falls below four bar",
    "how many crates of blue glass were counted in the second cellar before the flood of last winter",
]


@pytest.fixture
def suite(tmp_path):
    rows = [{"input": text, "target": f"answer {number}"} for number, text in enumerate(QUESTIONS)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "suite.yaml").write_text(SUITE)
    return str(tmp_path / "suite.yaml")


@pytest.fixture
def dataset(ws):
    """Register a dataset with one training split of these texts."""

    def add(name, *texts):
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [{"id": str(n), "text": text, "source": "s", "path": f"{n}.txt"} for n, text in enumerate(texts)]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        folder = ws.work("test", name)
        (folder / "train.parquet").write_bytes(sink.getvalue())
        record = Dataset(name, "", f"sha256:{name}", ws.artifacts.add_tree(folder).id, {"train": len(rows)}, [], {}, [])
        return ws.register(record, actor="trainer", name=name)

    return add


def test_an_evaluator_makes_a_key_and_a_file_is_sealed_for_it(ws, hallmark, tmp_path):
    clear = tmp_path / "tickets.jsonl"
    clear.write_text('{"input": "secret question", "target": "x"}\n')
    code, _, err = hallmark("suite", "seal", str(clear), "--for", "evaluator")
    assert (code, "`evaluator` has no sealing key" in err) == (2, True)
    code, out, _ = hallmark("suite", "key", "--json")
    assert (code, json.loads(out)["principal"]) == (0, "evaluator")
    code, out, _ = hallmark("suite", "seal", str(clear), "--for", "evaluator")
    assert code == 0
    assert "write `data: tickets.jsonl.sealed` in the suite" in out
    sealed = (tmp_path / "tickets.jsonl.sealed").read_bytes()
    assert b"secret question" not in sealed
    assert sealing.open_sealed(ws, sealed) == clear.read_bytes()


def test_a_trainer_neither_gets_a_key_nor_seals(hallmark, tmp_path):
    (tmp_path / "x").write_text("x")
    for words in (("key",), ("seal", str(tmp_path / "x"), "--for", "evaluator")):
        code, _, err = hallmark("suite", *words, "--as", "trainer")
        assert code == 1
        assert "`trainer` (trainer) may not evaluate" in err
    hallmark("suite", "key")
    code, _, err = hallmark("suite", "seal", str(tmp_path / "x"), "--for", "trainer")
    assert (code, "may not read hold-outs" in err) == (1, True)


def test_screening_exits_1_when_a_sample_was_trained_on(hallmark, suite, dataset):
    dataset("clean", "the kettle is on the shelf and the shelf is in the kitchen of the old house by the sea")
    dataset("leaky", "nothing here", f"... {QUESTIONS[1].upper()} ANSWER 1 ...")
    code, out, _ = hallmark("suite", "screen", suite, "--data", "clean")
    assert code == 0
    assert "0 of 2 samples contaminated" in out
    code, out, _ = hallmark("suite", "screen", suite, "--data", "clean", "--data", "leaky", "--json")
    found = json.loads(out)
    assert (code, found["clean"]) == (1, False)
    ((_, hit),) = found["screening"]["contaminated"]["answers"].items()
    assert (hit["kind"], hit["place"]) == ("13-gram", "leaky:1#train 1.txt")


def test_a_candidate_s_training_data_is_screened(ws, hallmark, suite, dataset, add_version):
    version = add_version()
    code, out, _ = hallmark("suite", "screen", suite, "--candidate", version.id)
    assert code == 0
    assert out.startswith("0 rows of no training data")


def test_a_suite_without_its_canary_in_its_files_is_told(hallmark, suite, dataset, tmp_path):
    dataset("clean", "nothing of the kind")
    assert "note: the canary is not in `data.jsonl`" in hallmark("suite", "screen", suite, "--data", "clean")[1]
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    marked = [{**row, "canary": "screened-canary-0123456789"} for row in rows]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in marked))
    assert "canary" not in hallmark("suite", "screen", suite, "--data", "clean")[1]


def test_what_is_missing_is_asked_for(hallmark, suite):
    for words in ((), ("--min-k", "--data", "x"), ("--min-k", "--candidate", "x")):
        code, _, err = hallmark("suite", "screen", suite, *words)
        assert code == 2
        assert "--candidate REF" in err
