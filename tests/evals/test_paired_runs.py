"""Runs compared inside the store: the same numbers as the statistics room gives on the same rows."""

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.paired_runs import compare_runs
from evals.samples import Row, encode, read_table
from evals.stats import paired
from registry.records import EvalRun
from registry.workspace import Workspace


@pytest.fixture(scope="module")
def ws(tmp_path_factory):
    """One workspace for all: every test has runs of its own."""
    return Workspace.create(tmp_path_factory.mktemp("runs") / "ws")


@pytest.fixture(scope="module")
def store(ws):
    numbers = iter(range(1_000_000))

    def store(rows):
        blob = ws.artifacts.add_bytes(encode(rows))
        run = EvalRun(f"sha256:{next(numbers)}", "sha256:s", {}, blob, {}, {}, {}, {}, {})
        return ws.register(run, actor="operator").id

    return store


def rows_of(seed, samples=60, epochs=2, clusters=9, kpi="k", weighted=False):
    random = np.random.default_rng(seed)
    weights = np.random.default_rng(7).integers(1, 50, samples) if weighted else np.ones(samples)
    values = random.normal(size=(samples, epochs)) * weights[:, None]
    return [
        Row(f"s{n}", kpi, epoch, float(values[n, epoch]), float(weights[n]), f"c{n % clusters}" if clusters else "")
        for n in range(samples)
        for epoch in range(epochs)
    ]


def expected(first, second):
    """The statistics room's answer: epochs averaged, summed per cluster."""
    samples = {}
    for one, two in zip(first, second, strict=True):
        samples.setdefault((one.cluster or one.sample_id, one.sample_id), []).append(
            (one.value - two.value, one.weight)
        )
    sums, weights = {}, {}
    for (cluster, _), found in samples.items():
        change, weight = np.mean(found, axis=0)
        sums[cluster] = sums.get(cluster, 0.0) + change
        weights[cluster] = weights.get(cluster, 0.0) + weight
    return paired.standard_error(np.array(list(sums.values())), np.array(list(weights.values())))


@settings(max_examples=10)
@given(
    seed=st.integers(0, 10**6), samples=st.integers(3, 60), epochs=st.integers(1, 3), clusters=st.integers(0, 9),
    weighted=st.booleans(),
)  # fmt: skip
def test_the_statement_equals_the_statistics(ws, store, seed, samples, epochs, clusters, weighted):
    first, second = (rows_of(seed + side, samples, epochs, clusters, weighted=weighted) for side in (0, 1))
    row = compare_runs(ws, [store(first)], [store(second)])[0]
    difference, error = expected(first, second)
    assert row.problems == ()
    assert row.samples == samples
    assert row.clusters == (min(samples, clusters) or samples)
    assert row.difference == pytest.approx(difference, rel=1e-9, abs=1e-12)
    if row.clusters == 1:
        assert row.error is None
        assert row.interval(0.05) is None
    else:
        assert row.error == pytest.approx(error, rel=1e-9, abs=1e-12)
        low, high = row.interval(0.05)
        assert low <= row.difference <= high
    assert row.difference == pytest.approx(row.first - row.second)


def test_looks_are_put_together_and_kpis_stay_apart(ws, store):
    first, second = rows_of(1) + rows_of(2, kpi="l"), rows_of(3) + rows_of(4, kpi="l")
    whole = compare_runs(ws, [store(first)], [store(second)])
    looks = compare_runs(ws, [store(first[:100]), store(first[100:])], [store(second[30:]), store(second[:30])])
    assert [row.kpi for row in whole] == ["k", "l"]
    for one, two in zip(whole, looks, strict=True):
        assert (one.samples, one.clusters, one.up, one.down) == (two.samples, two.clusters, two.up, two.down)
        assert one.error == pytest.approx(two.error, rel=1e-9)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: rows[2:], "1 sample(s) lack their pair"),
        (lambda rows: [replace(rows[0], error="died", value=float("nan")), *rows[1:]], "1 sample(s) have an error"),
        (lambda rows: [replace(rows[0], value=float("nan")), *rows[1:]], "1 sample(s) without a finite value"),
        (lambda rows: [replace(row, cluster="x") if row.sample_id == "s0" else row for row in rows], "another cluster"),
        (lambda rows: [replace(row, weight=2.0) if row.sample_id == "s0" else row for row in rows], "or weight"),
        (lambda rows: [*rows, rows[0]], "occur twice"),
        (lambda rows: [], "60 sample(s) lack their pair"),
    ],
    ids=["pair", "error", "nan", "cluster", "weight", "twice", "nothing"],
)
def test_broken_evidence_is_named_and_gives_no_number(ws, store, spoil, said):
    runs = [store(spoil(rows_of(1)))], [store(rows_of(2))]
    for first, second in (runs, runs[::-1]):
        row = compare_runs(ws, first, second)[0]
        assert said in "; ".join(row.problems)
        assert (row.difference, row.error, row.first) == (None, None, None)


@pytest.mark.parametrize("extra", [1, 30])
def test_a_sample_that_occurs_twice_in_one_epoch_is_found(ws, store, extra):
    rows, others = rows_of(1, epochs=1), rows_of(2, epochs=1)
    for first, second in (([*rows, *rows[:extra]], others), ([*rows, *rows[:extra]], [*others, *others[:extra]])):
        row = compare_runs(ws, [store(first)], [store(second)])[0]
        assert "occur twice" in row.problems[0]
        assert row.difference is None


def test_errors_that_an_earlier_release_left_out_are_none(ws, store):
    runs = []
    for seed in (1, 2):
        table = read_table(encode(rows_of(seed, epochs=1)))
        column = table.column_names.index("error")
        table = table.set_column(column, "error", pa.nulls(table.num_rows, pa.string()))
        sink = io.BytesIO()
        pq.write_table(table, sink)
        blob = ws.artifacts.add_bytes(sink.getvalue())
        run = EvalRun(f"sha256:old{seed}", "sha256:s", {}, blob, {}, {}, {}, {}, {})
        runs.append(ws.register(run, actor="operator").id)
    assert compare_runs(ws, runs[:1], runs[1:])[0].problems == ()


def test_unequal_epochs_are_named(ws, store):
    first, second = ([row for row in rows_of(seed) if (row.sample_id, row.epoch) != ("s0", 1)] for seed in (1, 2))
    assert "epochs" in compare_runs(ws, [store(first)], [store(second)])[0].problems[0]


def test_rows_of_other_runs_are_left_out(ws, store):
    store(rows_of(9))
    one, two = store(rows_of(1)), store(rows_of(2))
    assert compare_runs(ws, [one], [two])[0].samples == 60
    assert compare_runs(ws, [], [])[:] == []
