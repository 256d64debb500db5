import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from evals.decision import Decision
from evals.gate import decide
from evals.looks import Failing, Key, Past, step_down
from evals.stats.sequential import level
from registry.records import canonical
from tests.evals.gate_cases import alone, at_looks, controls, kpi, prefix, results, suite

N = 400
SIZES = (100, 200, 300, 400)
BASE = (np.arange(N) % 10 < 7) * 1.0
ZERO = np.zeros(N)
WORSE = np.where(np.arange(N) % 3 == 0, 0.0, BASE)
UNSURE = np.where(np.arange(N) % 8 == 0, 0.0, BASE)
RATE = {"type": "max_rate", "limit": 0.05}


def planned(*kpis, mode="group_sequential", **gate):
    return suite(*(kpis or (kpi(samples=N),)), gate={"mode": mode, "looks": 4, **gate})


SPEC = planned()


def walk(candidate, sizes=SIZES, spec=SPEC, bad=ZERO, **more):
    return at_looks(spec, {"accuracy": candidate}, {"accuracy": BASE}, {"accuracy": bad}, sizes, **more)


def once(candidate, due, history=(), spec=SPEC, base=BASE, bad=ZERO, **more):
    return decide(
        spec,
        results("candidate", accuracy=prefix(candidate, due)),
        results("baseline", accuracy=prefix(base, due)),
        controls=controls(accuracy=prefix(bad, due)),
        history=history,
        **more,
    )


def test_the_levels_of_the_looks_are_those_of_the_spending_function():
    taken = walk(UNSURE)
    levels = [decision.kpis[0].pass_level for decision in taken]
    fractions = [decision.kpis[0].fraction for decision in taken]
    assert fractions == [0.25, 0.5, 0.75, 1.0]
    expected = [level("group_sequential", 0.05, fractions[: look + 1]) for look in range(4)]
    assert levels == pytest.approx(expected)
    assert levels[0] < 0.001 < levels[-1] < 0.05
    assert [decision.look for decision in taken] == [1, 2, 3, 4]
    assert {decision.looks for decision in taken} == {4}


def test_a_p_value_that_fixed_alpha_would_pass_is_not_enough_at_an_early_look():
    found = once(BASE, 80).kpis[0]
    assert found.verdict == "INCONCLUSIVE"
    assert found.pass_level < found.p_pass < 0.05  # one fixed look would call it a PASS
    assert found.lower is None or found.lower < -0.1  # the interval says the same as the verdict


def test_the_results_of_another_plan_are_invalid():
    found = once(BASE, 40, spec=planned(kpi(samples=40)))
    assert "the candidate was planned with 400 samples, the suite plans 40" in found.reasons[0]


def test_a_pass_latches_with_the_figures_of_its_look():
    taken = walk(BASE)
    first = next(index for index, decision in enumerate(taken) if decision.verdict == "PASS")
    assert first < 3
    reached = taken[first].kpis[0]
    assert not reached.latched
    later = walk(WORSE, SIZES[first + 1 :], history=taken[: first + 1])[-1]
    assert later.verdict == "PASS"
    assert later.kpis[0].latched
    assert replace(later.kpis[0], latched=False) == reached
    assert taken[first].final


def test_a_failure_latches():
    taken = walk(WORSE)
    first = next(index for index, decision in enumerate(taken) if decision.verdict == "FAIL")
    assert first < 3
    assert taken[first].final
    later = once(BASE, 400, history=taken[: first + 1])
    assert (later.verdict, later.kpis[0].latched, later.kpis[0].look) == ("FAIL", True, first + 1)


def test_a_latched_kpi_needs_no_rows_any_more():
    taken = walk(BASE, (300,))
    assert taken[-1].verdict == "PASS"
    gone = decide(SPEC, results("candidate"), results("baseline"), controls={}, history=taken)
    assert (gone.verdict, gone.kpis[0].latched) == ("PASS", True)


def test_a_look_without_new_samples_is_a_replay():
    taken = walk(UNSURE, (100, 200))
    again = once(UNSURE, 200, history=taken)
    assert again == taken[-1]
    spent = once(UNSURE, 300, history=[*taken, again])
    assert spent.kpis[0].pass_level == once(UNSURE, 300, history=taken).kpis[0].pass_level
    assert (again.look, spent.look) == (2, 3)


def test_fewer_samples_than_an_earlier_look_are_invalid():
    taken = walk(UNSURE, (100, 200))
    found = once(BASE, 100, history=taken)
    assert (found.verdict, found.final) == ("INVALID", False)
    assert "an earlier look held 200 samples, this one 100" in found.reasons[0]


