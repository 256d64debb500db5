import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals import outlook
from evals.expectation import expectations, expectations_from, overridden
from evals.plan import Expectation, plan
from evals.samples import make_sample
from evals.stats.power import samples_needed
from registry.errors import SpecError, UnknownName
from tests.evals.gate_cases import column, kpi, results, suite


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


# ---- looks, clusters, slices ----------------------------------------------------------------------------------------


def with_samples(entry, sizes, slices=()):
    """A plan of one KPI over samples in clusters of given sizes; `slices` gives each sample its field values."""
    samples = []
    for number, size in enumerate(sizes):
        for turn in range(size):
            one = make_sample(f"question {number} {turn}", cluster=f"c{number}")
            pairs = slices[len(samples) % len(slices)] if slices else ()
            samples.append(SimpleNamespace(id=one.id, cluster=one.cluster, slices=pairs))
    spec = suite({**entry, "samples": len(samples)})
    return plan(spec, {"k": Expectation(icc=0.3)}, instruments=[SimpleNamespace(kpi=spec.kpis[0], samples=samples)])


def test_planned_looks_cost_little_and_save_much():
    entry = kpi("k", samples=2000, rule={"type": "noninferior", "margin": 0.02})
    fixed = plan(suite(entry)).kpis[0]
    looked = plan(suite(entry, gate={"mode": "group_sequential", "looks": 8})).kpis[0]
    assert 1.0 < looked.needed / fixed.needed < 1.1
    assert fixed.chance - 0.05 < looked.chance < fixed.chance
    assert (fixed.share, looked.share < 0.8) == (1.0, True)
    anytime = plan(suite(entry, gate={"mode": "anytime"})).kpis[0]
    assert anytime.needed > looked.needed
    assert "group_sequential, 8 looks" in plan(suite(entry, gate={"mode": "group_sequential"})).render_lines()[0]


def test_the_real_clusters_decide_what_samples_are_worth():
    entry = kpi("k", rule={"type": "noninferior", "margin": 0.05})
    even, lopsided = with_samples(entry, [10] * 100), with_samples(entry, [910] + [1] * 90)
    assert even.kpis[0].clusters == 100
    assert even.kpis[0].needed < lopsided.kpis[0].needed
    assert with_samples(entry, [1] * 1000).kpis[0].needed < even.kpis[0].needed


def test_every_slice_is_a_verdict_of_its_own():
    entry = kpi("k", rule={"type": "noninferior", "margin": 0.05}, slices=["tier"],
                slice_rule={"type": "noninferior", "margin": 0.1})  # fmt: skip
    found = with_samples(entry, [1] * 900, slices=[(("tier", "free"),), (("tier", "free"),), (("tier", "paid"),)])
    assert [(item.slice, item.samples) for item in found.kpis] == [("", 900), ("tier=free", 600), ("tier=paid", 300)]
    assert found.kpis[1].chance > found.kpis[2].chance
    assert "k [tier=paid]  (noninferior)  300 samples" in "\n".join(found.render_lines())
    assert "slices are not planned" in plan(suite({**entry, "samples": 5})).kpis[0].note


def test_an_unbounded_metric_in_few_clusters_cannot_pass():
    entry = kpi("k", rule={"type": "noninferior", "margin": 0.05, "scale": "ratio"}, task="bits_per_byte",
                direction="lower")  # fmt: skip
    spec = suite({**entry, "samples": 400})
    found = plan(spec, {"k": Expectation(spread=0.1, cluster_size=10)}).kpis[0]
    assert (found.chance, found.needed) == (0.0, 500)
    assert "below 50 clusters it stays INCONCLUSIVE" in found.note
    assert plan(spec, {"k": Expectation(spread=0.1, cluster_size=5)}).kpis[0].chance > 0.9


def test_the_table_says_what_other_effects_lead_to():
    found = planned(samples=1000).kpis[0]
    rows = {row.effect: row for row in found.table}
    assert sorted(rows) == [-0.06, -0.04, -0.02, 0.0, 0.02, 0.04]
    assert rows[-0.02].passes == pytest.approx(0.05, abs=0.01)
    assert rows[-0.06].fails > 0.9 > rows[-0.04].fails
    assert all(0.0 <= row.open <= 1.0 for row in found.table)
    assert found.equal == found.chance == rows[0.0].passes
    assert found.shows < -0.02
    assert "true effect      PASS   FAIL   INCONCLUSIVE   (normal)" in "\n".join(planned(samples=1000).render_lines())


# ---- where normal theory is wrong -----------------------------------------------------------------------------------


