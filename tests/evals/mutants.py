"""The listed mutants of the decision rule: each breaks one line of it, and a named test of the gate must go red."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One wrong line: in `file`, `text` (which occurs there once) becomes `wrong`, which breaks `rule`.

    `red` names the tests that must not all stay green, as `module.function`.
    """

    rule: str
    file: str
    text: str
    wrong: str
    red: tuple[str, ...]


GATE, LOOKS = "gate.py", "looks.py"

JUDGING = (
    # One comparison
    Mutant(
        "PASS needs p <= level",
        GATE,
        "found.p_pass <= (item.pass_level or 0.0)",
        "found.p_pass <= 1.0",
        ("test_gate.test_few_samples_are_inconclusive_and_say_how_many_more",),
    ),
    Mutant(
        "FAIL stands above PASS",
        GATE,
        '"FAIL" if fails else "PASS"',
        '"INCONCLUSIVE" if fails else "PASS"',
        ("test_gate.test_a_worse_candidate_fails_and_names_the_worst_samples",),
    ),
    Mutant(
        "broken evidence is INVALID",
        GATE,
        'broken: Verdict = "INVALID" if',
        'broken: Verdict = "NOT_JUDGED" if',
        ("test_gate_invalid.test_broken_evidence_is_invalid",),
    ),
    Mutant(
        "unfit evidence is INVALID",
        GATE,
        '        if problem:\n            return _without(comparison, rows, "INVALID", problem)',
        '        if problem and not kpi.gating:\n            return _without(comparison, rows, "INVALID", problem)',
        ("test_gate_marks.test_a_judge_that_nobody_checked_may_not_gate",),
    ),
    Mutant(
        "a control that does not fail makes a KPI INVALID",
        GATE,
        "    if control.problem:",
        "    if control.problem and False:",
        ("test_gate_invalid.test_a_control_that_does_not_fail_is_invalid",),
    ),
    Mutant(
        "a control not yet shown to fail leaves a KPI open",
        GATE,
        "    if control.waiting:",
        "    if control.waiting and False:",
        ("test_gate_looks.test_a_control_that_is_not_yet_shown_to_fail_leaves_the_kpi_open",),
    ),
    Mutant(
        "a test only gains samples",
        GATE,
        "if samples < held:",
        "if samples < 0:",
        ("test_gate_looks.test_fewer_samples_than_an_earlier_look_are_invalid",),
    ),
    Mutant(
        "what forbids any verdict comes first",
        GATE,
        "if case.obstacle and comparison.gating:",
        "if case.obstacle and False:",
        ("test_gate_marks.test_a_family_budget_splits_alpha_and_ends",),
    ),
    Mutant(
        "a settled comparison is carried over",
        GATE,
        "if settled is not None:",
        "if settled is None and settled:",
        ("test_gate_looks.test_a_failure_latches", "test_gate_looks.test_a_latched_kpi_needs_no_rows_any_more"),
    ),
    Mutant(
        "a named anchor must be given",
        GATE,
        'if comparison.against == "anchor":',
        'if comparison.against == "none":',
        ("test_gate.test_the_anchor_must_hold_too",),
    ),
    Mutant(
        "paired rules need a baseline",
        GATE,
        "if kpi.needs_baseline and comparison.opponent is None:",
        "if kpi.id is None:",
        ("test_gate.test_bootstrap_judges_only_what_needs_no_baseline",),
    ),
    Mutant(
        "the whole suite is the question in its mode alone",
        GATE,
        'kpi.samples if mode == "whole_suite" and kpi.rule',
        'kpi.samples if mode != "whole_suite" and kpi.rule',
        ("test_gate.test_a_whole_suite_has_no_sampling_error",),
    ),
    Mutant(
        "every gating comparison counts in the family",
        GATE,
        "family = sum(each.comparison.gating and each",
        "family = sum(each.found is not None and each",
        ("test_gate_looks.test_a_kpi_without_evidence_still_counts_in_the_family",),
    ),
    Mutant(
        "an advisory KPI is no part of the family",
        GATE,
        "if each.found is not None and each.comparison.gating",
        "if each.found is not None",
        ("test_gate.test_an_advisory_kpi_does_not_soften_a_narrow_failure",),
    ),
    Mutant(
        "earlier failures hand their share on",
        GATE,
        'failed = sum(each.item.latched and each.item.verdict == "FAIL"',
        'failed = sum(each.item.latched and each.item.verdict == "NONE"',
        ("test_gate_looks.test_a_latched_failure_leaves_the_others_more_alpha",),
    ),
    # The suite
    Mutant(
        "the worst verdict is the suite's",
        GATE,
        "next(level for level in SEVERITY if",
        "next(level for level in SEVERITY[::-1] if",
        ("test_gate.test_the_worst_kpi_decides",),
    ),
    Mutant(
        "INVALID > FAIL > INCONCLUSIVE > PASS",
        "decision.py",
        '("INVALID", "FAIL", "INCONCLUSIVE", "PASS")',
        '("FAIL", "INVALID", "INCONCLUSIVE", "PASS")',
        ("test_gate.test_the_worst_kpi_decides",),
    ),
    Mutant(
        "a suite that judges nothing is INVALID",
        GATE,
        'return "INVALID", (\n            "nothing',
        'return "PASS", (\n            "nothing',
        ("test_gate.test_bootstrap_judges_only_what_needs_no_baseline",),
    ),
    Mutant(
        "only an undecided last look is final",
        GATE,
        "not any(item.open for item in verdicts)",
        "any(item.open for item in verdicts)",
        ("test_gate_looks.test_an_undecided_last_look_is_final_and_says_what_is_left",),
    ),
    Mutant(
        "the family-wise bound counts candidates",
        GATE,
        "min(1.0, judged * spec.gate.level)",
        "min(1.0, spec.gate.level)",
        ("test_gate_marks.test_every_decision_says_how_often_the_hold_out_was_used",),
    ),
    # Opponents and slices
    Mutant(
        "paired rules must hold against the anchor too",
        "opponents.py",
        "if opponents.anchor is not None or (opponents",
        "if opponents.anchor is not None and False or (opponents",
        ("test_gate_slices.test_every_slice_holds_against_the_anchor_too",),
    ),
    Mutant(
        "a slice is judged under its own rule",
        "slicing.py",
        "rule = kpi.slice_rule or Advisory",
        "rule = Advisory",
        ("test_gate_slices.test_a_slice_rule_makes_every_slice_gate",),
    ),
    Mutant(
        "a slice holds its own samples",
        "slicing.py",
        "rows.slices[part.field][first] == part.value)",
        "rows.slices[part.field][first] != part.value)",
        ("test_gate_slices.test_a_slice_is_a_reported_line_of_its_own",),
    ),
    Mutant(
        "slices of the plan that are not met yet are open",
        "slicing.py",
        "(present | set(planned) | set(named))",
        "(present | set(named))",
        ("test_gate_slices.test_a_slice_not_yet_met_keeps_the_gate_open",),
    ),
    Mutant(
        "unknown slices wait for all samples",
        "opponents.py",
        "(unknown and kpi.slice_rule is not None)",
        "(unknown and kpi.slice_rule is None)",
        ("test_gate_slices.test_gating_slices_that_are_not_known_wait_for_all_samples",),
    ),
    Mutant(
        "a gating slice without a value is INVALID",
        GATE,
        "if problem and (comparison.gating or not chosen.value):",
        "if problem and not chosen.value:",
        ("test_gate_slices.test_a_missing_slice_field_is_invalid_where_slices_gate",),
    ),
    # Controls
    Mutant(
        "the control must fail at the level of the look",
        "control_check.py",
        "if p_fail <= level:",
        "if p_fail <= 0.999:",
        (
            "test_gate_invalid.test_a_control_that_does_not_fail_is_invalid",
            "test_gate_looks.test_a_control_that_is_not_yet_shown_to_fail_leaves_the_kpi_open",
        ),
    ),
    Mutant(
        "a control without results is INVALID",
        "control_check.py",
        'return Standing("missing", f"control',
        'return Standing("FAIL") or (f"control',
        ("test_gate_invalid.test_a_missing_control_is_invalid",),
    ),
    Mutant(
        "the control is measured with the same instrument",
        "control_check.py",
        ".instrument != candidate",
        ".instrument == candidate",
        ("test_gate_invalid.test_a_control_that_fails_is_recorded",),
    ),
    Mutant(
        "at the last look an unproven control is INVALID",
        "control_check.py",
        "or done >= 1.0:",
        "or done > 1.0:",
        ("test_gate_looks.test_a_control_that_never_fails_is_invalid_at_the_last_look",),
    ),
    Mutant(
        "the failure of a control latches",
        LOOKS,
        'any(item.control_verdict == "FAIL"',
        'any(item.control_verdict == "NONE"',
        ("test_gate_looks.test_the_failure_of_a_control_latches",),
    ),
    # Looks
    Mutant(
        "the first verdict reached stands",
        LOOKS,
        'item.verdict in ("PASS", "FAIL"))',
        'item.verdict in ("PASS", "FAIL", "INCONCLUSIVE"))',
        (
            "test_gate_looks.test_a_kpi_that_is_settled_waits_for_the_others",
            "test_gate_looks.test_the_levels_of_the_looks_are_those_of_the_spending_function",
        ),
    ),
    Mutant(
        "earlier looks have spent alpha",
        LOOKS,
        "return (*sorted(earlier), now)",
        "return (now,)",
        ("test_gate_looks.test_the_levels_of_the_looks_are_those_of_the_spending_function",),
    ),
    Mutant(
        "a look at no new samples spends nothing",
        LOOKS,
        "0.0 < item.fraction < now}",
        "0.0 < item.fraction <= now}",
        ("test_gate_looks.test_earlier_looks_count_once",),
    ),
    Mutant(
        "a look counts the share of the plan",
        LOOKS,
        "return sums.clusters / sums.clusters_planned",
        "return 1.0",
        ("test_gate_looks.test_the_levels_of_the_looks_are_those_of_the_spending_function",),
    ),
    Mutant(
        "planned looks judge at their nominal level",
        LOOKS,
        'if mode in ("group_sequential", "whole_suite") else',
        'if mode in ("whole_suite",) else',
        ("test_gate_looks.test_the_levels_of_the_looks_are_those_of_the_spending_function",),
    ),
    Mutant(
        "Holm divides alpha by the comparisons left",
        LOOKS,
        "alpha / left, tests",
        "alpha, tests",
        ("test_gate.test_a_failure_counts_only_after_holm",),
    ),
    Mutant(
        "Holm steps down",
        LOOKS,
        "left - len(fallen)",
        "left",
        ("test_gate_looks.test_a_failure_of_an_earlier_look_hands_its_share_of_alpha_on",),
    ),
    Mutant(
        "Holm goes on while something fails",
        LOOKS,
        "        if not fallen:\n            break",
        "        break",
        ("test_gate.test_a_worse_candidate_fails_and_names_the_worst_samples",),
    ),
    Mutant(
        "FAIL needs p <= level",
        LOOKS,
        "if tests[index].p <= levels[index]}",
        "if tests[index].p <= 1.0}",
        ("test_gate.test_an_equal_candidate_passes",),
    ),
)
