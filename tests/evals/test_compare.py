import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from evals.compare import compare
from evals.results import Results
from evals.samples import Row, detail, encode, read_table
from tests.evals.gate_cases import column, kpi, results, suite

N = 200
BASE = (np.arange(N) % 10 < 7) * 1.0


def table(first, second=BASE, **fields):
    return compare(suite(kpi(**fields)), results("new", accuracy=first), results("old", accuracy=second))


def test_a_table_row_holds_means_difference_interval_and_worst_items():
    row = table(BASE - (np.cumsum(BASE) <= 20) * BASE).rows[0]
    assert row.figures.candidate == pytest.approx(0.6)
    assert row.figures.baseline == pytest.approx(0.7)
    assert row.figures.estimate == pytest.approx(-0.1)
    assert row.figures.lower < -0.1 < row.figures.upper
    assert (row.regressions, row.improvements, len(row.worst)) == (20, 0, 10)


def test_items_of_a_ratio_metric_are_in_its_own_unit():
    """A long text that got a little worse is not worse than a short one that got much worse."""
    bits, sizes = np.full(60, 2.0), np.where(np.arange(60) == 0, 1000.0, 10.0)
    first = bits * sizes
    first[0], first[1] = 2.1 * 1000.0, 3.0 * 10.0
    fields = kpi(task="bits_per_byte", direction="lower", samples=60)
    new, old = (results(name, accuracy=column(values, weights=sizes)) for name, values in
                (("new", first), ("old", bits * sizes)))  # fmt: skip
    worst = compare(suite(fields), new, old).rows[0].worst
    assert [(item.first, item.second) for item in worst] == [(3.0, 2.0), (2.1, 2.0)]
    assert worst[0].difference == pytest.approx(-1.0)


def test_an_open_question_says_how_many_more_samples():
    found = table(BASE - (np.arange(N) < 18) * BASE)
    assert found.rows[0].more_samples > 0
    assert any("you need about" in line for line in found.render_lines())
    assert table(BASE).rows[0].more_samples is None


def test_swapping_the_two_turns_the_sign():
    worse = BASE - (np.arange(N) < 28) * BASE
    there, back = table(worse).rows[0], table(BASE, worse).rows[0]
    assert there.figures.estimate == -back.figures.estimate
    assert there.figures.lower == pytest.approx(-back.figures.upper, abs=1e-6)
    assert there.regressions == back.improvements


def test_a_limit_is_compared_as_a_plain_difference():
    spec = suite(kpi("rate", rule={"type": "max_rate", "limit": 0.05}), gate={"mode": "whole_suite"})
    found = compare(spec, results("new", rate=1 - BASE), results("old", rate=np.zeros(N)))
    row = found.rows[0]
    assert row.figures.estimate == pytest.approx(-0.3)
    assert (row.figures.threshold, row.more_samples) == (None, None)
    assert row.figures.bound == "full suite"


def test_broken_evidence_is_named_and_not_used():
    found = table(column(BASE, errors=["died"] + [""] * (N - 1)))
    assert found.rows[0].figures is None
    assert found.rows[0].worst == ()
    assert "1 error sample(s)" in "\n".join(found.render_lines())


def test_the_table_is_plain_json():
    found = json.loads(json.dumps(table(BASE).to_plain(), allow_nan=False))
    assert found["rows"][0]["figures"]["n"] == N


def test_a_clear_loss_needs_no_more_samples():
    row = table(np.zeros(N)).rows[0]
    assert (row.more_samples, row.regressions) == (None, 140)
    assert not any("you need" in line for line in table(np.zeros(N)).render_lines())


def rows_of(side, answers, **fields):
    """Rows of 200 samples s00000..., their values from `answers`, with what was asked and said."""
    return [
        Row(f"s{n:05d}", "accuracy", 0, float(value), 1.0, "", detail=detail(input=f"question {n}", target="yes"),
            output=f"{side} says {value:g}", latency_ms=10.0 * (n + 1),
            prompt_tokens=7, completion_tokens=8 * (n % 3 == 2),
            **fields)
        for n, value in enumerate(answers)
    ]  # fmt: skip


