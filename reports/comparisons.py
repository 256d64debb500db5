"""The picture of a paired comparison: intervals with their margins, and the samples that moved most, as one SVG.

It works from plain data (`evals.comparison.Comparison.to_plain`), brings its own colours for light and dark, loads
nothing, and is the same bytes for the same numbers. Every text is untrusted and escaped.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard
from xml.sax.saxutils import escape

from registry.errors import EngineFailure, NotFound

WIDTH = 980
LEFT, RIGHT = 250, 690
MIDDLE = (LEFT + RIGHT) / 2
REACH = (RIGHT - LEFT) / 2 - 14
"""Half the plot's width in pixels, less a margin for arrow heads."""
TOP, ROW, PART, TEXT = 92, 54, 30, 17
"""Pixels above the plot, of a KPI's row, of a slice's row, and of a line of text."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_STYLE = """
svg{--ink:#1b1f24;--soft:#5b6570;--line:#d9dee4;--bad:#fbeeec;--good:#ecf6ef;--card:#fff;
 --worse:#b3261e;--better:#1a7f43;--open:#6b7785;background:var(--card);
 font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
@media (prefers-color-scheme:dark){svg{--ink:#e8ecf1;--soft:#9aa6b2;--line:#343c45;--bad:#33201f;--good:#1b2c22;
 --card:#14181d;--worse:#f2867e;--better:#63cf8f;--open:#8b97a4}}
text{fill:var(--ink)} .t{font-size:18px;font-weight:650} .n{font-weight:600} .s{fill:var(--soft);font-size:11.5px}
.v{font-variant-numeric:tabular-nums} .m{font-family:ui-monospace,"SF Mono",Menlo,Consolas,monospace;font-size:11.5px}
.rule{stroke:var(--line)} .zero{stroke:var(--ink);stroke-width:1.4} .margin{stroke:var(--worse);stroke-dasharray:4 3}
.bad{fill:var(--bad)} .good{fill:var(--good)} .bar{stroke-width:2.6} .worse{--tone:var(--worse)}
.better{--tone:var(--better)} .open{--tone:var(--open)} .bar,.end{stroke:var(--tone)} .dot,.arrow{fill:var(--tone)}
.card{fill:var(--card)} .w{fill:var(--worse)} .b{fill:var(--better)}
"""


def draw(comparison: Mapping[str, Any], items: int = 3) -> str:
    """Return the comparison as an SVG document; `items` of the worst and of the best samples of each KPI are listed.

    A row's scale is its own: units differ. The thick line is "equal"; better is to the right of it; the dashed line is
    the margin that the KPI's rule allows.
    """
    rows = comparison["rows"]
    parts: list[str] = []
    y = float(TOP)
    for row in rows:
        parts += [f'<line class="rule" x1="0" x2="{WIDTH}" y1="{y:g}" y2="{y:g}"/>', *_row(row, y)]
        y += ROW + PART * len(row["slices"])
    bands = [
        f'<rect class="bad" x="{LEFT}" y="{TOP}" width="{MIDDLE - LEFT:g}" height="{y - TOP:g}"/>',
        f'<rect class="good" x="{MIDDLE:g}" y="{TOP}" width="{RIGHT - MIDDLE:g}" height="{y - TOP:g}"/>',
    ]
    axis = [
        f'<line class="zero" x1="{MIDDLE:g}" x2="{MIDDLE:g}" y1="{TOP}" y2="{y:g}"/>',
        _words(
            MIDDLE, y + 18, "each row has its own scale; line: equal; dashed: the margin of the rule", "s", "middle"
        ),
    ]
    y += 46
    for row in rows:
        drawn, y = _moved(row, y, items)
        parts += drawn
    head = [
        _words(0, 22, f"Paired comparison, suite {comparison['suite']}", "t"),
        _words(0, 43, f"A {comparison['first']}", "s m"),
        _words(0, 59, f"B {comparison['second']}", "s m"),
        _words(MIDDLE - 10, TOP - 10, "\u2190 A is worse", "s", "end"),
        _words(MIDDLE + 10, TOP - 10, "A is better \u2192", "s"),
        _words(WIDTH, TOP - 10, f"gain [interval at one-sided {comparison['level']:g}]", "s", "end"),
    ]
    spoken = "; ".join(f"{row['kpi']}: {_gain(row['figures'])}" for row in rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-16 0 {WIDTH + 32} {y + 8:g}" role="img" '
        f'aria-label="{_safe("Paired comparison. " + spoken)}"><style>{_STYLE}</style>'
        + "".join([*head, *bands, *axis, *parts])
        + "</svg>\n"
    )


def page(comparison: Mapping[str, Any], items: int = 10) -> str:
    """Return the picture as an HTML page that loads nothing."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="color-scheme" content="light dark">'
        f"<title>{_safe('Comparison, suite ' + str(comparison['suite']))}</title>"
        "<style>body{margin:24px auto;max-width:1080px;padding:0 16px}svg{width:100%;height:auto}</style></head>"
        f"<body>{draw(comparison, items)}</body></html>\n"
    )


def png(comparison: Mapping[str, Any], items: int = 3, timeout_s: float = 60.0) -> bytes:
    """Return the picture as PNG, drawn by a Chromium of this machine.

    Raises:
        NotFound: there is no Chromium or Chrome on the path.
        EngineFailure: it drew nothing in time.
    """
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise NotFound("no Chromium or Chrome on the path", hint="write `.svg` or `.html`, which need none")
    svg = draw(comparison, items)
    height = math.ceil(float(svg.split('viewBox="', 1)[1].split('"', 1)[0].split()[3]))
    with tempfile.TemporaryDirectory(prefix="hallmark-png-") as name:
        folder = Path(name)
        (folder / "page.html").write_text(f"<!doctype html><style>body{{margin:0}}</style>{svg}", encoding="utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
                   f"--user-data-dir={folder / 'profile'}", "--force-device-scale-factor=2",
                   f"--window-size={WIDTH + 32},{height}", f"--screenshot={folder / 'out.png'}",
                   (folder / "page.html").as_uri()]  # fmt: skip
        try:
            subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
            return (folder / "out.png").read_bytes()
        except (subprocess.TimeoutExpired, OSError) as error:
            raise EngineFailure(f"`{browser}` drew nothing", hint="write `.svg` or `.html` instead") from error


def _row(row: Mapping[str, Any], top: float) -> list[str]:
    figures, y = row["figures"], top + ROW / 2
    if figures is None:
        said = "; ".join(row["problems"]) or "no figures"
        cover = f'<rect class="card" x="{LEFT}" y="{top + 1:g}" width="{RIGHT - LEFT}" height="{ROW - 1}"/>'
        return [cover, _words(0, y + 4, _fit(row["kpi"], 34), "n"), _words(LEFT, y + 4, _fit(said, 112), "s w")]
    scale = _scale([figures, *row["slices"]])
    counts = f"n {figures['n']:,}, {row['regressions']:,} worse, {row['improvements']:,} better"
    parts = [
        _words(0, y - 3, _fit(row["kpi"], 34), "n"),
        _words(0, y + 14, counts, "s"),
        *_bar(figures, scale, y, 5.0),
        _words(WIDTH, y - 3, _gain(figures), "v", "end"),
        _words(WIDTH, y + 14, _means(figures), "s v", "end"),
    ]
    margin = figures.get("threshold")
    if margin:
        x = MIDDLE + margin / scale * REACH
        bottom = top + ROW + PART * len(row["slices"])
        parts.append(f'<line class="margin" x1="{x:.2f}" x2="{x:.2f}" y1="{top + 4:g}" y2="{bottom - 4:g}"/>')
    for index, each in enumerate(row["slices"]):
        middle = top + ROW + PART * index + PART / 2
        parts += [
            _words(14, middle + 4, _fit(f"{each['slice']} (n {each['n']:,})", 40), "s"),
            *_bar(each, scale, middle, 3.5),
            _words(WIDTH, middle + 4, _gain(each), "s v", "end"),
        ]
    return parts


def _scale(figures: Sequence[Mapping[str, Any]]) -> float:
    """Return the largest finite number of a row and its slices, which just fits; 1 where all are zero."""
    names = ("estimate", "lower", "upper", "threshold")
    known = [abs(each[name]) for each in figures for name in names if _finite(each.get(name))]
    return max(known, default=0.0) or 1.0


def _bar(figures: Mapping[str, Any], scale: float, y: float, size: float) -> list[str]:
    if not _finite(figures.get("estimate")):
        return [_words(MIDDLE, y + 4, "no estimate", "s", "middle")]
    tone = _tone(figures)
    low, high = (figures.get(name) for name in ("lower", "upper"))
    start = MIDDLE + low / scale * REACH if _finite(low) else LEFT + 4.0
    end = MIDDLE + high / scale * REACH if _finite(high) else RIGHT - 4.0
    dot = MIDDLE + figures["estimate"] / scale * REACH
    return [
        f'<g class="{tone}"><line class="bar" x1="{start:.2f}" x2="{end:.2f}" y1="{y:g}" y2="{y:g}"/>',
        _end(start, y, size, -1 if not _finite(low) else 0),
        _end(end, y, size, 1 if not _finite(high) else 0),
        f'<circle class="dot" cx="{dot:.2f}" cy="{y:g}" r="{size:g}"/></g>',
    ]


def _tone(figures: Mapping[str, Any]) -> str:
    """Return how a row reads: shown to be worse than the margin (or than equal), better, or open."""
    line = figures.get("threshold") or 0.0
    low, high = figures.get("lower"), figures.get("upper")
    if _finite(high) and high < line:
        return "worse"
    return "better" if _finite(low) and low > line else "open"


def _end(x: float, y: float, size: float, open_to: int) -> str:
    if open_to:
        return f'<path class="arrow" d="M{x:.2f} {y:g}l{-7 * open_to} -5v10z"/>'
    return f'<line class="end" stroke-width="2" x1="{x:.2f}" x2="{x:.2f}" y1="{y - size:g}" y2="{y + size:g}"/>'


def _moved(row: Mapping[str, Any], y: float, items: int) -> tuple[list[str], float]:
    """Return the samples of a KPI that moved most, and where they end."""
    parts: list[str] = []
    for title, found, tone in (("worse", row["worst"], "w"), ("better", row["best"], "b")):
        if not found[:items]:
            continue
        count = row["regressions"] if title == "worse" else row["improvements"]
        parts.append(_words(0, y, f"{row['kpi']}: {len(found[:items])} of {count:,} samples that got {title}", "n"))
        y += TEXT + 3
        for item in found[:items]:
            figures = f"{item['first']:.4g} instead of {item['second']:.4g}  ({item['difference']:+.4g})"
            parts += [_words(14, y, item["sample_id"][:12], "m"), _words(120, y, figures, f"v {tone}")]
            y += TEXT
            texts = (("asked", "asked"), ("wanted", "wanted"), ("A said", "first_answer"), ("B said", "second_answer"))
            for name, key in texts:
                if item.get(key):
                    parts += [_words(120, y, name, "s"), _words(176, y, _fit(item[key], 124), "s")]
                    y += TEXT
        y += 10
    return parts, y


def _gain(figures: Mapping[str, Any] | None) -> str:
    if figures is None or not _finite(figures.get("estimate")):
        return "no figures"
    low, high = (_number(figures, figures.get(name)) for name in ("lower", "upper"))
    return f"{_number(figures, figures['estimate'])}  [{low}, {high}]"


def _means(figures: Mapping[str, Any]) -> str:
    both = [figures.get(name) for name in ("candidate", "baseline")]
    if not all(_finite(each) for each in both):
        return ""
    unit = f" {figures['unit']}" if figures.get("unit") else ""
    return f"A {both[0]:.4g}, B {both[1]:.4g}{unit}"


def _number(figures: Mapping[str, Any], value: Any) -> str:
    if not _finite(value):
        return "open"
    return f"{value:+.2%}" if figures.get("scale") == "ratio" else f"{value:+.3g}"


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _words(x: float, y: float, text: str, look: str, anchor: str = "start") -> str:
    return f'<text class="{look}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{_safe(text)}</text>'


def _fit(text: str, limit: int) -> str:
    shown = " ".join(text.split())
    return shown if len(shown) <= limit else shown[: limit - 1] + "\u2026"


def _safe(text: str) -> str:
    """Escape a text for SVG and HTML; characters that XML cannot hold are left out."""
    kept = "".join(
        each for each in text if each >= " " and not 0xD800 <= ord(each) <= 0xDFFF and each not in "\ufffe\uffff"
    )
    return escape(kept, {'"': "&quot;"})
