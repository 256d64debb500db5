"""Sample rows: names by content, Parquet there and back, completeness."""

import io
import math
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.samples import (
    Row,
    check_complete,
    decode,
    detail,
    encode,
    make_sample,
    read_results,
    read_runs,
    read_table,
    sample_id,
    schema,
)
from registry.errors import EngineFailure
from registry.records import EvalRun

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
rows = st.builds(
    Row,
    sample_id=texts, kpi=texts, epoch=st.integers(0, 9), value=st.floats(allow_nan=False), weight=st.floats(0.1, 1e9),
    cluster=texts, error=st.just(""), detail=st.just("{}"), slices=texts, output=texts,
    latency_ms=st.floats(0, 1e6), prompt_tokens=st.integers(0, 1 << 40), completion_tokens=st.integers(0, 1 << 40),
    scorer=texts,
)  # fmt: skip


def row(name="a", epoch=0, **changed):
    return replace(Row(name, "k", epoch, 1.0, 1.0, "c"), **changed)


@given(st.lists(rows, max_size=20))
def test_rows_survive_parquet(found):
    assert sorted(map(repr, decode(encode(found)))) == sorted(map(repr, found))


@given(st.lists(rows, min_size=1, max_size=10, unique_by=lambda r: (r.kpi, r.sample_id, r.epoch)), st.randoms())
def test_order_of_rows_does_not_change_the_blob(found, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    assert encode(found) == encode(shuffled)


def old_blob(**changed):
    """A blob as release 0.1 wrote it: eight columns, no error as null."""
    columns = {"sample_id": ["a", "b"], "kpi": ["k", "k"], "epoch": [0, 0], "value": [1.0, None],
               "weight": [1.0, 1.0], "cluster": ["c", "d"], "error": [None, "died"],
               "detail": ["{}", None]}  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(pa.table({name: each for name, each in (columns | changed).items() if each is not None}), sink)
    return sink.getvalue()


def test_blobs_of_earlier_releases_read_with_defaults():
    one, two = decode(old_blob())
    assert one == Row("a", "k", 0, 1.0, 1.0, "c")
    assert (two.error, two.detail, math.isnan(two.value), two.output, two.latency_ms) == ("died", "{}", True, "", 0.0)
    table = read_table(old_blob())
    assert table.schema == schema()
    assert all(column.null_count == 0 for column in table.columns)


@pytest.mark.parametrize(
    "changed", [{"detail": None}, {"error": None}, {"value": None}, {"value": ["x", "y"]}, {"epoch": ["x", "y"]}]
)
def test_a_blob_without_a_column_or_with_another_type_is_refused(changed):
    with pytest.raises(EngineFailure, match="not a results blob"):
        read_table(old_blob(**changed))


@pytest.mark.parametrize("blob", [old_blob(), encode([row(output="said", latency_ms=2.5, prompt_tokens=3)])])
def test_the_projection_takes_every_column_of_old_and_new_blobs(ws, blob):
    run = EvalRun("sha256:c", "sha256:s", {}, ws.artifacts.add_bytes(blob), {}, {}, {}, {}, {})
    name = ws.register(run, actor="operator").id
    stored = ws.store.query("SELECT * FROM sample_result ORDER BY sample_id")
    assert [each.pop("eval_run") for each in stored] == [name] * len(stored)
    for each, found in zip(stored, decode(blob), strict=True):
        assert {key: value or None for key, value in each.items() if key not in ("value", "detail")} == {
            key: value or None for key, value in asdict(found).items() if key not in ("value", "detail")
        }


def test_the_rows_of_several_runs_are_one_table(ws):
    runs = [
        ws.register(
            EvalRun(f"sha256:{name}", "sha256:s", {}, ws.artifacts.add_bytes(blob), {}, {}, {}, {}, {}),
            actor="operator",
        ).id
        for name, blob in (("old", old_blob()), ("new", encode([row("z", output="said")])))
    ]
    assert read_runs(ws, runs)["sample_id"].to_pylist() == ["a", "b", "z"]
    assert read_runs(ws, []).num_rows == 0


def test_a_blob_that_is_no_parquet_is_refused():
    with pytest.raises(EngineFailure):
        decode(b"not a table")


@given(texts, texts, st.lists(texts, max_size=3))
def test_sample_ids_depend_on_content_only(text, target, choices):
    name = sample_id(text, target, choices)
    assert len(name) == 32
    assert name == make_sample(text, target=target, choices=choices, cluster="other file").id
    assert name != sample_id(text + "x", target, choices)


def test_input_and_target_are_not_interchangeable():
    assert sample_id("ab", "c") != sample_id("a", "bc")
    assert make_sample("alone").cluster == sample_id("alone")


def test_detail_is_valid_utf8_and_short():
    shown = detail(input="x" * 1000, said="lone \ud800 surrogate")
    assert len(shown) < 300
    assert shown.encode("utf-8")


def test_complete_rows_are_accepted():
    check_complete([row("a"), row("b"), row("a", 1), row("b", 1)], "k", ["a", "b"], 2)
    check_complete([row("a", error="why", value=math.nan)], "k", ["a"], 1)


@pytest.mark.parametrize(
    "found",
    [
        [row("a")],
        [row("a"), row("b"), row("b")],
        [row("a"), row("b"), row("c")],
        [row("a"), row("b", epoch=1)],
        [row("a"), row("b", value=math.nan)],
        [row("a"), row("b", weight=0.0)],
        [row("a"), row("b", kpi="other")],
        [],
    ],
    ids=["missing", "double", "extra", "epoch", "nan", "weight", "kpi", "empty"],
)
def test_anything_but_the_planned_samples_is_refused(found):
    with pytest.raises(EngineFailure):
        check_complete(found, "k", ["a", "b"], 1)


def test_the_gate_reads_what_was_stored(ws):
    stored = [row("a", value=3.0, weight=8.0), row("b", value=math.nan, error="no answer")]
    blob = ws.artifacts.add_bytes(encode(stored))
    run = EvalRun(
        candidate="sha256:c", suite="sha256:s", instruments={"k": "sha256:i"}, results=blob,
        planned={"k": 2}, completed={"k": 1}, errors={"k": 1}, target={"k": "weights"}, harness={"k": "lm-eval"},
    )  # fmt: skip
    results = read_results(ws, ws.register(run, actor="operator").id)
    found = results.kpis["k"]
    assert results.candidate == "sha256:c"
    assert found.instrument == "sha256:i"
    assert found.planned == 2
    assert dict(zip(found.sample_ids, found.errors, strict=True)) == {"a": "", "b": "no answer"}
    assert found.values[list(found.sample_ids).index("a")] == 3.0
