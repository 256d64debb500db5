"""One gate decision as Markdown for a CI step summary or a pull request comment: verdict, reasons, the KPI table."""

from __future__ import annotations

from reports import phrases
from reports.facts import Decision, Kpi
from reports.markdown import code, escape

MARK = {"PASS": "\u2705", "FAIL": "\u274c", "INVALID": "\u26a0\ufe0f", "INCONCLUSIVE": "\u23f3"}


def render(decision: Decision) -> str:
    """Return the decision as Markdown; the same decision gives the same bytes."""
    label = escape(decision.version_label or phrases.short(decision.candidate))
    lines = [
        f"## {MARK.get(decision.verdict, '')} Hallmark gate: {escape(decision.verdict)}".replace("##  ", "## "),
        "",
    ]
    lines += [f"**{label}** {phrases.meaning(decision.verdict)}. {_context(decision)}", ""]
    held = [kpi for kpi in decision.kpis if not kpi.holds]
    lines += [f"- **{escape(kpi.label)}** {escape(kpi.verdict)}: {escape(phrases.why(kpi))}" for kpi in held]
    lines += [] if held else [f"- {escape(reason)}" for reason in decision.reasons]
    lines += ["", "| KPI | Verdict | Rule | Estimate, interval | Samples | Control |", "|---|---|---|---:|---:|---|"]
    lines += [_row(kpi) for kpi in decision.kpis]
    lines += ["", f"Decision {code(decision.id)}, candidate {code(decision.candidate)}.", ""]
    return "\n".join(lines)


def _context(decision: Decision) -> str:
    against = "as the first of its line (bootstrap)" if decision.bootstrap else f"against {decision.baseline_label}"
    return escape(
        f"Suite {decision.suite_label}, {against}, one-sided level {phrases.number(decision.alpha)}; {decision.plan}."
    )


def _row(kpi: Kpi) -> str:
    needed = f" ({phrases.number(kpi.samples_needed)} more needed)" if kpi.samples_needed else ""
    cells = (
        kpi.label,
        kpi.verdict,
        phrases.rule(kpi.rule, kpi.better, kpi.against),
        "; ".join((phrases.measured(kpi), *kpi.marks)),
        phrases.number(kpi.n) + needed,
        f"{kpi.control} {kpi.control_verdict}".strip() or "none",
    )
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"