def stored(first, second=BASE, **fields):
    tables = tuple(read_table(encode(each)) for each in (first, rows_of("B", second)))
    found = [Results.from_table(name, each, {"accuracy": "i"}, {"accuracy": N})
             for name, each in zip("AB", tables, strict=True)]  # fmt: skip
    return compare(suite(kpi(**fields)), *found, rows=tables)


def test_the_items_that_moved_most_show_what_was_asked_and_both_answers():
    worse = BASE.copy()
    worse[3], worse[7] = 0.0, 1.0
    row = stored(rows_of("A", worse)).rows[0]
    assert [item.sample_id for item in row.worst] == ["s00003"]
    item = row.worst[0]
    assert (item.asked, item.wanted) == ("question 3", "yes")
    assert (item.first_answer, item.second_answer) == ("A says 0", "B says 1")
    assert (item.first, item.second, item.difference) == (0.0, 1.0, -1.0)
    assert [item.sample_id for item in row.best] == ["s00007"]
    said = "\n".join(stored(rows_of("A", worse)).render_lines())
    assert "asked   question 3" in said
    assert "B said  B says 1" in said


def test_cost_is_a_median_of_what_is_known():
    row = stored(rows_of("A", BASE)).rows[0]
    assert row.first.latency_ms == 1005.0
    assert row.first.prompt_tokens == 7.0
    assert row.first.completion_tokens == 8.0  # zeros are unknown
    assert table(BASE).rows[0].first.latency_ms is None


def test_rows_that_several_looks_hold_count_once():
    rows = rows_of("A", BASE)
    tables = (pa.concat_tables([read_table(encode(rows[:50])), read_table(encode(rows))]),
              read_table(encode(rows_of("B", BASE))))  # fmt: skip
    found = [Results.from_table(name, each, {"accuracy": "i"}, {"accuracy": N})
             for name, each in zip("AB", (tables[1], tables[1]), strict=True)]  # fmt: skip
    row = compare(suite(kpi()), *found, rows=tables).rows[0]
    assert row.first.latency_ms == 1005.0


def test_rows_beyond_the_samples_that_are_compared_are_left_out():
    tables = tuple(read_table(encode(rows_of(side, BASE))) for side in "AB")
    found = [Results.from_table(name, each.slice(0, 50), {"accuracy": "i"}, {"accuracy": 50})
             for name, each in zip("AB", tables, strict=True)]  # fmt: skip
    row = compare(suite(kpi(samples=50)), *found, rows=tables).rows[0]
    assert row.first.latency_ms == 255.0


def test_slices_are_compared_one_by_one():
    rows = [replace(row, slices=json.dumps({"language": "de" if n % 2 else "en"}))
            for n, row in enumerate(rows_of("A", np.where(np.arange(N) % 2, 0.0, BASE)))]  # fmt: skip
    row = stored(rows, slices=["language"]).rows[0]
    assert [each.slice for each in row.slices] == ["language=de", "language=en"]
    assert (row.slices[0].n, row.slices[0].candidate) == (100, 0.0)
    assert row.slices[1].estimate == 0.0
    assert any(line.startswith("  language=de") for line in stored(rows, slices=["language"]).render_lines())


def test_errors_are_counted_per_side():
    rows = rows_of("A", BASE)
    rows[4] = replace(rows[4], value=float("nan"), error="died")
    found = stored(rows)
    assert (found.rows[0].first.errors, found.rows[0].second.errors) == (1, 0)
    assert found.rows[0].figures is None
    assert "1/0" in found.render_lines()[4]


def test_the_table_is_aligned():
    lines = table(BASE - (np.arange(N) < 18) * BASE).render_lines()
    head, row = lines[3], lines[4]
    for name in ("gain", "n", "clusters", "worse", "errors"):
        end = re.search(rf"\b{name}\b", head).end()
        assert row[end - 1] != " "
        assert row[end : end + 1] in (" ", "")
