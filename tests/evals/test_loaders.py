"""Data files: JSONL and Parquet give the same samples, and every mistake is named by file and line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evals.evaluate import open_suite
from evals.loaders import load_documents
from evals.samples import make_sample
from evals.suite import SuiteSpec
from registry import specs
from registry.errors import NotFound, SpecError

ROWS = [{"input": f"q{n}", "target": f"t{n}", "case": f"c{n // 2}", "team": "a" if n % 2 else "b"} for n in range(8)]


def documents(ws, path):
    return load_documents(ws, specs.load(path, SuiteSpec).kpis[0], path)


def test_parquet_and_jsonl_are_the_same_instrument(ws, counted):
    path = counted({"slices": ["team"]}, rows=ROWS)
    _, (first,) = open_suite(ws, path, "operator")
    pq.write_table(pa.Table.from_pylist(ROWS), path.parent / "rows.parquet")
    counted({"slices": ["team"], "data": "rows.parquet"}, rows=ROWS)
    _, (second,) = open_suite(ws, path, "operator")
    assert second.samples == first.samples
    assert second.digest == first.digest
    assert {sample.slices for sample in first.samples} == {(("team", "a"),), (("team", "b"),)}
    assert (first.clusters, first.largest) == (4, 2)


def test_line_ends_of_unicode_inside_a_text_are_text(ws, counted):
    path = counted(rows=[{"input": "x"}])
    text = json.dumps({"input": "one\u2028two\x85three"}, ensure_ascii=False)
    (path.parent / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\n")
    found, dataset, sealed = documents(ws, path)
    assert [document.text for document in found] == ["one\u2028two\x85three"]
    assert (dataset, sealed) == ("", False)


@pytest.mark.parametrize(
    ("data", "line", "says"),
    [
        (b'{"input": "a"}\n{"input": 1}', 2, "no `input` text"),
        (b'{"input": "a"}\n\n[1]', 3, "JSON object"),
        (b'{"input": "a"}\n{"input"', 2, "JSON object"),
        (b'{"input": "a"}\n{"input": "\\ud800"}', 2, "surrogate"),
        (b'{"input": "a"}\n{"input": "\xff"}', 2, "UTF-8"),
        (b'{"input": "a"}\n{"input": "b"}\n{"input": "a", "case": "other"}', 3, "same as line 1"),
        (b"", None, "empty"),
        (b"\n \n", None, "empty"),
    ],
)
def test_wrong_data_is_named_by_file_and_line(ws, counted, data, line, says):
    path = counted(rows=[{"input": "x"}])
    (path.parent / "rows.jsonl").write_bytes(data)
    with pytest.raises(SpecError, match=says) as caught:
        documents(ws, path)
    assert caught.value.line == line
    assert caught.value.hint
    assert "rows.jsonl" in caught.value.message


def test_the_same_input_with_another_answer_is_another_sample(ws, counted):
    path = counted(rows=[{"input": "a", "target": "1"}, {"input": "a", "target": "2"}])
    assert len(documents(ws, path)[0]) == 2


def test_a_doubled_row_of_a_parquet_file_is_named(ws, counted):
    path = counted({"data": "rows.parquet"}, rows=ROWS)
    pq.write_table(pa.Table.from_pylist([*ROWS, ROWS[2]]), path.parent / "rows.parquet")
    with pytest.raises(SpecError, match="same as line 3") as caught:
        documents(ws, path)
    assert caught.value.line == 9


@pytest.mark.parametrize(("name", "error"), [("none.jsonl", NotFound), (".", NotFound), ("rows.parquet", SpecError)])
def test_a_file_that_is_none_is_named(ws, counted, name, error):
    path = counted({"data": name}, rows=[{"input": "x"}])
    (path.parent / "rows.parquet").write_bytes(b"no parquet")
    with pytest.raises(error) as caught:
        documents(ws, path)
    assert caught.value.hint


def test_a_slice_field_that_a_row_lacks_is_named(ws, counted):
    path = counted({"slices": ["team", "lang"]}, rows=ROWS)
    with pytest.raises(SpecError, match="lang"):
        open_suite(ws, path, "operator")


@pytest.mark.parametrize(("task", "says"), [("a,b,c", "plans 2 samples, its data gives 3"), ("a,a", "twice")])
def test_a_harness_that_plans_something_else_is_refused(ws, counted, task, says):
    path = counted({"harness": "short", "task": task, "samples": 2, "data": ""})
    with pytest.raises(SpecError, match=says):
        open_suite(ws, path, "operator")


def test_a_suite_keeps_the_samples_it_planned(ws, counted):
    suite, (instrument,) = open_suite(ws, counted(rows=ROWS), "operator")
    entry = ws.artifacts.manifest(suite.body["manifest"]).entry("samples/a.jsonl")
    kept = [json.loads(line) for line in ws.artifacts.read_bytes(entry.blake3).splitlines()]
    assert {each["id"] for each in kept} == {sample.id for sample in instrument.samples}
    assert kept[0]["id"] == make_sample("q0", target="t0").id
