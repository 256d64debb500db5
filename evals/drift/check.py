"""Check an alias for drift: split its decision log into two windows, test every signal, record the verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.drift.detectors import Sequential, e_bh, window_e
from evals.drift.evidently_report import write_report
from evals.drift.signals import Decision, Signal, read_signals
from registry.errors import SpecError
from registry.protocols import Progress, silent
from registry.records import DriftWindow
from registry.workspace import Workspace

ALPHA = 0.05
"""When nothing has changed, a check says `drift` with at most this probability; each detector has half of it."""
MIN_WINDOW = 30
"""Requests a window needs before a verdict is given."""
MAX_WINDOW = 10_000
"""The newest reference and the oldest current requests that are looked at."""
EXIT_CODES = {"quiet": 0, "drift": 1, "too_little_data": 3}
_SINCE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?)?")
_COLUMNS = "ts, request_id, candidate, action, rules, status, finish_reason, input_chars, output_chars"


def check(
    ws: Workspace, alias: str, *, since: str | None = None, reference_since: str | None = None, actor: str,
    html: Path | None = None, progress: Progress = silent,
) -> DriftWindow:  # fmt: skip
    """Compare two windows of an alias's decision log and register the DriftWindow.

    The reference window is what came before `since`, the current one what came after; without `since`, the older and
    the newer half of the log. Verdicts: `quiet`, `drift`, or `too_little_data` where a window has fewer than
    `MIN_WINDOW` requests. Requests are taken as exchangeable while nothing changes: a load test in one window is a
    change of traffic and is reported as one.

    Args:
        ws: the workspace.
        alias: whose decisions are read.
        since: start of the current window, UTC in ISO 8601.
        reference_since: start of the reference window, likewise; default the start of the log.
        actor: the principal who checks.
        html: where to write evidently's report, or None. It shows; it does not decide.
        progress: told per signal.

    Raises:
        SpecError: `since` or `reference_since` is no UTC time.
        EngineFailure: evidently failed to write its report.
    """
    rows = ws.store.query(f"SELECT {_COLUMNS} FROM gateway_decision WHERE endpoint = ? ORDER BY ts, seq", [alias])  # noqa: S608
    kept = rows if reference_since is None else _split(rows, reference_since)[1]
    reference, current = _split(kept, since)
    enough = min(len(reference), len(current)) >= MIN_WINDOW
    signals = _judge(read_signals(reference, current), current, progress) if enough else []
    digest = ""
    if html is not None and enough:
        progress("report", 0, 1)
        write_report(reference, current, html, scratch=ws.work("drift"))
        digest = ws.artifacts.add_bytes(html.read_bytes(), "text/html")
        progress("report", 1, 1)
    moved = any(signal["verdict"] == "drift" for signal in signals)
    record = DriftWindow(
        alias=alias,
        verdict=("drift" if moved else "quiet") if enough else "too_little_data",
        reference=_window(reference),
        current=_window(current),
        signals=signals,
        html=digest,
    )
    ws.register(record, actor=actor, name=alias)
    return record


def describe(window: DriftWindow) -> list[str]:
    """Return the lines a person reads: the windows, one line a signal, and what the verdict's error rate is."""
    lines = [f"{name}: {part['n']} requests, {part['first'] or '-'} to {part['last'] or '-'}"
             for name, part in (("reference", window.reference), ("current", window.current))]  # fmt: skip
    if not window.signals:
        return [*lines, f"a verdict needs {MIN_WINDOW} requests in each window"]
    for signal in window.signals:
        lines.append(
            f"{signal['verdict']:5}  {signal['name']:24} {signal['reference']:.4g} -> {signal['current']:.4g}"
            f"  e = {signal['e_value']:.3g} (needs {signal['e_threshold']:.3g})"
            + (f", seen at {signal['since']}" if signal["since"] else "")
        )
    return [*lines, f"if nothing had changed, at most {ALPHA:.0%} of such checks would say drift"]


def _split(rows: Sequence[Decision], since: str | None) -> tuple[list[Decision], list[Decision]]:
    if since is None:
        middle = len(rows) // 2
        before, after = list(rows[:middle]), list(rows[middle:])
    else:
        if not _SINCE.fullmatch(since):
            raise SpecError(f"`{since}` is no UTC time", field="since", hint="write `2026-07-01T00:00:00Z`")
        # Journal times are ISO 8601 in UTC, so that their first 19 characters order as text.
        start = since[:19]
        before = [row for row in rows if row["ts"][: len(start)] < start]
        after = [row for row in rows if row["ts"][: len(start)] >= start]
    return before[-MAX_WINDOW:], after[:MAX_WINDOW]


def _window(rows: Sequence[Decision]) -> dict[str, Any]:
    return {
        "n": len(rows),
        "first": rows[0]["ts"] if rows else "",
        "last": rows[-1]["ts"] if rows else "",
        "candidates": sorted({row["candidate"] for row in rows}),
    }


def _judge(signals: Sequence[Signal], current: Sequence[Decision], progress: Progress) -> list[dict[str, Any]]:
    """Return one finding a signal: both means, both detectors, and the verdict."""
    e_values = {signal.name: window_e(signal.reference, signal.current) for signal in signals}
    tested = [signal.name for signal in signals if signal.varies]
    flagged = e_bh({name: e_values[name] for name in tested}, ALPHA / 2)
    family = max(1, len(tested))
    findings = []
    for number, signal in enumerate(signals, start=1):
        threshold = 2 * family * max(1, len(signal.current)) / ALPHA
        peak, crossed = _watch(signal, threshold)
        drift = signal.name in flagged or crossed is not None
        findings.append({
            "name": signal.name,
            "meaning": signal.meaning,
            "reference": _mean(signal.reference),
            "current": _mean(signal.current),
            "n_reference": len(signal.reference),
            "n_current": len(signal.current),
            "e_value": e_values[signal.name],
            "e_threshold": 2 * family / ALPHA,
            "sequential": peak,
            "sequential_threshold": threshold,
            "since": current[signal.places[crossed]]["ts"] if crossed is not None else "",
            "verdict": "drift" if drift else "quiet",
            "false_alarm": f"at most {ALPHA:.0%} of checks over all signals",
        })  # fmt: skip
        progress("signals", number, len(signals), signal.name)
    return findings


def _watch(signal: Signal, threshold: float) -> tuple[float, int | None]:
    """Return the highest sequential statistic, and the index of the current value at which it crossed the threshold."""
    detector = Sequential(signal.reference)
    peak = 0.0
    for index, value in enumerate(signal.current):
        peak = max(peak, detector.feed(value, f"{signal.name} {index}"))
        if peak >= threshold:
            return peak, index
    return peak, None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
