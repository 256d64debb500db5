"""Rows read back: exactly those that are due, in the seeded order, from whichever runs hold them."""

import pytest

from evals.evaluate import Evaluation, evaluate, open_suite
from evals.instrument import Instrument
from evals.reading import read
from evals.samples import Row, encode, make_sample, schema
from evals.suite import SuiteSpec
from registry import specs
from registry.errors import NotYet
from registry.records import EvalRun


def run_of(ws, suite, candidate, digest, rows, **fields):
    record = EvalRun(
        **{
            "candidate": candidate, "suite": suite.id, "instruments": {"a": digest}, "planned": {"a": 24},
            "results": ws.artifacts.add_bytes(encode(rows) if isinstance(rows, list) else rows),
            "completed": {"a": 24}, "errors": {"a": 0}, "target": {"a": "weights"}, "harness": {"a": "counting"},
            **fields,
        }
    )  # fmt: skip
    return ws.register(record, actor="operator")


def rows_of(instrument, value=1.0, kpi="a"):
    return [Row(sample.id, kpi, 0, value, 1.0, sample.cluster) for sample in instrument.samples]


def test_exactly_the_due_samples_come_in_seeded_order(ws, plain_candidate, counted):
    candidate, path = plain_candidate(), counted({"slices": ["team"], "epochs": 2})
    evaluate(ws, candidate.id, path, actor="operator")
    suite, (instrument,) = open_suite(ws, path, "operator")
    size = instrument.sizes(4)[1]
    results, runs = read(ws, suite, [instrument], candidate.id, {"a": size})
    found = results.kpis["a"]
    assert list(found.sample_ids) == [sample.id for sample in instrument.samples[:size] for _ in range(2)]
    assert list(found.epochs) == [0, 1] * size
    assert (found.due, found.planned, found.clusters_planned, found.largest) == (size, 24, 12, 2)
    assert (found.source, found.target, found.judge) == ("measured", "weights", None)
    teams = {sample.id: dict(sample.slices)["team"] for sample in instrument.samples}
    assert list(found.slices["team"]) == [teams[name] for name in found.sample_ids]
    assert len(runs) == 1
    assert results.candidate == candidate.id


def test_what_is_not_measured_yet_is_said(ws, plain_candidate, counted):
    candidate, path = plain_candidate(), counted()
    with Evaluation(ws, candidate.id, path, actor="operator") as evaluation:
        evaluation.measure({"a": 8})
        suite, instruments = evaluation.suite, evaluation.instruments
    assert read(ws, suite, instruments, candidate.id, {"a": 8})[0].kpis["a"].due == 8
    with pytest.raises(NotYet, match="`a`: 16 of 24 samples are not measured") as caught:
        read(ws, suite, instruments, candidate.id)
    assert "gate run" in caught.value.hint


def test_a_row_that_two_runs_hold_counts_once_and_as_first_measured(ws, counted, plain_candidate):
    suite, (instrument,) = open_suite(ws, counted(), "operator")
    candidate = plain_candidate().id
    rows = rows_of(instrument)
    first = run_of(ws, suite, candidate, instrument.digest, rows[:10])
    second = run_of(ws, suite, candidate, instrument.digest, [*rows_of(instrument, 0.0)[4:]])
    run_of(ws, suite, candidate, "sha256:other", rows_of(instrument, 0.5))
    run_of(ws, suite, candidate, instrument.digest, rows_of(instrument, 0.25), control="null_model")
    results, runs = read(ws, suite, [instrument], candidate)
    assert list(results.kpis["a"].values) == [1.0] * 10 + [0.0] * 14
    assert [run.id for run in runs] == [first.id, second.id]


def test_a_whole_run_from_before_there_were_looks_is_read(ws, counted, plain_candidate):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    suite, (instrument,) = open_suite(ws, counted(), "operator")
    old = schema().names[:8]
    table = pa.table({name: [getattr(row, name) for row in rows_of(instrument)] for name in old})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    candidate = plain_candidate().id
    run = run_of(ws, suite, candidate, instrument.digest, sink.getvalue())
    results, runs = read(ws, suite, [instrument], candidate, {"a": 5})
    assert len(results.kpis["a"].values) == 5
    assert runs == [run]


def test_a_renamed_kpi_finds_its_imported_rows_and_says_what_they_are(ws, counted, plain_candidate):
    kpi = {"harness": "import", "task": "other-harness 3", "data": "", "samples": 3}
    older, _ = open_suite(ws, counted(kpi), "operator")
    suite, (instrument,) = open_suite(ws, counted({**kpi, "id": "b"}), "operator")
    assert instrument.sizes(4) == [3, 3, 3, 3]
    rows = [Row(make_sample(f"q{n}").id, "a", 0, float(n), 1.0, "") for n in range(3)]
    candidate = plain_candidate().id
    run_of(ws, older, candidate, instrument.digest, rows, imported=True, target={"a": "import"})
    results, _ = read(ws, suite, [instrument], candidate)
    assert results.kpis["b"].source == "imported"
    assert sorted(results.kpis["b"].values) == [0.0, 1.0, 2.0]
    with pytest.raises(NotYet, match="not imported") as caught:
        read(ws, suite, [instrument], "sha256:another")
    assert "eval import" in caught.value.hint


def test_a_run_with_an_epoch_short_is_not_whole(ws, counted, plain_candidate):
    suite, (instrument,) = open_suite(ws, counted({"epochs": 2}), "operator")
    candidate = plain_candidate().id
    run_of(ws, suite, candidate, instrument.digest, rows_of(instrument))
    with pytest.raises(NotYet, match="24 of 24"):
        read(ws, suite, [instrument], candidate)


def test_many_rows_are_read(ws, counted, plain_candidate):
    path = counted()
    suite, _ = open_suite(ws, path, "operator")
    kpi = specs.load(path, SuiteSpec).kpis[0].model_copy(update={"samples": 40_000})
    samples = tuple(make_sample(f"q{n}", cluster=f"c{n // 4}") for n in range(40_000))
    instrument = Instrument(kpi, samples, {}, "", "sha256:large")
    candidate = plain_candidate().id
    run_of(ws, suite, candidate, "sha256:large", rows_of(instrument))
    results, _ = read(ws, suite, [instrument], candidate, {"a": 20_000})
    found = results.kpis["a"]
    assert list(found.sample_ids[::5_000]) == [sample.id for sample in samples[:20_000:5_000]]
    assert (len(found.values), found.clusters_planned, found.largest) == (20_000, 10_000, 4)
