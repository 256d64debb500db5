import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.decision import SEVERITY
from evals.gate import ControlResult, Results, decide
from registry.errors import SpecError
from tests.evals.gate_cases import column, controls, kpi, results, suite

N = 200
BASE = (np.arange(N) % 10 < 7) * 1.0
WORSE = np.where(np.arange(N) % 3 == 0, 0.0, BASE)
BAD = controls(accuracy=np.zeros(N))


def one(candidate, baseline=BASE, spec=None, control=BAD, **others):
    """Decide a suite of one accuracy KPI."""
    found = decide(
        spec or suite(kpi()),
        results("candidate", accuracy=candidate),
        None if baseline is None else results("baseline", accuracy=baseline),
        controls=control,
        **others,
    )
    return found.verdict, found.kpis[0]


def test_an_equal_candidate_passes():
    verdict, found = one(BASE)
    assert verdict == "PASS"
    assert (found.bound, found.n, found.clusters, found.discordant) == ("score", N, N, 0)
    assert found.lower == pytest.approx(-0.0149, abs=1e-4)  # 1 - .05 ** (1 / 200)
    assert found.worst == ()


def test_a_worse_candidate_fails_and_names_the_worst_samples():
    verdict, found = one(WORSE)
    assert verdict == "FAIL"
    assert found.upper < -0.1
    assert found.candidate < found.baseline
    assert len(found.worst) == 10
    assert all(item.difference == -1.0 and item.baseline == 1.0 for item in found.worst)
    assert "more than 0.1 worse than the baseline" in found.reasons[0]


def test_few_samples_are_inconclusive_and_say_how_many_more():
    spec = suite(kpi(samples=20))
    verdict, found = one(BASE[:20], BASE[:20], spec, controls(accuracy=np.zeros(20)))
    assert verdict == "INCONCLUSIVE"
    assert found.samples_needed >= 9  # 29 tied samples are needed at margin .1
    assert "more samples like these" in found.reasons[1]
    assert "fresh hold-out of about 29 samples" in found.reasons[2]


def rows(**changes):
    return column(BASE, **changes)


NAN = np.where(np.arange(N) == 3, np.nan, BASE)
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
    assert verdict == "INVALID"
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


# Rules


def alone(rule, values, n=None, **fields):
    spec = suite(kpi("k", samples=n or len(values), rule=rule, **fields))
    worst = np.ones(len(values)) if rule["type"] in ("max_rate", "zero_tolerance") else np.zeros(len(values))
    found = decide(spec, results("candidate", k=values), None, controls=controls(k=worst))
    return found.verdict, found.kpis[0]


@pytest.mark.parametrize(
    ("events", "n", "verdict"), [(0, 59, "PASS"), (0, 58, "INCONCLUSIVE"), (1, 59, "INCONCLUSIVE"), (12, 59, "FAIL")]
)
def test_max_rate_is_exact(events, n, verdict):
    got, found = alone({"type": "max_rate", "limit": 0.05}, (np.arange(n) < events) * 1.0)
    assert (got, found.bound) == (verdict, "binomial")
    assert len(found.worst) == min(events, 10)


def test_max_rate_says_how_many_more_samples():
    assert alone({"type": "max_rate", "limit": 0.05}, np.zeros(40))[1].samples_needed == 19
    needed = alone({"type": "max_rate", "limit": 0.05}, (np.arange(100) < 5) * 1.0)[1].samples_needed
    assert needed is None  # exactly at the limit no number of samples decides


def test_zero_tolerance_is_a_census():
    assert alone({"type": "zero_tolerance"}, np.zeros(5))[0] == "PASS"
    verdict, found = alone({"type": "zero_tolerance"}, [0.0, 1.0, 0.0])
    assert verdict == "FAIL"
    assert found.worst[0].sample_id == "s00001"
    assert alone({"type": "zero_tolerance"}, np.zeros(4), n=5)[0] == "INVALID"


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.9, "PASS"), (0.5, "INCONCLUSIVE"), (0.2, "FAIL"), (0.499, "INCONCLUSIVE")]
)
def test_floor_judges_the_candidate_alone(share, verdict):
    got, found = alone({"type": "floor", "value": 0.5}, (np.arange(N) < share * N) * 1.0)
    assert (got, found.baseline, found.bound) == (verdict, None, "binomial")
    assert found.lower <= found.estimate <= found.upper