def test_one_look_at_all_samples_is_a_fixed_test():
    one_look, fixed = once(BASE, N), once(BASE, N, spec=planned(mode="fixed"))
    assert one_look.kpis[0].pass_level == pytest.approx(fixed.kpis[0].pass_level, abs=1e-9)
    assert (fixed.kpis[0].pass_level, fixed.kpis[0].fail_level, fixed.looks) == (0.05, 0.05, 1)


def test_fixed_looks_only_at_the_end():
    found = once(BASE, 200, spec=planned(mode="fixed"))
    assert (found.verdict, "looks once, at the end" in found.reasons[0]) == ("INVALID", True)


def test_anytime_compares_with_alpha_at_every_look():
    taken = walk(UNSURE, spec=planned(mode="anytime"))
    assert [decision.kpis[0].pass_level for decision in taken] == [0.05] * 4
    passed = walk(BASE, spec=planned(mode="anytime"))
    assert passed[-1].verdict == "PASS"
    assert not taken[0].final


def test_the_last_look_at_a_whole_suite_is_exact():
    near = BASE - (np.cumsum(BASE) <= 38) * BASE  # .095 below the baseline, where .1 is allowed
    found = once(near, N, spec=planned(mode="whole_suite"))
    assert (found.verdict, found.kpis[0].bound) == ("PASS", "full suite")


def test_an_undecided_last_look_is_final_and_says_what_is_left():
    last = walk(UNSURE)[-1]
    assert (last.verdict, last.final, last.open_kpis) == ("INCONCLUSIVE", True, ())
    assert "fresh hold-out" in last.kpis[0].reasons[-1]
    assert "mode: anytime" in last.kpis[0].reasons[-1]
    more = walk(UNSURE, spec=planned(mode="anytime"))[-1]
    assert "append samples" in more.kpis[0].reasons[-1]


def test_an_early_look_counts_what_is_needed_against_the_plan():
    first = once(np.where(np.arange(N) % 9 == 0, 0.0, BASE), 200)
    assert (first.verdict, first.final, first.open_kpis) == ("INCONCLUSIVE", False, ("accuracy",))
    assert "the plan holds 200 more" in first.kpis[0].reasons[-1]
    assert first.kpis[0].samples_needed > 0
    lines = "\n".join(first.render_lines())
    assert "look 1 of 4; open: accuracy" in lines
    assert "50% of the plan" in lines


@pytest.mark.parametrize(("due", "rows"), [(200, 199), (200, 201)])
def test_a_look_holds_exactly_the_samples_it_is_due(due, rows):
    wrong = prefix(BASE, rows, due=due)
    found = decide(
        SPEC,
        results("candidate", accuracy=wrong),
        results("baseline", accuracy=prefix(BASE, due)),
        controls=controls(accuracy=prefix(ZERO, due)),
    )
    assert found.verdict == "INVALID"
    assert f"has {rows} samples, this look is due {due}" in found.reasons[0]


def test_no_due_means_all_planned_samples():
    part = prefix(BASE, 200, due=0)
    found = decide(
        SPEC, results("candidate", accuracy=part), results("baseline", accuracy=part), controls=controls(accuracy=part)
    )
    assert "has 200 of 400 planned samples" in found.reasons[0]


# Controls


def test_a_control_that_is_not_yet_shown_to_fail_leaves_the_kpi_open():
    weak = np.where(np.isin(np.arange(N) % 50, [0, 1, 2, 3, 4, 5, 6]), 0.0, BASE)  # .14 below, where .1 is allowed
    taken = walk(BASE, (200, 400), bad=weak)
    assert (taken[0].verdict, taken[0].kpis[0].control_verdict) == ("INCONCLUSIVE", "INCONCLUSIVE")
    assert "not shown to fail this KPI yet" in taken[0].kpis[0].reasons[0]
    assert taken[0].open_kpis == ("accuracy",)
    assert taken[0].kpis[0].p_pass < taken[0].kpis[0].pass_level  # looked at, and yet no PASS
    assert taken[1].verdict == "PASS"
    assert taken[1].kpis[0].control_verdict == "FAIL"


def test_a_control_that_never_fails_is_invalid_at_the_last_look():
    taken = walk(BASE, (100, 400), bad=UNSURE)
    assert [decision.verdict for decision in taken] == ["INCONCLUSIVE", "INVALID"]
    assert walk(BASE, (400,), bad=BASE)[-1].kpis[0].control_verdict == "PASS"


def test_a_control_that_passes_is_invalid_at_once():
    assert walk(BASE, (300,), bad=BASE)[-1].verdict == "INVALID"


def test_the_failure_of_a_control_latches():
    taken = walk(UNSURE, (200,))
    assert taken[0].kpis[0].control_verdict == "FAIL"
    found = once(UNSURE, 300, history=taken, bad=BASE)
    assert (found.verdict, found.kpis[0].control_verdict) == ("INCONCLUSIVE", "FAIL")


