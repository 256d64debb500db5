import json

import pytest

from evals.plan import Expectation, plan
from evals.stats.power import samples_needed
from tests.evals.gate_cases import kpi, suite


def planned(expected=None, *, samples=1000, rule=None, **fields):
    entry = kpi("k", samples=samples, rule=rule or {"type": "noninferior", "margin": 0.02}, **fields)
    return plan(suite(entry), {"k": expected} if expected else None)


def test_margin_power_and_discordance_give_samples():
    found = planned().kpis[0]
    assert found.needed == samples_needed(0.02, 0.1, 0.05, 0.8) == 1546
    assert 0.6 < found.chance < 0.7  # the design's simulation: an equal model is inconclusive .36 of the time
    assert planned(Expectation(discordance=0.2)).kpis[0].needed > found.needed


def test_a_suite_that_is_large_enough_reaches_its_power():
    assert planned(samples=1546).kpis[0].chance == pytest.approx(0.8, abs=0.001)
    assert planned(samples=1546).kpis[0].detectable == pytest.approx(0.02, abs=1e-4)


def test_clusters_cost_samples():
    assert planned(Expectation(cluster_size=5, icc=0.5)).kpis[0].needed == pytest.approx(3 * 1546, abs=3)


def test_ties_alone_need_a_number_of_samples():
    found = planned(Expectation(discordance=0.0), samples=100).kpis[0]
    assert (found.needed, found.chance) == (149, 0.0)
    assert planned(Expectation(discordance=0.0), samples=149).kpis[0].chance == 1.0


def test_a_candidate_expected_to_be_too_bad_never_passes():
    found = planned(Expectation(gain=-0.05)).kpis[0]
    assert found.needed is None
    assert found.chance < 0.01
    assert "no number of samples" in found.note
    assert planned(rule={"type": "superior", "min_gain": 0.0}).kpis[0].needed is None


def test_rates_use_the_exact_bound():
    rule = {"type": "max_rate", "limit": 0.05}
    assert planned(Expectation(value=0.0), samples=59, rule=rule).kpis[0].chance == 1.0
    assert planned(Expectation(value=0.0), samples=58, rule=rule).kpis[0].chance == 0.0
    assert planned(Expectation(value=0.05), samples=58, rule=rule).kpis[0].needed is None
    found = planned(samples=59, rule=rule).kpis[0]
    assert found.needed > 59
    assert "59 samples" in found.note


def test_floors_need_an_expected_value():
    rule = {"type": "floor", "value": 0.6}
    assert planned(rule=rule).kpis[0].chance is None
    assert planned(Expectation(value=0.7), rule=rule).kpis[0].chance > 0.99
    assert planned(Expectation(value=0.7, spread=0.1), rule=rule).kpis[0].needed < 40


def test_unbounded_metrics_need_an_expected_spread():
    fields = {"task": "bits_per_byte", "direction": "lower"}
    unknown = planned(**fields)
    assert unknown.kpis[0].chance is None
    assert unknown.chance is None
    assert "spread" in "\n".join(unknown.render_lines())
    assert planned(Expectation(spread=0.1), **fields).kpis[0].chance > 0.99


def test_a_suite_passes_less_often_than_its_kpis():
    spec = suite(*(kpi(f"k{i}", samples=2000, rule={"type": "noninferior", "margin": 0.02}) for i in range(10)))
    found = plan(spec)
    assert found.chance == pytest.approx(found.kpis[0].chance ** 10)
    assert 0.2 < found.chance < 0.5
    assert "whole suite passes" in found.render_lines()[-1]
    assert json.loads(json.dumps(found.to_plain()))["kpis"][9]["kpi"] == "k9"


def test_a_census_needs_no_power():
    found = planned(rule={"type": "zero_tolerance"}, samples=7)
    assert found.kpis[0].needed == 7
    assert any("which it has" in line for line in found.render_lines())
