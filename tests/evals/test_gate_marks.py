import numpy as np
import pytest

from evals.gate import decide
from evals.results import Judgement
from tests.evals.gate_cases import BASE, N, column, controls, kpi, results, suite

GOOD = Judgement("sha256:" + "d" * 64, kappa=0.8, kappa_lower=0.7, min_kappa=0.4, labels=200)
JUDGES = {"grader": {"url": "http://127.0.0.1:1/v1", "calibration": "labels.jsonl", "min_kappa": 0.4}}
JUDGED = kpi("a", harness="judge", task="is it polite?", judge="grader", range=[0, 1])
PLAIN = kpi("a")


def verdict(entry=PLAIN, base=None, bad=None, gate=None, judged=1, others=(), **marks):
    spec = suite(entry, *others, gate={"mode": "fixed", **(gate or {})}, judges=JUDGES)
    rows = column(BASE, **marks)
    base = marks | (base or {})
    return decide(
        spec,
        results("candidate", a=rows),
        results("baseline", a=column(BASE, **base)),
        controls=controls(a=column(np.zeros(N), **(bad or {}))),
        judged=judged,
    )


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        ({"source": "imported"}, "imported evidence"),
        ({"source": "unverified", "target": "url"}, "measured at an outside URL (url)"),
        ({"source": "unverified"}, "measured at an outside URL"),
    ],
)
def test_the_source_of_the_evidence_is_shown(marks, words):
    found = verdict(**marks)
    assert (found.verdict, found.kpis[0].source) == ("PASS", marks["source"])
    assert f"    {words}" in found.render_lines()


def test_evidence_is_as_trusted_as_its_worse_half():
    assert verdict(base={"source": "imported"}).kpis[0].source == "imported"
    assert verdict(source="imported", base={"source": "unverified"}).kpis[0].source == "imported"
    assert verdict().kpis[0].source == "measured"
    assert verdict(target="weights").kpis[0].target == "weights"
    assert verdict(instrument="sha256:i", bad={"instrument": "sha256:i"}).kpis[0].instrument == "sha256:i"


def test_a_calibrated_judge_may_gate():
    found = verdict(JUDGED, judge=GOOD)
    assert (found.verdict, found.kpis[0].judge) == ("PASS", GOOD.digest)
    assert any("scored by judge sha256:dddddddddddd" in line for line in found.render_lines())


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        (None, "is not calibrated against human labels"),
        (Judgement("d"), "is not calibrated against human labels"),
        (Judgement("d", kappa=0.9), "is not calibrated against human labels"),
        (Judgement("d", 0.5, 0.3, 0.4, 60), "kappa 0.50, at least 0.30 on 60 labelled cases, where 0.40 is asked for"),
        (Judgement("d", 0.5, 0.3, 0.2, 60), "where 0.40 is asked for"),
        (Judgement("d", 0.8, 0.7, 0.75, 60), "where 0.75 is asked for"),
    ],
)
def test_a_judge_that_nobody_checked_may_not_gate(judge, words):
    found = verdict(JUDGED, judge=judge)
    assert found.verdict == "INVALID"
    assert words in found.reasons[0]
    advisory = verdict({**JUDGED, "rule": {"type": "advisory"}, "control": None}, others=[kpi("b")], judge=judge).kpis[
        0
    ]
    assert advisory.verdict == "ADVISORY"


@pytest.mark.parametrize("other", [None, Judgement("e", 0.8, 0.7)])
def test_another_state_of_the_judge_is_invalid(other):
    found = verdict(JUDGED, judge=GOOD, base={"judge": other})
    assert "different states of the judge `grader`" in found.reasons[0]


def test_contaminated_samples_make_a_kpi_invalid_or_are_reported():
    strict = verdict(contaminated=3)
    assert (strict.verdict, strict.kpis[0].contaminated) == ("INVALID", 3)
    assert "the candidate was trained on 3 of these samples" in strict.reasons[0]
    free = verdict(gate={"contamination": "report"}, contaminated=3, base={"contaminated": 0})
    assert free.verdict == "PASS"
    assert free.kpis[0].reasons[-1] == "the candidate was trained on 3 of these samples"
    base = verdict(base={"contaminated": 2})
    assert (base.verdict, base.kpis[0].reasons[-1]) == ("PASS", "the baseline was trained on 2 of these samples")


def test_every_decision_says_how_often_the_hold_out_was_used():
    found = verdict(judged=3)
    assert (found.judged, found.familywise) == (3, pytest.approx(0.15))
    assert "  this hold-out has judged 3 candidates: the chance that any was promoted wrongly is at most 0.15" in (
        found.render_lines()
    )
    assert verdict(judged=40).familywise == 1.0
    assert any("has judged 1 candidate:" in line for line in verdict().render_lines())


def test_a_family_budget_splits_alpha_and_ends():
    family = {"budget": "family", "max_candidates": 4}
    last, spent = verdict(gate=family, judged=4), verdict(gate=family, judged=5)
    assert (last.verdict, last.level, last.familywise) == ("PASS", 0.0125, 0.05)
    assert last.kpis[0].pass_level == 0.0125
    assert (spent.verdict, spent.final, spent.kpis[0].verdict) == ("INVALID", False, "INVALID")
    assert spent.reasons == (
        "this hold-out has judged 4 of 4 candidates: its alpha is spent; take fresh samples, which make a new hold-out",
    )
    assert verdict(gate={"budget": "candidate", "max_candidates": 4}, judged=9).verdict == "PASS"


def test_a_spent_budget_leaves_advisory_kpis_as_they_are():
    note = kpi("a", rule={"type": "advisory"}, control=None)
    spec = suite(note, kpi("b"), gate={"mode": "fixed", "budget": "family", "max_candidates": 1})
    rows = {"a": BASE, "b": BASE}
    found = decide(spec, results("c", **rows), results("b", **rows), controls=controls(b=np.zeros(N)), judged=2)
    assert [item.verdict for item in found.kpis] == ["ADVISORY", "INVALID"]