# Several KPIs


def test_a_kpi_that_is_settled_waits_for_the_others():
    spec = planned(kpi("a", samples=N), kpi("b", samples=N))
    base = {"a": BASE, "b": BASE}
    taken = at_looks(spec, {"a": BASE, "b": UNSURE}, base, {"a": ZERO, "b": ZERO}, SIZES)
    assert taken[1].kpis[0].verdict == "PASS"
    assert taken[1].open_kpis == ("b",)
    assert [item.latched for item in taken[2].kpis] == [True, False]
    assert (taken[3].verdict, taken[3].final) == ("INCONCLUSIVE", True)


def test_holm_steps_down_with_the_levels_of_the_looks():
    spec = planned(kpi("a", samples=N), kpi("b", samples=N), kpi("c", samples=N))
    candidate = {"a": WORSE, "b": BASE, "c": BASE}
    zero = dict.fromkeys("abc", ZERO)
    found = at_looks(spec, candidate, dict.fromkeys("abc", BASE), zero, (200,))[0]
    assert found.verdict == "FAIL"
    third, half = (level("group_sequential", 0.05 / m, [0.5]) for m in (3, 2))
    assert found.kpis[0].fail_level == pytest.approx(third)
    assert [item.fail_level for item in found.kpis[1:]] == pytest.approx([half, half])


def test_a_failure_of_an_earlier_look_hands_its_share_of_alpha_on():
    assert step_down("fixed", 0.06, [Failing(0.025, (1.0,))], family=2, failed=0) == [(True, 0.03)]
    assert step_down("fixed", 0.06, [Failing(0.035, (1.0,))], family=2, failed=0) == [(False, 0.03)]
    assert step_down("fixed", 0.06, [Failing(0.035, (1.0,))], family=2, failed=1) == [(True, 0.06)]
    several = [Failing(0.05, (1.0,)), Failing(0.01, (1.0,)), Failing(0.03, (1.0,))]
    assert step_down("fixed", 0.06, several, family=3, failed=0) == [(True, 0.06), (True, 0.02), (True, 0.03)]
    stopped = [Failing(0.05, (1.0,)), Failing(0.01, (1.0,)), Failing(0.04, (1.0,))]
    assert step_down("fixed", 0.06, stopped, family=3, failed=0) == [(False, 0.03), (True, 0.02), (False, 0.03)]
    assert step_down("fixed", 0.06, [], family=0, failed=0) == []


def test_a_kpi_without_evidence_still_counts_in_the_family():
    spec = planned(kpi("a", samples=N), kpi("b", samples=N))
    found = at_looks(spec, {"a": WORSE}, {"a": BASE}, {"a": ZERO}, (200,))[0]
    assert found.verdict == "INVALID"
    assert found.kpis[0].fail_level == pytest.approx(level("group_sequential", 0.025, [0.5]))


# Zero tolerance


def census(values, due, history=()):
    spec = planned(kpi("k", samples=len(values), rule={"type": "zero_tolerance"}))
    rows = results("candidate", k=prefix(values, due))
    bad = controls(k=prefix(np.ones(len(values)), due))
    return decide(spec, rows, None, controls=bad, history=history)


def test_a_census_passes_only_when_every_case_was_run():
    early = census(np.zeros(20), 10)
    assert (early.verdict, early.open_kpis, early.kpis[0].samples_needed) == ("INCONCLUSIVE", ("k",), 10)
    assert "10 listed cases are still to be run" in early.reasons[0]
    assert early.kpis[0].lower is None
    assert census(np.zeros(20), 20, [early]).verdict == "PASS"


def test_a_hit_fails_a_census_at_once():
    assert census((np.arange(20) == 3) * 1.0, 10).verdict == "FAIL"
    assert alone({"type": "zero_tolerance"}, np.zeros(4), n=5)[0] == "INVALID"


# The history belongs to one test


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"candidate": "other"}, "with the candidate `other`, this one with `candidate`"),
        ({"baseline": None}, "with the baseline `None`, this one with `baseline`"),
        ({"mode": "anytime"}, "in mode anytime"),
        ({"level": 0.1}, "at level 0.1"),
    ],
)
def test_the_history_of_another_test_is_invalid(change, words):
    taken = walk(BASE, (300,))
    assert once(BASE, 400, history=taken).verdict == "PASS"
    found = once(BASE, 400, history=[replace(taken[0], **change)])
    assert (found.verdict, found.final) == ("INVALID", False)
    assert words in found.reasons[0]
    assert {item.verdict for item in found.kpis} == {"INVALID"}


