import numpy as np
import pytest

from evals.gate import decide
from tests.evals.gate_cases import BAD, BASE, NAN, UNSURE, WORSE, N, alone, column, controls, kpi, one, results, suite


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


# Rules


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
    assert two(BASE, BASE).verdict == "PASS"
    assert two(BASE, UNSURE).verdict == "INCONCLUSIVE"
    assert two(WORSE, UNSURE).verdict == "FAIL"
    assert two(WORSE, column(NAN)).verdict == "INVALID"
    assert two(WORSE, UNSURE).reasons[0].startswith("a: ")


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


def test_part_of_a_whole_suite_can_be_undecided():
    spec = suite(kpi(), gate={"mode": "whole_suite"})
    part = {"planned": N, "due": 40}
    bad = controls(accuracy=column(np.zeros(40), **part))
    found = one(column(BASE[:40], **part), column(BASE[:40], **part), spec, bad)[1]
    assert found.bound != "full suite"
    assert found.lower < found.estimate < found.upper
