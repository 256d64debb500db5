import numpy as np
import pytest

from evals.evidence import Plan, gather, part
from tests.evals.gate_cases import BASE, N, column, kpi, results, suite

KPI = suite(kpi()).kpis[0]


def found(first, second=None, entry=KPI, population=None, mode="fixed"):
    rows = results("c", accuracy=first)
    return gather(entry, rows, None if second is None else results("b", accuracy=second), population, mode)


def test_sums_are_per_cluster_in_the_order_of_the_samples():
    labels = [f"c{index % 3}" for index in range(N)]
    evidence, problems = found(column(BASE, clusters=labels), column(BASE, clusters=labels))
    assert problems == []
    assert evidence.sums.weights.tolist() == [67.0, 67.0, 66.0]
    assert evidence.sums.candidate.tolist() == [float(BASE[start::3].sum()) for start in range(3)]
    assert not evidence.sums.binary


def test_samples_without_a_cluster_stand_alone():
    evidence, _ = found(column(BASE), column(BASE))
    assert (evidence.sums.clusters, evidence.sums.samples, evidence.sums.binary) == (N, N, True)
    mixed = ["a", "a", *[""] * (N - 2)]
    evidence, _ = found(column(BASE, clusters=mixed))
    assert evidence.sums.clusters == N - 1


def test_a_cluster_named_like_a_sample_swallows_no_sample():
    labels = ["s00001", *[""] * (N - 1)]
    assert found(column(BASE, clusters=labels))[0].sums.clusters == N


def test_problems_of_both_sides_are_named():
    _, problems = found(column([]), column(np.where(np.arange(N) == 3, np.nan, BASE)))
    assert problems[0] == "the candidate has no results"
    assert problems[1].startswith("the baseline has 1 sample(s) without a finite value")


def test_the_plan_reaches_the_sums():
    rows = column(BASE, clusters_planned=300, largest=4)
    sums = found(rows, rows, population=N, mode="whole_suite")[0].sums
    assert (sums.population, sums.clusters_planned, sums.largest, sums.mode) == (N, 300, 4.0, "whole_suite")


def test_the_largest_cluster_is_weighed_by_its_heaviest_sample():
    heavy = column(BASE * 3, weights=[3.0] * N, largest=2)
    assert found(heavy)[0].sums.largest == 6.0


def test_values_are_clipped_to_a_declared_range_and_counted():
    entry = suite(kpi(task="a.py@t", harness="inspect", range=[0, 1])).kpis[0]
    values = np.where(np.arange(N) < 4, 1.5, BASE)
    evidence, problems = found(column(values), entry=entry)
    assert problems == []
    assert evidence.candidate.clipped == 4
    assert evidence.candidate.values.max() == 1.0
    chosen = np.arange(N) < 2
    assert part(entry, evidence, chosen, Plan()).candidate.clipped == 2


def test_a_part_keeps_pairs_together():
    flipped = 1.0 - BASE
    evidence, _ = found(column(BASE), column(flipped))
    chosen = np.arange(N) % 4 == 0
    some = part(KPI, evidence, chosen, Plan(population=50, mode="whole_suite"))
    assert some.sums.samples == 50
    assert some.sums.effect == pytest.approx(float((BASE - flipped)[chosen].mean()))
    assert (some.candidate.ids == some.baseline.ids).all()
