import numpy as np
import pytest

from evals.gate import ControlResult, Results, decide
from registry.errors import SpecError
from tests.evals.gate_cases import BAD, BASE, NAN, N, column, controls, kpi, one, results, suite


def rows(**changes):
    return column(BASE, **changes)


INVALID = [
    ("error sample", rows(errors=["", "timed out"] + [""] * (N - 2)), "1 error sample(s), first `s00001`: timed out"),
    ("NaN", column(NAN), "without a finite value"),
    ("infinite", column(np.where(np.arange(N) == 3, np.inf, BASE)), "without a finite value"),
    ("zero weight", rows(weights=[0.0] + [1.0] * (N - 1)), "positive weight"),
    ("missing samples", column(BASE[:150], planned=N), "150 of 200 planned"),
    ("short plan", column(BASE[:150]), "150 of 200 planned"),
    ("too many", column(np.ones(N + 1)), "201 samples, 200 were planned"),
    ("duplicates", rows(ids=[f"s{max(i, 1):05d}" for i in range(N)]), "1 duplicate"),
    ("second epoch", rows(ids=[f"s{i // 2:05d}" for i in range(N)], epochs=[0, 1] * (N // 2)), "1 epoch(s) were"),
    ("outside the range", column(np.where(np.arange(N) == 3, 2.0, BASE)), "outside [0, 1]: 2"),
    ("another instrument", rows(instrument="sha256:other"), "different instruments"),
    ("no instrument", rows(instrument=""), "different instruments"),
    ("missing pair", rows(ids=[f"s{i + 1:05d}" for i in range(N)]), "2 sample(s) lack their pair, first `s00000`"),
    ("other clusters", rows(clusters=["a"] * N), "different clusters"),
    ("other weights", rows(weights=[2.0] * N), "different weights"),
    ("empty", column([]), "no results"),
]


@pytest.mark.parametrize(("candidate", "words"), [case[1:] for case in INVALID], ids=[case[0] for case in INVALID])
def test_broken_evidence_is_invalid(candidate, words):
    verdict, found = one(candidate)
    assert (verdict, found.verdict) == ("INVALID", "INVALID")
    assert words in found.reasons[0]


@pytest.mark.parametrize("broken", [case[1] for case in INVALID[:6]], ids=[case[0] for case in INVALID[:6]])
def test_a_broken_baseline_is_invalid(broken):
    assert one(BASE, broken)[0] == "INVALID"


def test_a_missing_kpi_is_invalid():
    found = decide(suite(kpi()), Results("candidate", {}), results("baseline", accuracy=BASE), controls=BAD)
    assert found.verdict == "INVALID"
    assert found.exit_code == 2


def test_epochs_of_one_sample_must_share_a_cluster():
    spec = suite(kpi(samples=100, epochs=2))
    twice = {"ids": [f"s{i // 2:05d}" for i in range(N)], "epochs": [0, 1] * (N // 2)}
    found = one(column(BASE, clusters=["a", "b"] * (N // 2), **twice), column(BASE, **twice), spec)[1]
    assert found.verdict == "INVALID"
    assert "different clusters" in found.reasons[0]


def test_epochs_are_averaged_first():
    spec = suite(kpi(samples=100, epochs=2))
    twice = {"ids": [f"s{i // 2:05d}" for i in range(N)], "epochs": [0, 1] * (N // 2)}
    bad = controls(accuracy=column(np.zeros(N), **twice))
    found = one(column(BASE, **twice), column(BASE, **twice), spec, bad)[1]
    assert (found.verdict, found.n) == ("PASS", 100)
    assert found.candidate == pytest.approx(BASE.mean())


def test_clusters_are_the_unit():
    pairs = {"clusters": [f"c{index // 2}" for index in range(N)]}
    bad = controls(accuracy=column(np.zeros(N), **pairs))
    found = one(column(BASE, **pairs), column(BASE, **pairs), control=bad)[1]
    assert (found.verdict, found.n, found.clusters) == ("PASS", N, N // 2)


def test_few_clusters_are_judged_by_betting():
    tens = {"clusters": [f"c{index // 5}" for index in range(N)]}
    bad = controls(accuracy=column(np.zeros(N), **tens))
    assert one(column(BASE, **tens), column(BASE, **tens), control=bad)[1].bound == "betting"


# Controls


def test_a_missing_control_is_invalid():
    verdict, found = one(BASE, control={})
    assert (verdict, found.control_verdict) == ("INVALID", "missing")
    assert one(BASE, control={"null_model": ControlResult("null_model", Results("c", {}))})[0] == "INVALID"


@pytest.mark.parametrize(("values", "word"), [(BASE, "PASS"), (BASE - (np.arange(N) < 30) * BASE, "INCONCLUSIVE")])
def test_a_control_that_does_not_fail_is_invalid(values, word):
    verdict, found = one(BASE, control=controls(accuracy=values))
    assert (verdict, found.control_verdict) == ("INVALID", word)
    assert "cannot tell bad from good" in found.reasons[0]


def test_a_broken_control_is_invalid():
    found = one(BASE, control=controls(accuracy=column(NAN)))[1]
    assert found.reasons[0].startswith("control `null_model`: it has 1 sample(s) without a finite value")
    other = one(BASE, control=controls(accuracy=column(np.zeros(N), instrument="sha256:b")))[1]
    assert "another instrument" in other.reasons[0]


def test_a_control_that_fails_is_recorded():
    assert one(BASE)[1].control_verdict == "FAIL"


def test_result_columns_have_one_length():
    with pytest.raises(SpecError, match="length"):
        column(BASE, weights=[1.0])


def test_results_from_stored_rows():
    rows = [
        {"sample_id": "a", "kpi": "k", "epoch": 0, "value": 1.0, "weight": 1.0, "cluster": "x", "error": ""},
        {"sample_id": "b", "kpi": "k", "epoch": 0, "value": None, "weight": 1.0, "cluster": None, "error": "died"},
    ]
    found = Results.from_rows("c", rows, {"k": "sha256:i"}, {"k": 2, "none": 3})
    assert list(found.kpis["k"].errors) == ["", "died"]
    assert np.isnan(found.kpis["k"].values[1])
    assert (len(found.kpis["none"].values), found.kpis["none"].planned) == (0, 3)
