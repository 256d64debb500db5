"""The gate's answer as a value: the verdict of every KPI with its reasons, the suite's verdict, and how to read it.

INVALID > FAIL > INCONCLUSIVE > PASS; only PASS may be certified.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from registry.records import plain

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID", "ADVISORY", "NOT_JUDGED"]
PREVIEW = 56
"""How many characters of a sample its line shows."""
EXIT_CODES = {"PASS": 0, "FAIL": 1, "INVALID": 2, "INCONCLUSIVE": 3}
SEVERITY: tuple[Verdict, ...] = ("INVALID", "FAIL", "INCONCLUSIVE", "PASS")


@dataclass(frozen=True, slots=True)
class WorstItem:
    """One sample that speaks most against the candidate; `difference` is oriented: negative is worse."""

    sample_id: str
    candidate: float
    baseline: float | None
    difference: float


@dataclass(frozen=True, slots=True)
class KpiVerdict:
    """The verdict of one KPI, with everything it rests on.

    For paired rules `estimate`, `lower`, `upper` and `threshold` are the gain over the baseline (larger is better,
    whatever the metric's direction; a share of the baseline where `scale` is `ratio`). For the other rules they are the
    candidate's own value or rate. `lower` and `upper` each hold at one-sided level `level`, which is `pass_level` for a
    gating KPI; None means no bound. The verdict compares `p_pass` with `pass_level` and `p_fail` with `fail_level`; in
    mode `fixed` `p_fail` is Holm-adjusted, else the correction is in `fail_level`.
    """

    kpi: str
    rule: str
    verdict: Verdict
    gating: bool
    against: str = ""
    """`baseline`, `anchor`, or empty for a rule on the candidate alone."""
    unit: str = ""
    owner: str = ""
    scale: str = "absolute"
    level: float = 0.0
    threshold: float | None = None
    candidate: float | None = None
    baseline: float | None = None
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    p_pass: float | None = None
    p_fail: float | None = None
    bound: str = ""
    n: int = 0
    clusters: int = 0
    discordant: int = 0
    clipped: int = 0
    samples_needed: int | None = None
    """How many more samples would probably decide; only where INCONCLUSIVE and foreseeable."""
    control: str = ""
    control_verdict: str = ""
    """What the control got under the same rule; it must be FAIL. `missing` where it was not evaluated."""
    reasons: tuple[str, ...] = ()
    worst: tuple[WorstItem, ...] = ()
    slice: str = ""
    """Which part of the samples was judged, as `field=value`; empty: all of them."""
    look: int = 1
    """The look of the test at which this verdict was reached."""
    fraction: float = 0.0
    """Share of the planned clusters that was measured by then; 0 where there was nothing to judge."""
    pass_level: float | None = None
    """What `p_pass` was compared with at this look."""
    fail_level: float | None = None
    """What `p_fail` was compared with at this look, the correction for several KPIs included."""
    latched: bool = False
    """Whether the verdict was reached at an earlier look and is carried over, figures and all."""
    source: str = "measured"
    """`measured` by us, `imported`, or `unverified` (measured at an outside URL)."""
    target: str = ""
    """What was measured: the weights or the endpoint."""
    instrument: str = ""
    """Digest of samples, prompt, scorer and aggregation."""
    judge: str = ""
    """Digest of the judge that scored the answers; empty without one."""
    contaminated: int = 0
    """How many of the samples the candidate was trained on."""

    @property
    def open(self) -> bool:
        """Whether samples of the plan that are not measured yet may still decide it."""
        return self.gating and self.verdict == "INCONCLUSIVE" and self.fraction < 1.0


@dataclass(frozen=True, slots=True)
class Decision:
    """The gate's verdict on one candidate under one suite."""

    suite: str
    suite_version: int
    suite_digest: str
    candidate: str
    baseline: str | None
    anchor: str | None
    verdict: Verdict
    bootstrap: bool
    mode: str
    alpha: float
    level: float
    kpis: tuple[KpiVerdict, ...]
    reasons: tuple[str, ...]
    look: int = 1
    """Which look of the test this is; a look without new samples keeps the number of the last one."""
    looks: int = 1
    """How many looks the suite plans."""
    final: bool = True
    """Whether the verdict stands for good: PASS, FAIL, or INCONCLUSIVE with no look left. INVALID can be mended."""
    judged: int = 1
    """How many candidates this hold-out has judged, this one included."""
    familywise: float = 0.0
    """Bound on the chance that any of the `judged` candidates was promoted wrongly."""

    @property
    def open_kpis(self) -> tuple[str, ...]:
        """The KPIs that still need samples, in the order of the suite."""
        return tuple(dict.fromkeys(item.kpi for item in self.kpis if item.open))

    @property
    def exit_code(self) -> int:
        """0 PASS, 1 FAIL, 2 INVALID, 3 INCONCLUSIVE."""
        return EXIT_CODES[self.verdict]

    def to_plain(self) -> dict[str, Any]:
        """Return the whole value as plain JSON data: the `report` of a GateDecision record."""
        value: dict[str, Any] = plain(self)
        return value

    def render_lines(self, worst: int = 3, previews: Mapping[str, str] | None = None) -> list[str]:
        """Return the decision as plain text lines: verdict, why, then each KPI with its worst `worst` items.

        `previews` shows, by sample id, what a sample is.
        """
        against = f"against {_short(self.baseline)}" if self.baseline else "no baseline"
        first = " (bootstrap: the first of its line)" if self.bootstrap else ""
        lines = [
            f"{self.verdict}{first}  suite {self.suite} v{self.suite_version}, candidate {_short(self.candidate)}, "
            f"{against}, {self.mode}, one-sided level {self.level:g}"
        ]
        lines += [wrapped for reason in self.reasons for wrapped in _wrap(reason, "  ")]
        lines += self._test_lines()
        for item in self.kpis:
            lines += _slice_lines(item) if item.slice and not item.gating else ["", *_kpi_lines(item)]
            if item.worst and item.verdict in ("FAIL", "INCONCLUSIVE"):
                lines.append("    worst samples:")
                shown = previews or {}
                lines += [f"      {_worst_line(each, shown.get(each.sample_id, ''))}" for each in item.worst[:worst]]
        return lines

    def _test_lines(self) -> list[str]:
        """Return where the test stands: which look, what is open, and what the hold-out has been used for."""
        lines = []
        if self.mode != "fixed":
            waiting = f"; open: {', '.join(self.open_kpis)}" if self.open_kpis else ""
            lines += _wrap(f"look {self.look} of {self.looks}{waiting}", "  ")
        if self.familywise:
            count = "1 candidate" if self.judged == 1 else f"{self.judged} candidates"
            lines.append(
                f"  this hold-out has judged {count}: the chance that any was promoted wrongly is at most "
                f"{self.familywise:.3g}"
            )
        return lines


def _kpi_lines(item: KpiVerdict) -> list[str]:
    part = f" [{item.slice}]" if item.slice else ""
    against = f" against the {item.against}" if item.against else ""
    latched = f"  latched at look {item.look}" if item.latched else ""
    owner = f"  owner {item.owner}" if item.owner else ""
    lines = [f"  {item.verdict:<12} {item.kpi}{part}  ({item.rule}{against}){latched}{owner}"]
    if item.estimate is not None:
        lines += _wrap(measured(item), "    ")
    for line in (_compared(item), marked(item)):
        lines += _wrap(line, "    ")
    return lines + [wrapped for reason in item.reasons for wrapped in _wrap(reason, "    ")]


def _slice_lines(item: KpiVerdict) -> list[str]:
    said = "; ".join(item.reasons) if item.estimate is None else measured(item)
    return _wrap(f"{item.slice}: {said}", "      ")


def _compared(item: KpiVerdict) -> str:
    """Return the p-values and what they were compared with at this look; empty where that is one fixed look's."""
    if item.p_pass is None or item.p_fail is None or item.pass_level is None or item.fail_level is None:
        return ""
    if item.fraction >= 1.0 and item.look == 1:
        return ""
    return (
        f"look {item.look}, {item.fraction:.0%} of the plan: p {item.p_pass:.2g} for a pass (at most "
        f"{item.pass_level:.2g}), p {item.p_fail:.2g} for a failure (at most {item.fail_level:.2g})"
    )


def marked(item: KpiVerdict) -> str:
    """Return what a reader must know about where the evidence comes from; empty where we measured it ourselves."""
    said = []
    if item.source == "imported":
        said.append("imported evidence")
    if item.source == "unverified":
        said.append(f"measured at an outside URL{f' ({item.target})' if item.target else ''}")
    if item.judge:
        said.append(f"scored by judge {_short(item.judge)}")
    return ", ".join(said)


def measured(item: KpiVerdict) -> str:
    """Return one line of figures: estimate, interval, counts and the bound used."""
    gain = "gain " if item.against else ""
    low = "-inf" if item.lower is None else number(item, item.lower)
    high = "inf" if item.upper is None else number(item, item.upper)
    estimate = "unknown" if item.estimate is None else number(item, item.estimate)
    parts = [f"{gain}{estimate}{_unit(item)}  interval [{low}, {high}]  n {item.n}"]
    if item.candidate is not None and item.baseline is not None:
        parts.append(f"candidate {item.candidate:.4g}, baseline {item.baseline:.4g}")
    if item.clusters != item.n:
        parts.append(f"{item.clusters} clusters")
    if item.against:
        parts.append(f"{item.discordant} differ")
    if item.clipped:
        parts.append(f"{item.clipped} clipped")
    if item.bound:
        parts.append(f"bound: {item.bound}")
    return "  ".join(parts)


def number(item: KpiVerdict, value: float) -> str:
    """Return a figure of a KPI as text: signed for gains, per cent on the ratio scale."""
    if item.scale == "ratio":
        return f"{value:+.2%}"
    return f"{value:+.4g}" if item.against else f"{value:.4g}"


def _unit(item: KpiVerdict) -> str:
    return f" {item.unit}" if item.unit and item.scale == "absolute" else ""


def _worst_line(item: WorstItem, preview: str) -> str:
    figures = f"{item.candidate:.4g}"
    if item.baseline is not None:
        figures += f" instead of {item.baseline:.4g} ({item.difference:+.3g})"
    shown = " ".join(preview.split())
    shown = shown if len(shown) <= PREVIEW else shown[: PREVIEW - 3] + "..."
    return f"{item.sample_id[:12]}  {figures:<34} {shown}".rstrip()


def _short(digest: str | None) -> str:
    text = digest or ""
    return text[:19] if text.startswith(("sha256:", "blake3:")) else text


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent=indent, subsequent_indent=indent + "  ")
