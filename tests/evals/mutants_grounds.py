"""Mutants of what a verdict rests on: the rules, the evidence, what forbids a verdict, and which bound judges."""

from __future__ import annotations

from tests.evals.mutants import Mutant

RULES, EVIDENCE, BOUNDS = "rules.py", "evidence.py", "stats/bounds.py"

GROUNDS = (
    # Rules
    Mutant(
        "a margin is a loss", RULES, "return -margin", "return margin", ("test_gate.test_an_equal_candidate_passes",)
    ),
    Mutant("a gain is asked for", RULES, "return gain", "return -gain", ("test_gate.test_superior_needs_a_gain",)),
    Mutant(
        "a floor is a ceiling where lower is better",
        RULES,
        "return kpi.sign * value",
        "return value",
        ("test_gate.test_a_floor_is_a_ceiling_where_lower_is_better",),
    ),
    Mutant(
        "a rate is limited from above", RULES, "return -limit", "return limit", ("test_gate.test_max_rate_is_exact",)
    ),
    Mutant(
        "PASS refutes that the rule is broken",
        RULES,
        "bounds.p_at_most(sums, goal, bound), bounds.p_at_least(sums, goal, bound)",
        "bounds.p_at_least(sums, goal, bound), bounds.p_at_most(sums, goal, bound)",
        ("test_gate.test_an_equal_candidate_passes",),
    ),
    Mutant(
        "a full suite may lie on a floor or limit",
        RULES,
        "isinstance(kpi.rule, Floor | MaxRate) and p_fail > 0.0",
        "isinstance(kpi.rule, Floor) and p_fail > 0.0",
        ("test_gate.test_part_of_a_whole_suite_is_a_sample_without_replacement",),
    ),
    Mutant(
        "any hit fails a census",
        RULES,
        "(evidence.candidate.values > 0.0).any()",
        "(evidence.candidate.values > 0.0).all()",
        ("test_gate.test_zero_tolerance_is_a_census",),
    ),
    Mutant(
        "a census passes only when all cases were run",
        RULES,
        "done = evidence.sums.samples >= kpi.samples",
        "done = True",
        ("test_gate_looks.test_a_census_passes_only_when_every_case_was_run",),
    ),
    # Evidence
    Mutant(
        "error samples are INVALID",
        EVIDENCE,
        'bad = rows.errors != ""',
        'bad = rows.errors == "none"',
        ("test_gate_invalid.test_broken_evidence_is_invalid",),
    ),
    Mutant(
        "NaN is INVALID",
        EVIDENCE,
        "~(np.isfinite(rows.values) &",
        "~((rows.values == rows.values) | True &",
        ("test_gate_invalid.test_broken_evidence_is_invalid",),
    ),
    Mutant(
        "weights are positive",
        EVIDENCE,
        "(rows.weights > 0))",
        "(rows.weights >= 0))",
        ("test_gate_invalid.test_broken_evidence_is_invalid",),
    ),
    Mutant(
        "duplicates are INVALID",
        EVIDENCE,
        "if pairs < len(ids):",
        "if pairs < 0:",
        ("test_gate_invalid.test_broken_evidence_is_invalid",),
    ),
    Mutant(
        "every epoch was run",
        EVIDENCE,
        "if bool((counts != kpi.epochs).any()):",
        "if bool((counts > 99).any()):",
        ("test_gate_invalid.test_broken_evidence_is_invalid",),
    ),
    Mutant(
        "a look holds what it is due",
        EVIDENCE,
        "if len(names) != planned:",
        "if len(names) > 10**9:",
        ("test_gate_looks.test_a_look_holds_exactly_the_samples_it_is_due",),
    ),
    Mutant(
        "half a measurement is INVALID",
        EVIDENCE,
        "if len(names) < planned:",
        "if len(names) < 0:",
        ("test_gate_invalid.test_broken_evidence_is_invalid",),
    ),
    Mutant(
        "more samples than planned are INVALID",
        EVIDENCE,
        "if len(names) > kpi.samples:",
        "if len(names) > 10**9:",
        ("test_gate_invalid.test_broken_evidence_is_invalid",),
    ),
    Mutant(
        "a missing pair is INVALID",
        EVIDENCE,
        "if len(one.ids) != len(two.ids) or",
        "if len(one.ids) != len(two.ids) and",
        ("test_gate_invalid.test_broken_evidence_is_invalid",),
    ),
    Mutant(
        "instruments are equal and known",
        EVIDENCE,
        "if rows.instrument != other.instrument or not rows.instrument:",
        "if rows.instrument is None:",
        ("test_gate_invalid.test_broken_evidence_is_invalid",),
    ),
    Mutant(
        "clusters are equal",
        EVIDENCE,
        "if bool((one.clusters != two.clusters).any()):",
        "if bool((one.clusters == two.ids).any()):",
        ("test_gate_invalid.test_broken_evidence_is_invalid",),
    ),
    Mutant(
        "values stay in the task's range",
        EVIDENCE,
        "if outside.any() and kpi.range is None:",
        "if outside.any() and kpi.range == 1:",
        ("test_gate_invalid.test_broken_evidence_is_invalid",),
    ),
    Mutant(
        "epochs are averaged",
        EVIDENCE,
        "mean = np.bincount(inverse, weights=values) / counts",
        "mean = np.bincount(inverse, weights=values)",
        ("test_gate_invalid.test_epochs_are_averaged_first",),
    ),
    Mutant(
        "samples of a cluster are summed",
        EVIDENCE,
        'np.where(column.clusters == "", ',
        'np.where(column.clusters != "", ',
        ("test_gate_invalid.test_clusters_are_the_unit",),
    ),
    Mutant(
        "the mode reaches the bounds",
        EVIDENCE,
        "mode=plan.mode,",
        'mode="fixed",',
        ("test_gate_looks.test_anytime_is_judged_by_an_e_process",),
    ),
    Mutant(
        "the plan's largest cluster reaches the bounds",
        EVIDENCE,
        "largest=plan.largest *",
        "largest=0 *",
        ("test_gate_looks.test_the_largest_cluster_of_the_plan_widens_the_bound",),
    ),
    # What forbids a verdict
    Mutant(
        "a spent budget ends a hold-out",
        "validity.py",
        "or judged <= most:",
        "or judged <= most + 1:",
        ("test_gate_marks.test_a_family_budget_splits_alpha_and_ends",),
    ),
    Mutant(
        "a history is of one test",
        "validity.py",
        "            if now != then:",
        "            if now == 0:",
        ("test_gate_looks.test_the_history_of_another_test_is_invalid",),
    ),
    Mutant(
        "the rules of a test stand",
        "validity.py",
        "item.mode != spec.gate.mode or item.level != spec.gate.level",
        "item.mode == 0 or item.level == 0",
        ("test_gate_looks.test_the_history_of_another_test_is_invalid",),
    ),
    Mutant(
        "fixed looks once",
        "validity.py",
        "samples < kpi.samples:",
        "samples < 0:",
        ("test_gate_looks.test_fixed_looks_only_at_the_end",),
    ),
    Mutant(
        "contamination is INVALID",
        "validity.py",
        'spec.gate.contamination == "invalid"',
        'spec.gate.contamination == "report"',
        ("test_gate_marks.test_contaminated_samples_make_a_kpi_invalid_or_are_reported",),
    ),
    Mutant(
        "a judge is calibrated",
        "validity.py",
        "judge is None or judge.kappa is None or judge.kappa_lower is None:",
        "judge is None:",
        ("test_gate_marks.test_a_judge_that_nobody_checked_may_not_gate",),
    ),
    Mutant(
        "a judge agrees as the suite asks",
        "validity.py",
        "judge.kappa_lower < least:",
        "judge.kappa_lower < 0.0:",
        ("test_gate_marks.test_a_judge_that_nobody_checked_may_not_gate",),
    ),
    Mutant(
        "one state of the judge",
        "validity.py",
        "other.judge.digest != judge.digest)",
        "other.judge.digest == 0)",
        ("test_gate_marks.test_another_state_of_the_judge_is_invalid",),
    ),
    Mutant(
        "the least trusted source counts",
        "validity.py",
        "source = max((",
        "source = min((",
        ("test_gate_marks.test_evidence_is_as_trusted_as_its_worse_half",),
    ),
    # Which bound
    Mutant(
        "only all samples are the full suite",
        BOUNDS,
        "if sums.population is not None and sums.samples >= sums.population:",
        "if sums.population is not None:",
        ("test_gate.test_part_of_a_whole_suite_can_be_undecided",),
    ),
    Mutant(
        "few clusters of an unbounded metric have no bound",
        BOUNDS,
        'return "none" if scarce or',
        'return "none" if',
        ("test_gate.test_unbounded_metrics_need_fifty_clusters_or_a_range",),
    ),
    Mutant(
        "any looks need an e-process",
        BOUNDS,
        '        return "e-process"',
        '        return "dirichlet"',
        ("test_gate_looks.test_anytime_is_judged_by_an_e_process",),
    ),
    Mutant(
        "below 50 clusters a proven bound judges",
        BOUNDS,
        'return "betting" if small or sums.varied < MIN_VARIED else "dirichlet"',
        'return "dirichlet"',
        ("test_gate_invalid.test_few_clusters_are_judged_by_betting",),
    ),
)
