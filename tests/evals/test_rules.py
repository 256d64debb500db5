import numpy as np
import pytest

from evals.evidence import gather
from evals.rules import assess, more_samples, needed_at_looks, tail_chances, threshold, worst_items
from tests.evals.gate_cases import BASE, WORSE, N, column, kpi, results, suite

RULES = [
    ({"type": "noninferior", "margin": 0.1}, "higher", -0.1),
    ({"type": "superior", "min_gain": 0.1}, "higher", 0.1),
    ({"type": "floor", "value": 0.4}, "higher", 0.4),
    ({"type": "max_rate", "limit": 0.2}, "lower", -0.2),
    ({"type": "zero_tolerance"}, "lower", None),
]


def evidence_of(entry, values, base=None, **more):
    spec = suite(entry)
    rows = results("c", {entry["id"]: column(values, **more)})
    found, problems = gather(
        spec.kpis[0], rows, None if base is None else results("b", {entry["id"]: column(base, **more)}), None
    )
    assert problems == []
    return spec.kpis[0], found


@pytest.mark.parametrize(("rule", "direction", "goal"), RULES)
def test_the_threshold_is_oriented_larger_is_better(rule, direction, goal):
    assert threshold(suite(kpi("k", rule=rule, direction=direction)).kpis[0]) == goal


def test_an_advisory_kpi_asks_nothing():
    entry, found = evidence_of(kpi("k", rule={"type": "floor", "value": 0.5}), BASE)
    note = entry.model_copy(
        update={"rule": suite(kpi(), kpi("n", rule={"type": "advisory"}, control=None)).kpis[1].rule}
    )
    assert threshold(note) is None
    assert tail_chances(note, found)[1:] == (1.0, 1.0)
    assert more_samples(note, found, "binomial", 0.05, 0.8) is None


def test_worst_items_stand_in_order_of_loss_and_id():
    entry, found = evidence_of(kpi(), WORSE, BASE)
    worst = worst_items(entry, found, most=3)
    assert [item.sample_id for item in worst] == ["s00000", "s00003", "s00006"]
    assert {item.difference for item in worst} == {-1.0}
    assert worst_items(*evidence_of(kpi(), BASE, BASE)) == ()


def test_the_interval_is_given_only_where_tails_are_trusted():
    entry, found = evidence_of(kpi(), BASE, BASE)
    assert assess(entry, found, 1e-8, "baseline").figures.lower is not None
    assert assess(entry, found, 1e-12, "baseline").figures.lower is None
    assert assess(entry, found, 1e-12, "baseline").figures.level == 1e-12


def test_no_number_of_samples_decides_what_lies_on_the_threshold():
    lost = BASE - (np.cumsum(BASE) <= N / 10) * BASE  # exactly .1 below
    entry, found = evidence_of(kpi(), lost, BASE)
    assert more_samples(entry, found, "score", 0.05, 0.8) is None
    gate = suite(kpi(), gate={"mode": "group_sequential"}).gate
    assert needed_at_looks(entry, found, "score", gate, 100) is None


def test_more_looks_need_more_samples():
    lost = BASE - (np.cumsum(BASE) <= 12) * BASE
    entry, found = evidence_of(kpi(), lost, BASE)
    modes = {
        mode: needed_at_looks(entry, found, "score", suite(kpi(), gate={"mode": mode}).gate, 0)
        for mode in ("fixed", "group_sequential", "anytime")
    }
    assert 0 < modes["fixed"] < modes["group_sequential"] < modes["anytime"]


def test_a_whole_suite_never_needs_more_than_itself():
    lost = BASE - (np.cumsum(BASE) <= 19) * BASE
    entry, found = evidence_of(kpi(), lost, BASE)
    gate = suite(kpi(), gate={"mode": "whole_suite"}).gate
    assert needed_at_looks(entry, found, "score", gate, 30) == 30
    even = BASE - (np.cumsum(BASE) <= 20) * BASE
    assert needed_at_looks(*evidence_of(kpi(), even, BASE), "score", gate, 30) == 30


def test_a_census_needs_what_is_left_of_it():
    entry, found = evidence_of(kpi("k", samples=9, rule={"type": "zero_tolerance"}), np.zeros(9))
    gate = suite(kpi(), gate={"mode": "group_sequential"}).gate
    assert needed_at_looks(entry, found, "none", gate, 4) == 4
    assert needed_at_looks(entry, found, "full suite", gate, 0) is None


def test_all_ties_need_what_ties_need():
    entry, found = evidence_of(kpi(samples=20, rule={"type": "noninferior", "margin": 0.02}), BASE[:20], BASE[:20])
    assert more_samples(entry, found, "score", 0.05, 0.8) == 149 - 20
