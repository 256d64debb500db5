"""Results from stored rows: by KPI, in order, with nothing dropped."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.results import Results
from evals.samples import Row, encode, read_table

ROWS = st.builds(
    Row, sample_id=st.text("abc", min_size=1, max_size=3), kpi=st.sampled_from("kl"), epoch=st.integers(0, 3),
    value=st.floats(), weight=st.floats(0.1, 10), cluster=st.text("xy", max_size=2),
    error=st.sampled_from(["", "died"]), slices=st.sampled_from(["", '{"a": "1"}', '{"a": "2", "b": "3"}']),
)  # fmt: skip


@given(st.lists(ROWS, max_size=30))
def test_every_row_arrives_under_its_kpi(rows):
    stored = read_table(encode(rows))
    found = Results.from_table("c", stored, {"k": "sha256:i"}, {"k": 5, "none": 3})
    assert set(found.kpis) == {row.kpi for row in rows} | {"k", "none"}
    order = sorted(rows, key=lambda row: (row.kpi, row.sample_id, row.epoch))
    for name, kpi in found.kpis.items():
        mine = [row for row in order if row.kpi == name]
        columns = zip(kpi.sample_ids, kpi.epochs, map(repr, kpi.values), kpi.weights, kpi.clusters, kpi.errors,
                      strict=True)  # fmt: skip
        assert list(columns) == [
            (row.sample_id, row.epoch, repr(np.float64(row.value)), row.weight, row.cluster, row.error) for row in mine
        ]
        assert kpi.values.dtype == kpi.weights.dtype == np.float64
        assert kpi.epochs.dtype == np.int64
    assert (found.kpis["k"].instrument, found.kpis["k"].planned, found.kpis["none"].planned) == ("sha256:i", 5, 3)


def test_slices_become_columns_and_an_unnamed_one_is_empty():
    rows = [Row("a", "k", 0, 1.0, 1.0, "", slices='{"language": "de"}'), Row("b", "k", 0, 1.0, 1.0, ""),
            Row("c", "l", 0, 1.0, 1.0, "", slices='{"size": 3}')]  # fmt: skip
    found = Results.from_table("c", read_table(encode(rows)), {}, {})
    assert {name: list(column) for name, column in found.kpis["k"].slices.items()} == {"language": ["de", ""]}
    assert {name: list(column) for name, column in found.kpis["l"].slices.items()} == {"size": ["3"]}


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_table_of_several_chunks_is_one(chunks):
    table = read_table(encode([Row("a", "k", 0, 1.0, 1.0, "c")]))
    whole = pa.concat_tables([table] * chunks) if chunks else table.slice(0, 0)
    found = Results.from_table("c", whole, {}, {"k": 1})
    assert list(found.kpis["k"].sample_ids) == ["a"] * chunks


def test_nulls_are_read_as_the_gate_means_them():
    table = pa.table({"sample_id": ["a"], "kpi": ["k"], "epoch": pa.array([0], pa.int32()),
                      "value": pa.array([None], pa.float64()), "weight": [1.0],
                      "cluster": pa.array([None], pa.string()),
                      "error": pa.array([None], pa.string()), "slices": pa.array([None], pa.string())})  # fmt: skip
    kpi = Results.from_table("c", table, {}, {}).kpis["k"]
    assert np.isnan(kpi.values[0])
    assert (kpi.clusters[0], kpi.errors[0], dict(kpi.slices)) == ("", "", {})


def test_mappings_give_what_a_table_gives():
    rows = [{"sample_id": "a", "kpi": "k", "value": None}, {"sample_id": "b", "kpi": "k", "value": 2, "weight": 3}]
    kpi = Results.from_rows("c", rows, {}, {"k": 2}).kpis["k"]
    assert np.isnan(kpi.values[0])
    assert (kpi.values[1], kpi.weights.tolist(), kpi.epochs.tolist()) == (2.0, [1.0, 3.0], [0, 0])
