import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.gate import decide
from tests.evals.gate_cases import BASE, NAN, UNSURE, WORSE, N, column, controls, kpi, results, suite

outcomes = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 20)), min_size=2, max_size=250)
rules = st.sampled_from(
    [
        {"type": "noninferior", "margin": 0.1},
        {"type": "superior", "min_gain": 0.0},
        {"type": "noninferior", "margin": 0.1, "scale": "ratio"},
        {"type": "floor", "value": 0.4},
    ]
)


def case(found, rule, clustered, mode="fixed"):
    """Return suite, candidate values, baseline values, cluster labels and controls of drawn outcomes."""
    candidate, baseline, labels = (np.array(part) for part in zip(*found, strict=True))
    clusters = [f"c{label}" for label in labels] if clustered else [""] * len(found)
    spec = suite(kpi(samples=len(found), rule=rule), gate={"mode": mode})
    bad = controls(accuracy=column(np.zeros(len(found)), clusters=clusters))
    return spec, candidate * 1.0, baseline * 1.0, clusters, bad


def judged(spec, candidate, baseline, clusters, bad, order=None):
    order = np.arange(len(candidate)) if order is None else np.array(order)
    ids = np.array([f"s{i:05d}" for i in range(len(candidate))])[order]
    labels = np.array(clusters, dtype=object)[order]
    return decide(
        spec,
        results("c", accuracy=column(candidate[order], ids=ids, clusters=labels)),
        results("b", accuracy=column(baseline, clusters=clusters)),
        controls=bad,
    )


@settings(max_examples=60, deadline=None)
@given(outcomes, rules, st.booleans(), st.sampled_from(["fixed", "whole_suite"]), st.data())
def test_a_better_score_never_turns_pass_into_fail(found, rule, clustered, mode, data):
    spec, candidate, baseline, clusters, bad = case(found, rule, clustered, mode)
    before = judged(spec, candidate, baseline, clusters, bad).kpis[0]
    better = candidate.copy()
    better[data.draw(st.integers(0, len(found) - 1))] = 1.0
    after = judged(spec, better, baseline, clusters, bad).kpis[0]
    assert not (before.verdict == "PASS" and after.verdict == "FAIL")
    if before.bound == after.bound and before.p_pass is not None and after.p_pass is not None:
        assert after.p_pass <= before.p_pass + 1e-6


@settings(max_examples=30, deadline=None)
@given(outcomes, rules, st.booleans(), st.randoms(use_true_random=False))
def test_reordering_samples_and_relabelling_clusters_change_nothing(found, rule, clustered, random):
    spec, candidate, baseline, clusters, bad = case(found, rule, clustered)
    order = list(range(len(found)))
    random.shuffle(order)
    first = judged(spec, candidate, baseline, clusters, bad)
    assert judged(spec, candidate, baseline, clusters, bad, order) == first
    relabelled = [f"zz{hash(label) % 9973}-{label}" if label else "" for label in clusters]
    bad = controls(accuracy=column(np.zeros(len(found)), clusters=relabelled))
    assert judged(spec, candidate, baseline, relabelled, bad) == first


@settings(max_examples=60, deadline=None)
@given(outcomes, st.booleans(), st.sampled_from(["fixed", "whole_suite"]), st.sampled_from([0, 2]))
def test_a_candidate_equal_to_its_baseline_never_fails(found, clustered, mode, which):
    rule = [{"type": "noninferior", "margin": 0.1}, None, {"type": "superior", "min_gain": 0.0}][which]
    spec, candidate, _, clusters, bad = case(found, rule, clustered, mode)
    assert judged(spec, candidate, candidate, clusters, bad).verdict != "FAIL"


@settings(max_examples=30, deadline=None)
@given(outcomes, rules, outcomes)
def test_an_advisory_kpi_changes_nothing(found, rule, others):
    spec, candidate, baseline, clusters, bad = case(found, rule, clustered=False)
    before = judged(spec, candidate, baseline, clusters, bad)
    extra = kpi("extra", samples=9, rule={"type": "advisory"}, control=None)
    wider = spec.model_copy(update={"kpis": (*spec.kpis, suite(kpi(), extra).kpis[1])})
    second = column([float(item[0]) for item in others])
    after = decide(
        wider,
        results("c", accuracy=column(candidate, clusters=clusters), extra=second),
        results("b", accuracy=column(baseline, clusters=clusters), extra=second),
        controls=bad,
    )
    assert (after.verdict, after.reasons, after.kpis[0]) == (before.verdict, before.reasons, before.kpis[0])
    assert after.kpis[1].verdict == "ADVISORY"


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from(["fine", "unsure", "worse", "broken"]), min_size=1, max_size=3), st.data())
def test_removing_a_reason_to_fail_never_lowers_the_verdict(kinds, data):
    values = {"fine": BASE, "unsure": UNSURE, "worse": WORSE, "broken": column(NAN)}

    def verdict(kinds):
        names = [f"k{index}" for index in range(len(kinds))]
        spec = suite(*(kpi(name) for name in names))
        candidate = results("c", **{name: values[kind] for name, kind in zip(names, kinds, strict=True)})
        base = results("b", **dict.fromkeys(names, BASE))
        return decide(spec, candidate, base, controls=controls(**dict.fromkeys(names, np.zeros(N)))).verdict
