"""What forbids a verdict although every row is sound: a spent budget, another test, a judge nobody checked."""

from __future__ import annotations

from collections.abc import Sequence

from evals import slicing
from evals.decision import Decision, KpiVerdict
from evals.results import KpiResults, Results
from evals.suite import Judge, Kpi, SuiteSpec

SOURCES = ("measured", "unverified", "imported")
"""Where rows come from, the most trusted first."""


def spent_budget(spec: SuiteSpec, judged: int) -> str:
    """Return why this hold-out may not judge another candidate, or empty text."""
    most = spec.gate.max_candidates
    if spec.gate.budget != "family" or most is None or judged <= most:
        return ""
    return (
        f"this hold-out has judged {judged - 1} of {most} candidates: its alpha is spent; "
        "take fresh samples, which make a new hold-out"
    )


def foreign_history(spec: SuiteSpec, compared: Sequence[str | None], history: Sequence[Decision]) -> str:
    """Return why the earlier decisions are not of this test, or empty text.

    A verdict on the candidate alone stands whoever the baseline is.

    Args:
        spec: the suite.
        compared: ids of candidate, baseline and anchor.
        history: the earlier decisions.
    """
    candidate, *opponents = compared
    for item in history:
        looked_at = [each for each in item.kpis if each.gating and each.fraction > 0.0]
        roles: list[tuple[str, str | None, str | None]] = [("candidate", candidate, item.candidate)]
        for name, now, then in zip(("baseline", "anchor"), opponents, (item.baseline, item.anchor), strict=True):
            roles += [(name, now, then)] if any(each.against == name for each in looked_at) else []
        for name, now, then in roles:
            if now != then:
                return f"look {item.look} of this test was taken with the {name} `{then}`, this one with `{now}`"
        if looked_at and (item.mode != spec.gate.mode or item.level != spec.gate.level):
            return (
                f"look {item.look} of this test was taken in mode {item.mode} at level {item.level:g}, this one in "
                f"mode {spec.gate.mode} at level {spec.gate.level:g}: the rules of a test stand before its first look"
            )
    return ""


def unfit(
    spec: SuiteSpec, kpi: Kpi, candidate: Results, opponent: Results | None, earlier: Sequence[KpiVerdict]
) -> str:
    """Return why sound rows may not gate a KPI, or empty text.

    Args:
        spec: the suite.
        kpi: the KPI that they would gate.
        candidate: the candidate's results; they hold rows of this KPI.
        opponent: the results they are compared with.
        earlier: the verdicts of earlier looks on the same samples.
    """
    rows = candidate.kpis[kpi.id]
    samples = slicing.held(rows)
    for item in earlier:
        if item.instrument != rows.instrument and spec.gate.mode != "anytime":
            return f"look {item.look} was measured with another instrument: that was another test"
    if spec.gate.mode == "fixed" and samples < kpi.samples:
        return f"`fixed` looks once, at the end: {samples} of {kpi.samples} samples are not the end"
    if rows.contaminated and spec.gate.contamination == "invalid":
        return f"the candidate was trained on {rows.contaminated} of these samples"
    return _judge_problem(spec.judges.get(kpi.judge), kpi, rows, opponent.kpis.get(kpi.id) if opponent else None)


def _judge_problem(asked: Judge | None, kpi: Kpi, rows: KpiResults, other: KpiResults | None) -> str:
    if not kpi.judge:
        return ""
    judge = rows.judge
    if judge is None or judge.kappa is None or judge.kappa_lower is None:
        return f"the judge `{kpi.judge}` is not calibrated against human labels: a KPI that it scores may not gate"
    least = max(judge.min_kappa, asked.min_kappa if asked else 0.0)
    if not judge.calibrated or judge.kappa_lower < least:
        return (
            f"the judge `{kpi.judge}` does not agree with people well enough: kappa {judge.kappa:.2f}, at least "
            f"{judge.kappa_lower:.2f} on {judge.labels} labelled cases, where {least:.2f} is asked for"
        )
    if other is not None and (other.judge is None or other.judge.digest != judge.digest):
        return f"candidate and baseline were scored by different states of the judge `{kpi.judge}`"
    return ""


def marks(rows: KpiResults | None, other: KpiResults | None) -> dict[str, str | int]:
    """Return the fields of a KpiVerdict that say where its evidence comes from; the least trusted source counts."""
    if rows is None:
        return {}
    source = max((rows.source, other.source if other else rows.source), key=SOURCES.index)
    return {
        "source": source,
        "target": rows.target,
        "instrument": rows.instrument,
        "judge": rows.judge.digest if rows.judge else "",
        "contaminated": rows.contaminated,
    }


def remarks(item: KpiVerdict, other: KpiResults | None) -> tuple[str, ...]:
    """Return sentences about the evidence that are true whatever the verdict."""
    said = []
    if item.contaminated:
        said.append(f"the candidate was trained on {item.contaminated} of these samples")
    if other is not None and other.contaminated:
        said.append(f"the {item.against or 'baseline'} was trained on {other.contaminated} of these samples")
    return tuple(said)
