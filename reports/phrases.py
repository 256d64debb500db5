"""How numbers, rules and digests are written for people; every rendering uses the same words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from reports.facts import Kpi

MISSING = "n/a"

_MEANING = {
    "PASS": "passed the gate",
    "FAIL": "was refused: it is shown to break a rule",
    "INVALID": "was refused: the evaluation does not count",
    "INCONCLUSIVE": "was not let through: the samples do not decide yet",
}


def meaning(verdict: str) -> str:
    """Return what a verdict says about a candidate, as the end of a sentence."""
    return _MEANING.get(verdict, "has not been judged by the gate")


def number(value: Any, unit: str = "") -> str:
    """Return a number with four significant digits, thousands separated; `n/a` where there is none."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return MISSING
    if isinstance(value, float) and not math.isfinite(value):
        return MISSING if math.isnan(value) else ("+" if value > 0 else "\u2212") + "\u221e"
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        text = f"{int(value):,}"
    else:
        text = f"{value:.4g}"
        if "e" in text and abs(value) >= 1:
            text = f"{value:,.0f}"
    text = "0" if text in {"-0", "-0.0"} else text.replace("-", "\u2212")
    return f"{text} {unit}".strip()


def percent(value: Any) -> str:
    """Return a fraction as a percentage with up to two decimals."""
    if value is None or not isinstance(value, int | float) or not math.isfinite(value):
        return MISSING
    return f"{100 * value:.2f}".rstrip("0").rstrip(".").replace("-", "\u2212") + " %"


def size(value: int) -> str:
    """Return bytes in the largest binary unit that keeps at least one digit before the point."""
    amount, units = float(value), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def short(digest: Any, length: int = 10) -> str:
    """Return the first hex digits of a digest, without its algorithm; other text unchanged."""
    text = str(digest or "")
    algorithm, _, hexes = text.partition(":")
    if algorithm in {"sha256", "blake3", "blake2b"} and hexes:
        return hexes[:length]
    return text[:length] if len(text) >= 40 and " " not in text else text


def rule(spec: Mapping[str, Any], better: int = 1, against: str = "") -> str:
    """Return a KPI's rule as a phrase; `better` is -1 where lower is better, `against` what it compares with."""
    kind = str(spec.get("type", ""))
    ratio = spec.get("scale") == "ratio"
    if kind in {"noninferior", "superior"}:
        amount = spec.get("margin" if kind == "noninferior" else "min_gain")
        size = percent(amount) if ratio else number(amount)
        other = against or "baseline"
        if kind == "noninferior":
            return f"not worse than the {other}" if amount is None else f"at most {size} worse than the {other}"
        return f"better than the {other}" if not amount else f"better than the {other} by more than {size}"
    if kind == "floor":
        return f"at {'least' if better > 0 else 'most'} {number(spec.get('value'))}"
    if kind == "max_rate":
        return f"at most {percent(spec.get('limit'))} of cases"
    return {"zero_tolerance": "no hit in any listed case", "advisory": "reported, never gates"}.get(
        kind, kind or MISSING
    )


def estimate(kpi: Kpi, value: float | None) -> str:
    """Return one of a KPI's numbers as its rule is written: rates and shares as percentages, gains with a sign."""
    kind = kpi.rule.get("type")
    share = kind in {"max_rate", "zero_tolerance"} or kpi.rule.get("scale") == "ratio"
    text = percent(value) if share else number(value)
    gain = kind in {"noninferior", "superior"} or kpi.against
    return f"+{text}" if gain and value is not None and value > 0 else text


def interval(kpi: Kpi) -> str:
    """Return `[lower, upper]` of a KPI; an open end is infinite."""
    if kpi.lower is None and kpi.upper is None:
        return MISSING
    low = "\u2212\u221e" if kpi.lower is None else estimate(kpi, kpi.lower)
    high = "+\u221e" if kpi.upper is None else estimate(kpi, kpi.upper)
    return f"[{low}, {high}]"


def measured(kpi: Kpi) -> str:
    """Return estimate and interval of a KPI in one phrase."""
    if kpi.estimate is None:
        return "no estimate"
    return f"{estimate(kpi, kpi.estimate)} {interval(kpi)}"


def why(kpi: Kpi) -> str:
    """Return why a KPI got its verdict, in one line."""
    if kpi.reasons:
        return "; ".join(kpi.reasons)
    text = f"{measured(kpi)}; rule: {rule(kpi.rule, kpi.better, kpi.against)}"
    if kpi.samples_needed:
        text += f"; about {number(kpi.samples_needed)} more samples would decide"
    return text


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun in the right number."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