def test_a_floor_is_a_ceiling_where_lower_is_better():
    fields = {"task": "agent.py@cost", "harness": "inspect", "direction": "lower", "range": [0, 10]}
    rng = np.random.default_rng(5)
    spec = suite(kpi("k", samples=N, rule={"type": "floor", "value": 5.0}, **fields))
    bad = controls(k=np.full(N, 9.0))
    found = decide(spec, results("c", k=rng.uniform(1, 3, N)), None, controls=bad).kpis[0]
    assert (found.verdict, found.threshold, found.bound) == ("PASS", 5.0, "dirichlet")
    assert found.lower < found.estimate < found.upper < 5.0
    found = decide(spec, results("c", k=rng.uniform(7, 9, N)), None, controls=bad).kpis[0]
    assert found.verdict == "FAIL"
    assert len(found.worst) == 10


def test_superior_needs_a_gain():
    spec = suite(kpi(rule={"type": "superior", "min_gain": 0.05}))
    assert one(np.ones(N), spec=spec)[0] == "PASS"
    assert one(BASE, spec=spec)[0] == "FAIL"  # ties on 200 samples show that the gain is below .05
    assert "not better than the baseline" in one(BASE, spec=spec)[1].reasons[0]


def bits(factor, rng_seed=0, n=N, scale="ratio", **changes):
    rng = np.random.default_rng(rng_seed)
    size = rng.integers(50, 400, n).astype(float)
    base = size * rng.normal(1.5, 0.2, n)
    candidate = base * factor + size * rng.normal(0, 0.02, n)
    rule = {"type": "noninferior", "margin": 0.05, "scale": scale}
    spec = suite(kpi("bpb", samples=n, task="bits_per_byte", direction="lower", rule=rule, **changes))
    bad = controls(bpb=column(base * 3, weights=size))
    found = decide(
        spec,
        results("c", bpb=column(candidate, weights=size)),
        results("b", bpb=column(base, weights=size)),
        controls=bad,
    )
    return found.kpis[0]


def test_bits_per_byte_on_the_ratio_scale():
    good, worse, near = bits(1.01), bits(1.12), bits(1.05)
    assert (good.verdict, good.bound, good.scale) == ("PASS", "t", "ratio")
    assert good.estimate == pytest.approx(-0.01, abs=0.003)
    assert (worse.verdict, near.verdict) == ("FAIL", "INCONCLUSIVE")
    assert bits(1.01, scale="absolute").estimate == pytest.approx(-0.015, abs=0.004)


def test_unbounded_metrics_need_fifty_clusters_or_a_range():
    few = bits(1.0, n=30)
    assert (few.verdict, few.bound, few.lower, few.samples_needed) == ("INVALID", "none", None, None)
    assert "INCONCLUSIVE" in few.reasons[0]  # not even the control can be judged
    clipped = bits(1.0, n=30, range=[0, 1.6])
    assert clipped.bound == "betting"
    assert clipped.clipped > 0


def test_an_undecided_unbounded_metric_says_what_is_missing():
    spec = suite(kpi("cost", task="a.py@cost", harness="inspect", rule={"type": "noninferior", "margin": 0.1}))
    rng = np.random.default_rng(1)
    noise, base = rng.normal(0, 0.01, N), rng.normal(5, 1, N)
    bad = controls(cost=base + noise - 3)
    tied = decide(spec, results("c", cost=base), results("b", cost=base), controls=bad).kpis[0]
    assert (tied.verdict, tied.bound, tied.samples_needed) == ("INCONCLUSIVE", "none", None)
    assert any("declare" in reason for reason in tied.reasons)


def test_a_ratio_needs_a_positive_baseline():
    spec = suite(kpi(rule={"type": "noninferior", "margin": 0.1, "scale": "ratio"}))
    verdict, found = one(BASE, np.zeros(N), spec)
    assert verdict == "INVALID"
    assert "positive baseline" in found.reasons[0]


# Suites


def two(first, second, margin=0.1, **fields):
    spec = suite(kpi("a", rule={"type": "noninferior", "margin": margin}), kpi("b"), **fields)
    return decide(
        spec,
        results("c", a=first, b=second),
        results("b", a=BASE, b=BASE),
        controls=controls(a=np.zeros(N), b=np.zeros(N)),
    )


def test_the_worst_kpi_decides():
    unsure = BASE - (np.arange(N) < 28) * BASE
    assert two(BASE, BASE).verdict == "PASS"
    assert two(BASE, unsure).verdict == "INCONCLUSIVE"
    assert two(WORSE, unsure).verdict == "FAIL"
    assert two(WORSE, column(NAN)).verdict == "INVALID"
    assert two(WORSE, unsure).reasons[0].startswith("a: ")


def test_a_failure_counts_only_after_holm():
    lost = 29
    worse = BASE - (np.cumsum(BASE) <= lost) * BASE
    single = one(worse)
    assert single[0] == "FAIL"
    assert 0.025 < single[1].p_fail <= 0.05
    both = two(worse, BASE)
    assert both.verdict == "INCONCLUSIVE"
    assert "not after Holm's correction" in both.kpis[0].reasons[0]


