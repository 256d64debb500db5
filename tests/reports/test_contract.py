"""What the gate writes is what the reports read: no figure is lost or turned round on the way."""

from __future__ import annotations

import pytest

from evals.decision import KpiVerdict, WorstItem
from registry.records import plain
from reports import charts, phrases
from reports.decoding import kpi

WORST = (WorstItem("ab" * 16, 0.0, 1.0, -1.0),)


def verdict(rule: str, line: float, **more: object) -> KpiVerdict:
    figures = {"estimate": -0.1, "lower": -0.15, "upper": -0.05, "n": 200, "clusters": 60, "level": 0.05}
    named = {"kpi": "k", "rule": rule, "verdict": "FAIL", "gating": True, "threshold": line, "bound": "clustered t"}
    return KpiVerdict(**{**named, **figures, **more})  # type: ignore[arg-type]


def test_every_figure_arrives() -> None:
    written = verdict(
        "noninferior", -0.02, against="anchor", unit="bits per byte", owner="platform", candidate=2.4, baseline=2.3,
        samples_needed=70, control="null_model", control_verdict="FAIL", reasons=("worse",), worst=WORST,
    )  # fmt: skip
    read = kpi(plain(written))
    for name in ("verdict", "gating", "against", "unit", "owner", "level", "threshold", "estimate", "lower", "upper",
                 "bound", "n", "clusters", "samples_needed", "control", "control_verdict", "reasons"):  # fmt: skip
        assert getattr(read, name) == getattr(written, name), name
    assert (read.id, read.candidate_value, read.baseline_value) == ("k", 2.4, 2.3)
    assert read.worst == ({"sample_id": "ab" * 16, "candidate": 0.0, "baseline": 1.0, "difference": -1.0},)
    assert read.label == "k (anchor)"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (verdict("noninferior", -0.02, against="baseline"), "at most 0.02 worse than the baseline"),
        (verdict("noninferior", -0.02, against="anchor", scale="ratio"), "at most 2 % worse than the anchor"),
        (verdict("superior", 0.01, against="baseline"), "better than the baseline by more than 0.01"),
        (verdict("max_rate", 0.05), "at most 5 % of cases"),
        (verdict("floor", 0.7), "at least 0.7"),
        (verdict("floor", -0.2), "at most \u22120.2"),
        (verdict("zero_tolerance", 0.0), "no hit in any listed case"),
        (verdict("advisory", 0.0, gating=False, verdict="ADVISORY"), "reported, never gates"),
    ],
)
def test_rules_in_words(written: KpiVerdict, said: str) -> None:
    read = kpi(plain(written))
    assert phrases.rule(read.rule, read.better, read.against) == said


def test_what_is_not_judged_does_not_gate() -> None:
    read = kpi(plain(verdict("noninferior", -0.02, verdict="NOT_JUDGED", against="baseline")))
    assert not read.gating
    assert read.holds


@pytest.mark.parametrize("rule", ["noninferior", "superior"])
def test_a_failed_gain_is_drawn_left_of_the_line(rule: str) -> None:
    found = charts.bar(kpi(plain(verdict(rule, 0.0 if rule == "superior" else -0.02, against="baseline"))))
    assert found is not None
    assert found.high is not None
    assert found.high < charts.MIDDLE
