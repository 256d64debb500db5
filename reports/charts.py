"""The forest plot of a gate decision as inline SVG.

Written by hand rather than drawn by a plotting library: it takes the page's own colours (light, dark, print) through
CSS classes, stays under 10 KB, and is the same bytes for the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from reports import phrases
from reports.facts import Kpi

WIDTH = 920
ROW, TOP, BOTTOM = 58, 44, 34
LEFT, RIGHT = 264, 664
MIDDLE = (LEFT + RIGHT) / 2
REACH = (RIGHT - LEFT) / 2 - 14
"""Half the plot's width in pixels, less a margin for arrow heads."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One row in pixels: the rule's line is at MIDDLE, better is to the right. None is an open end."""

    estimate: float
    low: float | None
    high: float | None
    zero: float | None
    """Where "equal to the baseline" lies, where the rule compares with one."""


def bar(kpi: Kpi) -> Bar | None:
    """Return where a KPI's numbers lie, on a scale of its own; None where it has no estimate or no line.

    The row is stretched so that its farthest number just fits: rows of different units cannot share a scale, but they
    share the line that decides.
    """
    if kpi.estimate is None or kpi.threshold is None:
        return None
    sign, line = kpi.better, kpi.threshold
    known = [v for v in (kpi.estimate, kpi.lower, kpi.upper) if v is not None and math.isfinite(v)]
    compares = kpi.rule.get("type") in {"noninferior", "superior"}
    reach = max([abs(v - line) for v in known] + [abs(line) if compares else 0.0])

    def place(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        return MIDDLE + sign * (value - line) / reach * REACH if reach else MIDDLE

    low, high = place(kpi.lower), place(kpi.upper)
    if sign < 0:
        low, high = high, low
    return Bar(place(kpi.estimate) or MIDDLE, low, high, place(0.0) if compares and line else None)


def forest(kpis: Sequence[Kpi], title: str = "Forest plot of the gate's KPIs") -> str:
    """Return the plot as an SVG element; one row a KPI, with words for readers who cannot see it."""
    band = ROW * len(kpis) + 8
    height = TOP + band - 8 + BOTTOM
    spoken = "; ".join(f"{k.label}: {k.verdict}, {phrases.measured(k)}" for k in kpis)
    parts = [
        f'<svg class="forest" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{_text(title + ". " + spoken, quote=True)}">',
        f'<rect class="fp-bad" x="{LEFT}" y="{TOP - 8}" width="{MIDDLE - LEFT:g}" height="{band}"/>',
        f'<rect class="fp-good" x="{MIDDLE:g}" y="{TOP - 8}" width="{RIGHT - MIDDLE:g}" height="{band}"/>',
        f'<text class="fp-head" x="{MIDDLE - 10:g}" y="{TOP - 18}" text-anchor="end">\u2190 breaks the rule</text>',
        f'<text class="fp-head" x="{MIDDLE + 10:g}" y="{TOP - 18}">keeps the rule \u2192</text>',
    ]
    for index, kpi in enumerate(kpis):
        parts += _row(kpi, TOP + ROW * index)
    parts.append(f'<line class="fp-line" x1="{MIDDLE:g}" x2="{MIDDLE:g}" y1="{TOP - 8}" y2="{TOP + ROW * len(kpis)}"/>')
    parts.append(
        f'<text class="fp-note" x="{MIDDLE:g}" y="{height - 12}" text-anchor="middle">'
        "each row has its own scale; the line is the row\u2019s rule; \u25c7 equal to the baseline</text></svg>"
    )
    return "".join(parts)


def _row(kpi: Kpi, top: float) -> list[str]:
    y, tone = top + ROW / 2, f"v-{kpi.verdict.lower()}"
    rule = phrases.rule(kpi.rule, kpi.better, kpi.against)
    parts = [
        f'<line class="fp-rule" x1="0" x2="{WIDTH}" y1="{top:g}" y2="{top:g}"/>',
        f'<text class="fp-name" x="0" y="{y - 3:g}">{_text(_fit(kpi.label, 32))}</text>',
        f'<text class="fp-note" x="0" y="{y + 15:g}">{_text(_fit(rule, 40))}</text>',
        f'<text class="fp-value" x="{WIDTH}" y="{y - 3:g}" text-anchor="end">{_text(phrases.measured(kpi))}</text>',
        f'<text class="fp-verdict {_text(tone, quote=True)}" x="{WIDTH}" y="{y + 15:g}" text-anchor="end">'
        f"{_text(kpi.verdict)}</text>",
    ]
    where = bar(kpi)
    if where is None:
        parts.append(f'<text class="fp-note" x="{MIDDLE:g}" y="{y + 4:g}" text-anchor="middle">no estimate</text>')
        return parts
    low, high = where.low, where.high
    start, end = LEFT + 4 if low is None else low, RIGHT - 4 if high is None else high
    tone = _text(tone, quote=True)
    parts.append(f'<line class="fp-bar {tone}" x1="{start:.2f}" x2="{end:.2f}" y1="{y:g}" y2="{y:g}"/>')
    parts.append(_end(start, y, tone, open_to=-1 if low is None else 0))
    parts.append(_end(end, y, tone, open_to=1 if high is None else 0))
    if where.zero is not None and LEFT <= where.zero <= RIGHT:
        x = where.zero
        parts.append(f'<path class="fp-zero" d="M{x:.2f} {y - 15:g}l4 4l-4 4l-4 -4z"/>')
    parts.append(
        f'<rect class="fp-dot {tone}" x="{where.estimate - 5:.2f}" y="{y - 5:g}" width="10" height="10" rx="2"/>'
    )
    return parts


def _end(x: float, y: float, tone: str, open_to: int) -> str:
    if open_to:
        return f'<path class="fp-arrow {tone}" d="M{x:.2f} {y:g}l{-7 * open_to} -5v10z"/>'
    return f'<line class="fp-bar {tone}" x1="{x:.2f}" x2="{x:.2f}" y1="{y - 6:g}" y2="{y + 6:g}"/>'


def _fit(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "\u2026"


def _text(value: str, *, quote: bool = False) -> str:
    clean = "".join(c for c in value if c >= " ")
    return escape(clean, {'"': "&quot;"} if quote else {})