def test_the_history_against_another_anchor_is_invalid():
    spec = suite(kpi(samples=N), gate={"mode": "group_sequential", "looks": 4}, baseline={"ref": "p", "anchor": "q"})
    anchor = results("anchor", accuracy=prefix(BASE, 300))
    taken = [once(UNSURE, 300, spec=spec, anchor=anchor)]
    other = once(UNSURE, 300, spec=spec, anchor=replace(anchor, candidate="other"), history=taken)
    assert "with the anchor `anchor`, this one with `other`" in other.reasons[0]


def test_what_needs_no_baseline_outlives_a_change_of_baseline():
    floor = planned(kpi(samples=N, rule={"type": "floor", "value": 0.5}))
    taken = [once(BASE, 300, spec=floor)]
    assert taken[0].verdict == "PASS"
    later = decide(floor, results("candidate"), None, controls={}, history=taken)
    assert (later.verdict, later.kpis[0].latched) == ("PASS", True)


def test_another_instrument_is_another_test():
    taken = walk(UNSURE, (200,))
    other = {"instrument": "sha256:b"}
    rows = {name: prefix(values, 300, **other) for name, values in (("c", UNSURE), ("b", BASE), ("z", ZERO))}

    def found(spec, history):
        return decide(
            spec,
            results("candidate", accuracy=rows["c"]),
            results("baseline", accuracy=rows["b"]),
            controls=controls(accuracy=rows["z"]),
            history=history,
        )

    assert "another instrument: that was another test" in found(SPEC, taken).reasons[0]
    free = planned(mode="anytime")
    assert found(free, walk(UNSURE, (200,), spec=free)).verdict == "INCONCLUSIVE"


def test_a_test_that_was_invalid_goes_on_where_it_stood():
    broken = once(np.where(np.arange(N) == 3, np.nan, BASE), 200)
    assert (broken.verdict, broken.look, broken.kpis[0].fraction) == ("INVALID", 1, 0.0)
    mended = once(BASE, 200, history=[broken])
    assert (mended.verdict, mended.look) == ("PASS", 1)
    assert mended.kpis[0].pass_level == once(BASE, 200).kpis[0].pass_level


def test_a_decision_with_looks_survives_storage():
    for decision in walk(UNSURE):
        assert msgspec.convert(json.loads(canonical(decision.to_plain())), Decision) == decision


def test_a_decision_stored_before_looks_existed_is_still_read():
    old = once(BASE, N, spec=planned(mode="fixed")).to_plain()
    for name in ("look", "looks", "final", "judged", "familywise"):
        del old[name]
    for item in old["kpis"]:
        for name in ("slice", "look", "fraction", "pass_level", "fail_level", "latched", "source", "target"):
            del item[name]
        for name in ("instrument", "judge", "contaminated"):
            del item[name]
    found = msgspec.convert(json.loads(canonical(old)), Decision)
    assert (found.verdict, found.final, found.open_kpis, found.kpis[0].source) == ("PASS", True, (), "measured")


def test_earlier_looks_count_once():
    taken = walk(UNSURE, (100, 200))
    again = once(UNSURE, 200, history=[*taken, taken[-1]])
    assert again.kpis[0].pass_level == taken[-1].kpis[0].pass_level
    assert Past(tuple(taken)).fractions(Key("accuracy", "baseline", ""), 0.5) == (0.25, 0.5)


def test_a_latched_failure_leaves_the_others_more_alpha():
    spec = planned(kpi("a", samples=N), kpi("b", samples=N))
    base, bad = {"a": BASE, "b": BASE}, {"a": ZERO, "b": ZERO}
    taken = at_looks(spec, {"a": WORSE, "b": UNSURE}, base, bad, (200, 300))
    assert [item.verdict for item in taken[0].kpis] == ["FAIL", "INCONCLUSIVE"]
    assert taken[1].kpis[1].fail_level == pytest.approx(level("group_sequential", 0.05, [0.5, 0.75]))


def test_anytime_is_judged_by_an_e_process():
    assert once(BASE, 200, spec=planned(mode="anytime")).kpis[0].bound == "e-process"


def test_the_largest_cluster_of_the_plan_widens_the_bound():
    pairs = [f"c{index // 2}" for index in range(N)]

    def lower(largest):
        rows = {"clusters": pairs, "clusters_planned": N // 2, "largest": largest}
        found = decide(
            SPEC,
            results("candidate", accuracy=prefix(BASE, 300, **rows)),
            results("baseline", accuracy=prefix(BASE, 300, **rows)),
            controls=controls(accuracy=prefix(ZERO, 300, **rows)),
        )
        return found.kpis[0].p_pass

    assert lower(2) == lower(0) < lower(20)