def test_small_samples_use_the_rejection_region_itself():
    found = planned(Expectation(discordance=0.1), samples=200).kpis[0]
    assert found.method == "exact"
    rows = {row.effect: row for row in found.table}
    assert rows[-0.02].passes <= 0.05
    one_sided = planned(Expectation(discordance=0.02), samples=100).kpis[0]
    assert {row.effect: row for row in one_sided.table}[-0.02].passes <= 0.05  # normal theory is far from it here


def test_the_exact_chances_are_those_of_drawing():
    levels = outlook.Levels("fixed", 0.05, 0.05)
    found = outlook.exact_pairs([-0.1, 0.0, 0.05], -0.05, 120, 0.2, levels)
    drawn = outlook.simulated([-0.1, 0.0, 0.05], -0.05, [1] * 120, 0.2, 0.0, levels)
    for exact, simulated in zip(found, drawn, strict=True):
        assert exact.passes == pytest.approx(simulated.passes, abs=0.15)  # three errors of 100 draws
        assert exact.fails == pytest.approx(simulated.fails, abs=0.15)


def test_few_clusters_are_simulated_through_the_bound_that_judges_them():
    found = with_samples(kpi("k", rule={"type": "noninferior", "margin": 0.2}), [5] * 30).kpis[0]
    assert found.method == "simulated"
    normal = outlook.normal([0.0], -0.2, lambda _: (0.1 * 2.2 / 150) ** 0.5, outlook.Levels("fixed", 0.05, 0.05))[0]
    assert found.chance <= normal.passes


@given(st.floats(0.01, 0.3), st.floats(0.02, 0.4), st.integers(20, 5000))
def test_chances_grow_with_the_effect(margin, discordance, samples):
    rule = {"type": "noninferior", "margin": margin}
    levels = outlook.Levels("fixed", 0.05, 0.05)
    found = outlook.normal([-0.3, -margin, 0.0, 0.3], -margin, lambda _: (discordance / samples) ** 0.5, levels)
    passes, fails = [row.passes for row in found], [row.fails for row in found]
    assert passes == sorted(passes)
    assert fails == sorted(fails, reverse=True)
    assert found[1].passes == pytest.approx(0.05)
    assert rule["margin"] == margin


# ---- expectations ---------------------------------------------------------------------------------------------------


def test_expectations_are_read_from_earlier_results():
    draws = np.random.default_rng(1)
    shared = draws.random(60)
    base = (np.repeat(shared, 5) < 0.7) * 1.0
    ours = np.where(np.repeat(draws.random(60), 5) < 0.2, 1.0 - base, base)
    spec = suite(kpi("k", samples=300, rule={"type": "noninferior", "margin": 0.05}))
    names = [f"c{number // 5}" for number in range(300)]
    sides = [results(name, k=column(values, clusters=names)) for name, values in (("a", ours), ("b", base))]
    found = expectations_from(spec, *sides)["k"]
    assert found.discordance == pytest.approx(float((ours != base).mean()))
    assert found.cluster_size == 5.0
    assert found.icc > 0.9
    assert (found.gain, found.spread) == (0.0, None)
    assert expectations_from(spec, sides[0], None) == {}
    alone = suite(kpi("k", samples=300, rule={"type": "floor", "value": 0.5}))
    assert expectations_from(alone, sides[0], None)["k"].value == pytest.approx(ours.mean())


def test_the_spread_of_a_ratio_is_in_units_of_the_baseline():
    draws = np.random.default_rng(2)
    weights = draws.integers(500, 1500, 4000).astype(float)
    base = 2.0 * weights
    ours = base * (1.0 + 0.1 * draws.standard_normal(4000))
    entry = kpi("k", samples=4000, rule={"type": "noninferior", "margin": 0.05, "scale": "ratio"},
                task="bits_per_byte", direction="lower")  # fmt: skip
    sides = [results(name, k=column(values, weights=weights)) for name, values in (("a", ours), ("b", base))]
    found = expectations_from(suite(entry), *sides)["k"]
    assert found.spread == pytest.approx(0.1 * (1 + (weights.std() / weights.mean()) ** 2) ** 0.5, rel=0.05)
    assert found.icc == 0.0


def test_what_the_user_says_comes_first():
    spec = suite(kpi("k"), kpi("other"))
    found = expectations(["k:discordance=.05,icc=.2", "k:gain=.01"], Expectation(discordance=0.3), spec)
    assert (found["k"].discordance, found["k"].icc, found["k"].gain) == (0.05, 0.2, 0.01)
    assert found["other"] == Expectation(discordance=0.3)
    with pytest.raises(UnknownName, match="unknown KPI `no`"):
        overridden(found, ["no:icc=.2"])
    with pytest.raises(UnknownName, match="unknown figure `iccc`"):
        overridden(found, ["k:iccc=.2"])
    for wrong in ("k:icc=x", "k:icc=2", "k:discordance=-1", "k:spread=nan"):
        with pytest.raises(SpecError):
            overridden(found, [wrong])
