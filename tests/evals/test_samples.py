"""Sample rows: names by content, Parquet there and back, completeness."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.samples import Row, check_complete, decode, detail, encode, make_sample, read_results, sample_id
from registry.errors import EngineFailure
from registry.records import EvalRun

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
rows = st.builds(
    Row,
    sample_id=texts, kpi=texts, epoch=st.integers(0, 9), value=st.floats(allow_nan=False), weight=st.floats(0.1, 1e9),
    cluster=texts, error=st.just(""), detail=st.just("{}"),
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
