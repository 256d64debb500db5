"""The gate's laws at several looks, each with the earlier ones as its history."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.decision import SEVERITY
from evals.gate import decide
from tests.evals.gate_cases import column, controls, kpi, results, suite

outcomes = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 20)), min_size=8, max_size=200)
modes = st.sampled_from(["group_sequential", "anytime", "whole_suite"])
rules = st.sampled_from(
    [
        {"type": "noninferior", "margin": 0.1},
        {"type": "superior", "min_gain": 0.0},
        {"type": "floor", "value": 0.4},
    ]
)


def arrays(found):
    candidate, baseline, labels = (np.array(part) for part in zip(*found, strict=True))
    return candidate * 1.0, baseline * 1.0, [f"c{label}" for label in labels]


def spec_of(n, rule, mode, extra=()):
    return suite(kpi(samples=n, rule=rule), *extra, gate={"mode": mode, "looks": 3})


def rows(values, due, clusters, shuffle=None):
    order = np.arange(due) if shuffle is None else np.array([index for index in shuffle if index < due])
    return column(
        values[order],
        ids=[f"s{index:05d}" for index in order],
        clusters=[clusters[index] for index in order],
        planned=len(values),
        due=due,
        clusters_planned=len(set(clusters)),
    )


def path(spec, candidate, baseline, clusters, shuffle=None, extra=None):
    """Decide at a third, two thirds and all of the samples."""
    taken, n = [], len(candidate)
    more = {} if extra is None else {"extra": extra}
    for due in (max(1, n // 3), 2 * n // 3, n):
        taken.append(
            decide(
                spec,
                results("c", accuracy=rows(candidate, due, clusters, shuffle), **more),
                results("b", accuracy=rows(baseline, due, clusters), **more),
                controls=controls(accuracy=rows(np.zeros(n), due, clusters)),
                history=tuple(taken),
            )
        )
    return taken


@settings(max_examples=25, deadline=None)
@given(outcomes, rules, modes, st.booleans(), st.data())
def test_a_better_score_never_turns_pass_into_fail(found, rule, mode, clustered, data):
    candidate, baseline, clusters = arrays(found)
    clusters = clusters if clustered else [""] * len(found)
    better = candidate.copy()
    better[data.draw(st.integers(0, len(found) - 1))] = 1.0
    spec = spec_of(len(found), rule, mode)
    before, after = (path(spec, each, baseline, clusters) for each in (candidate, better))
    for one, two in zip(before, after, strict=True):
        assert not (one.verdict == "PASS" and two.verdict == "FAIL")


@settings(max_examples=15, deadline=None)
@given(outcomes, rules, modes, st.randoms(use_true_random=False))
def test_reordering_rows_and_relabelling_clusters_change_nothing(found, rule, mode, random):
    candidate, baseline, clusters = arrays(found)
    spec = spec_of(len(found), rule, mode)
    shuffled = list(range(len(found)))
    random.shuffle(shuffled)
    first = path(spec, candidate, baseline, clusters)
    assert path(spec, candidate, baseline, clusters, shuffled) == first
    assert path(spec, candidate, baseline, [f"z{label[::-1]}" for label in clusters], shuffled) == first


@settings(max_examples=25, deadline=None)
@given(outcomes, st.sampled_from([0, 1]), modes, st.booleans())
def test_a_candidate_equal_to_its_baseline_never_fails(found, which, mode, clustered):
    candidate, _, clusters = arrays(found)
    rule = [{"type": "noninferior", "margin": 0.1}, {"type": "superior", "min_gain": 0.0}][which]
    taken = path(spec_of(len(found), rule, mode), candidate, candidate, clusters if clustered else [""] * len(found))
    assert all(decision.verdict != "FAIL" for decision in taken)


@settings(max_examples=12, deadline=None)
@given(outcomes, rules, modes, st.lists(st.booleans(), min_size=5, max_size=30))
def test_an_advisory_kpi_changes_nothing(found, rule, mode, others):
    candidate, baseline, clusters = arrays(found)
    extra = kpi("extra", samples=len(others), rule={"type": "advisory"}, control=None)
    before = path(spec_of(len(found), rule, mode), candidate, baseline, clusters)
    wider = spec_of(len(found), rule, mode, [extra])
    after = path(wider, candidate, baseline, clusters, extra=column(np.array(others) * 1.0))
    for one, two in zip(before, after, strict=True):
        assert (two.verdict, two.reasons, two.kpis[0], two.look, two.final) == (
            one.verdict, one.reasons, one.kpis[0], one.look, one.final,
        )  # fmt: skip
        assert two.kpis[1].verdict == "ADVISORY"


@settings(max_examples=25, deadline=None)
@given(outcomes, rules, modes, st.data())
def test_latched_verdicts_never_change(found, rule, mode, data):
    """Whatever the later rows say, even broken ones."""
    candidate, baseline, clusters = arrays(found)
    n = len(candidate)
    spec, taken = spec_of(n, rule, mode), []
    for due in (max(1, n // 3), 2 * n // 3, n, n):
        seen = data.draw(st.sampled_from([candidate, baseline, 1.0 - candidate, np.ones(n), np.full(n, np.nan)]))
        taken.append(
            decide(
                spec,
                results("c", accuracy=rows(seen, due, clusters)),
                results("b", accuracy=rows(baseline, due, clusters)),
                controls=controls(accuracy=rows(np.zeros(n), due, clusters)),
                history=tuple(taken),
            )
        )
    settled = [decision.kpis[0] for decision in taken if decision.kpis[0].verdict in ("PASS", "FAIL")]
    assert all(replace(item, latched=False) == settled[0] for item in settled)
    if settled:
        assert taken[-1].kpis[0].verdict == settled[0].verdict


@settings(max_examples=15, deadline=None)
@given(outcomes, rules, modes)
def test_a_replay_is_the_same_decision(found, rule, mode):
    candidate, baseline, clusters = arrays(found)
    n = len(found)
    spec = spec_of(n, rule, mode)
    taken = path(spec, candidate, baseline, clusters)
    again = decide(
        spec,
        results("c", accuracy=rows(candidate, n, clusters)),
        results("b", accuracy=rows(baseline, n, clusters)),
        controls=controls(accuracy=rows(np.zeros(n), n, clusters)),
        history=tuple(taken),
    )
    last = taken[-1]
    assert (again.verdict, again.look, again.final) == (last.verdict, last.look, last.final)
    figures = ("verdict", "pass_level", "p_pass", "estimate", "lower", "fraction", "look")
    for name in figures:
        assert getattr(again.kpis[0], name) == getattr(last.kpis[0], name)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.sampled_from(["fine", "unsure", "worse", "broken"]), min_size=1, max_size=3), st.data())
def test_removing_a_reason_to_fail_never_lowers_the_verdict(kinds, data):
    n = 240
    base = (np.arange(n) % 10 < 7) * 1.0
    values = {
        "fine": base,
        "unsure": np.where(np.arange(n) % 8 == 0, 0.0, base),
        "worse": np.where(np.arange(n) % 3 == 0, 0.0, base),
        "broken": np.where(np.arange(n) == 3, np.nan, base),
    }

    def verdicts(kinds):
        names = [f"k{index}" for index in range(len(kinds))]
        spec = suite(*(kpi(name, samples=n) for name in names), gate={"mode": "group_sequential", "looks": 3})
        plain, taken = [""] * n, []
        for due in (80, 160, 240):
            candidate = {name: rows(values[kind], due, plain) for name, kind in zip(names, kinds, strict=True)}
            same = dict.fromkeys(names, rows(base, due, plain))
            bad = controls(**dict.fromkeys(names, rows(np.zeros(n), due, plain)))
            taken.append(decide(spec, results("c", candidate), results("b", same), controls=bad, history=tuple(taken)))
        return [decision.verdict for decision in taken]

    repaired = list(kinds)
    repaired[data.draw(st.integers(0, len(kinds) - 1))] = "fine"
    for after, before in zip(verdicts(repaired), verdicts(kinds), strict=True):
        assert SEVERITY.index(after) >= SEVERITY.index(before)
