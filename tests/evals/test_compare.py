import json

import numpy as np
import pytest

from evals.compare import compare
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