def test_an_advisory_kpi_does_not_soften_a_narrow_failure():
    worse = BASE - (np.cumsum(BASE) <= 29) * BASE
    spec = suite(kpi(), kpi("note", rule={"type": "advisory"}, control=None))
    found = decide(spec, results("c", accuracy=worse, note=BASE), results("b", accuracy=BASE, note=BASE), controls=BAD)
    assert found.verdict == "FAIL"
    assert found.kpis[0].p_fail == one(worse)[1].p_fail > 0.025


def test_bootstrap_judges_only_what_needs_no_baseline():
    spec = suite(kpi(), kpi("rate", rule={"type": "max_rate", "limit": 0.05}))
    first = results("c", accuracy=BASE, rate=np.zeros(N))
    found = decide(spec, first, None, controls=controls(rate=np.ones(N)))
    assert (found.verdict, found.bootstrap) == ("PASS", True)
    assert [item.verdict for item in found.kpis] == ["NOT_JUDGED", "PASS"]
    assert decide(suite(kpi()), results("c", accuracy=BASE), None, controls=BAD).verdict == "INVALID"


def test_the_anchor_must_hold_too():
    spec = suite(kpi(), baseline={"ref": "prod", "anchor": "audited"})
    anchor = results("anchor", accuracy=np.ones(N))
    verdict, _ = one(BASE, spec=spec, anchor=anchor)
    assert verdict == "FAIL"
    assert one(BASE, spec=spec, anchor=results("anchor", accuracy=BASE))[0] == "PASS"
    assert one(BASE, spec=spec)[0] == "INVALID"  # named by the suite, but not given
    alone_with_anchor = decide(spec, results("c", accuracy=BASE), None, anchor=anchor, controls=BAD)
    assert [item.against for item in alone_with_anchor.kpis] == ["baseline", "anchor"]
    assert (alone_with_anchor.verdict, alone_with_anchor.bootstrap) == ("FAIL", True)
    assert "(anchor)" in alone_with_anchor.reasons[0]


def test_a_whole_suite_has_no_sampling_error():
    spec = suite(kpi(), gate={"mode": "whole_suite"})
    slightly = BASE - (np.cumsum(BASE) <= 19) * BASE
    verdict, found = one(slightly, spec=spec)
    assert (verdict, found.bound) == ("PASS", "full suite")
    assert found.lower == found.upper == pytest.approx(-0.095)
    assert one(BASE - (np.cumsum(BASE) <= 21) * BASE, spec=spec)[0] == "FAIL"
    edge = one(BASE - (np.cumsum(BASE) <= 20) * BASE, spec=spec)[1]
    assert (edge.verdict, edge.samples_needed) == ("INCONCLUSIVE", None)
    assert "exactly on the threshold" in edge.reasons[-1]
    assert one(column(BASE[:150], planned=N), spec=spec)[0] == "INVALID"


def test_part_of_a_whole_suite_is_a_sample_without_replacement():
    spec = suite(kpi(), gate={"mode": "whole_suite"})
    part = {"planned": N, "due": 150}
    half = controls(accuracy=column(np.zeros(150), **part))
    verdict, found = one(column(BASE[:150], **part), column(BASE[:150], **part), spec, half)
    assert verdict == "PASS"
    assert found.fraction == 0.75
    spec = suite(kpi(rule={"type": "max_rate", "limit": 0.1}), gate={"mode": "whole_suite"})
    hit = controls(accuracy=np.ones(N))
    assert one((np.arange(N) < 20) * 1.0, None, spec, hit)[0] == "PASS"  # 20 of 200 is a rate of .1, which is allowed
    assert one((np.arange(N) < 21) * 1.0, None, spec, hit)[0] == "FAIL"


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


# Laws

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
    values = {"fine": BASE, "unsure": BASE - (np.arange(N) < 28) * BASE, "worse": WORSE, "broken": column(NAN)}

    def verdict(kinds):
        names = [f"k{index}" for index in range(len(kinds))]
        spec = suite(*(kpi(name) for name in names))
        candidate = results("c", **{name: values[kind] for name, kind in zip(names, kinds, strict=True)})
        base = results("b", **dict.fromkeys(names, BASE))
        return decide(spec, candidate, base, controls=controls(**dict.fromkeys(names, np.zeros(N)))).verdict

    repaired = list(kinds)
    repaired[data.draw(st.integers(0, len(kinds) - 1))] = "fine"
    assert SEVERITY.index(verdict(repaired)) >= SEVERITY.index(verdict(kinds))
