"""Check an alias for drift: split its decision log into two windows, test every signal, record the verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.drift.canaries import Replay, receipts
from evals.drift.detectors import e_bh, watch, window_e
from evals.drift.evidently_report import write_report
from evals.drift.replays import compare
from evals.drift.signals import TRAFFIC, Decision, Signal, read_signals
from evals.drift.spending import ALPHA, level_of
from registry.errors import NotFound, SpecError
from registry.protocols import Progress, silent
from registry.records import DriftWindow
from registry.workspace import Workspace

__all__ = ["ALPHA", "EXIT_CODES", "MAX_WINDOW", "MIN_WINDOW", "Windows", "check", "describe"]

MIN_WINDOW = 30
"""Requests a window needs before a verdict is given."""
MAX_WINDOW = 10_000
"""The newest reference and the oldest current requests that are looked at."""
EXIT_CODES = {"quiet": 0, "drift": 1, "too_little_data": 3}
_SINCE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?)?")
_COLUMNS = ("ts, request_id, candidate, action, rules, status, finish_reason, input_chars, output_chars, prompt_tokens,"
            " completion_tokens, signals")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Windows:
    """Which requests are compared, and what is promised of the check.

    `since` starts the current window and `reference_since` the reference, UTC in ISO 8601; by default they are the
    newer and the older half of the newest 2 x `MAX_WINDOW` requests. `cumulative` bounds the false alarms of all such
    checks of a certificate together, and looks at requests under that certificate only.
    """

    since: str | None = None
    reference_since: str | None = None
    cumulative: bool = False


def check(
    ws: Workspace, alias: str, *, windows: Windows | None = None, replays: tuple[Replay | None, Replay] | None = None,
    actor: str, html: Path | None = None, progress: Progress = silent,
) -> DriftWindow:  # fmt: skip
    """Compare two windows of an alias's decision log and register the DriftWindow.

    Verdicts: `quiet`, `drift`, or `too_little_data` where a window has fewer than `MIN_WINDOW` requests and the
    canaries have not changed. Requests are taken as exchangeable while nothing changes: a load test in one window is a
    change of traffic and is reported as one. Replays of canaries are no traffic and are left out.

    Args:
        ws: the workspace.
        alias: whose decisions are read.
        windows: which of them.
        replays: what `evals.drift.canaries.replay` returned, or None where no canaries were asked.
        actor: the principal who checks.
        html: where to write evidently's report, or None. It shows; it does not decide.
        progress: told per signal.

    Raises:
        SpecError: a time is no UTC time.
        EngineFailure: evidently failed to write its report.
    """
    windows = windows or Windows()
    certificate = _certificate(ws, alias)
    level = level_of(ws, alias, certificate, cumulative=windows.cumulative)
    reference, current = _read(ws, alias, windows, certificate)
    enough = min(len(reference), len(current)) >= MIN_WINDOW
    alpha = level.alpha / 2 if replays else level.alpha
    signals = judge(read_signals(reference, current), current, alpha, progress) if enough else []
    canaries = _canaries(replays, alpha)
    digest = ""
    if html is not None and (enough or replays):
        progress("report", 0, 1)
        write_report(reference, current, html, replays=replays, scratch=ws.work("drift"))
        digest = ws.artifacts.add_bytes(html.read_bytes(), "text/html")
        progress("report", 1, 1)
    record = DriftWindow(
        alias=alias,
        verdict=_verdict(signals, canaries, enough=enough),
        reference=_window(reference),
        current=_window(current),
        signals=signals,
        html=digest,
        cause=_cause(signals, canaries),
        canaries=canaries,
        check={"certificate": certificate, **level.plain()},
    )
    ws.register(record, actor=actor, name=alias)
    return record


def describe(window: DriftWindow) -> list[str]:
    """Return the lines a person reads: the windows, one line a signal, and what the verdict's error rate is."""
    lines = [f"{name}: {part['n']} requests, {part['first'] or '-'} to {part['last'] or '-'}"
             for name, part in (("reference", window.reference), ("current", window.current))]  # fmt: skip
    if window.reference["candidates"] != window.current["candidates"]:
        lines.append("the windows were answered by different candidates")
    if not window.signals:
        lines.append(f"a verdict on the traffic needs {MIN_WINDOW} requests in each window")
    for signal in [*window.signals, *(window.canaries or {}).get("signals", [])]:
        lines.append(
            f"{signal['verdict']:5}  {signal['name']:24} {signal['reference']:.4g} -> {signal['current']:.4g}"
            f"  e = {signal['e_value']:.3g} (needs {signal['e_threshold']:.3g})"
            + (f", seen at {signal['since']}" if signal.get("since") else "")
        )
    lines += _said_of_canaries(window.canaries)
    if window.cause:
        lines.append(f"cause: {window.cause}")
    return [*lines, (window.check or {}).get("bound") or f"at most {ALPHA:.0%} of such checks would say drift"]


def _said_of_canaries(canaries: dict[str, Any] | None) -> list[str]:
    if canaries is None:
        return []
    if canaries["verdict"] == "reference":
        return [f"canaries: {canaries['n']} asked; the first replay of this certificate, to compare later ones with"]
    repeats = "the engine repeats itself" if canaries["repeatable"] else "the engine does not repeat itself"
    return [f"canaries: {canaries['changed']:.0%} of {canaries['n']} answer otherwise; {repeats}"]


def _certificate(ws: Workspace, alias: str) -> str:
    try:
        return ws.release(alias).certificate
    except NotFound:
        return ""


def _read(ws: Workspace, alias: str, windows: Windows, certificate: str) -> tuple[list[Decision], list[Decision]]:
    """Return the rows of both windows, oldest first."""
    where, params = "endpoint = ? AND request_id NOT IN (SELECT unnest(?))", [alias, [*receipts(ws, alias), ""]]
    if windows.cumulative and certificate:
        where, params = f"{where} AND certificate = ?", [*params, certificate]
    if windows.reference_since is not None:
        start = _start(windows.reference_since, "reference_since")
        where, params = f"{where} AND ts[:{len(start)}] >= ?", [*params, start]

    def rows(more: str, value: str | None, order: str, limit: int) -> list[Decision]:
        return list(ws.store.query(
            f"SELECT {_COLUMNS} FROM gateway_decision WHERE {where} {more} ORDER BY ts {order}, seq {order}"  # noqa: S608 (our own text)
            f" LIMIT {limit}",
            [*params, value] if value is not None else params,
        ))  # fmt: skip

    if windows.since is None:
        newest = rows("", None, "DESC", 2 * MAX_WINDOW)[::-1]
        return newest[: len(newest) // 2], newest[len(newest) // 2 :]
    start = _start(windows.since, "since")
    before = rows(f"AND ts[:{len(start)}] < ?", start, "DESC", MAX_WINDOW)[::-1]
    return before, rows(f"AND ts[:{len(start)}] >= ?", start, "ASC", MAX_WINDOW)


def _start(since: str, field: str) -> str:
    """Return what the journal's times are compared with: ISO 8601 in UTC, so that 19 characters order as text."""
    if not _SINCE.fullmatch(since):
        raise SpecError(f"`{since}` is no UTC time", field=field, hint="write `2026-07-01T00:00:00Z`")
    return since.removesuffix("+00:00").removesuffix("Z")[:19]


def _window(rows: Sequence[Decision]) -> dict[str, Any]:
    return {
        "n": len(rows),
        "first": rows[0]["ts"] if rows else "",
        "last": rows[-1]["ts"] if rows else "",
        "candidates": sorted({row["candidate"] for row in rows}),
    }


def judge(
    signals: Sequence[Signal], current: Sequence[Decision], alpha: float, progress: Progress
) -> list[dict[str, Any]]:
    """Return one finding a signal: both means, both detectors, and the verdict; alpha is shared by all of them."""
    tested = [signal for signal in signals if signal.varies]
    e_values = {signal.name: window_e(signal.reference, signal.current) for signal in tested}
    weights = {signal.name: signal.weight for signal in tested}
    flagged = e_bh(e_values, alpha / 2, weights)
    family = sum(weights.values())
    findings = []
    for number, signal in enumerate(signals, start=1):
        need = 2 * family / (signal.weight * alpha)
        threshold = max(1, len(signal.current)) * need
        peak, crossed = _seen(signal, threshold)
        drift = signal.name in flagged or crossed is not None
        findings.append({
            "name": signal.name,
            "meaning": signal.meaning,
            "side": signal.side,
            "reference": _mean(signal.reference),
            "current": _mean(signal.current),
            "n_reference": len(signal.reference),
            "n_current": len(signal.current),
            "e_value": e_values.get(signal.name, 1.0),
            "e_threshold": need,
            "sequential": peak,
            "sequential_threshold": threshold,
            "since": current[signal.places[crossed]]["ts"] if crossed is not None else "",
            "verdict": "drift" if drift else "quiet",
            "false_alarm": f"at most {alpha:.2%} of checks over all signals",
        })  # fmt: skip
        progress("signals", number, len(signals), signal.name)
    return findings


def _seen(signal: Signal, threshold: float) -> tuple[float, int | None]:
    """Return the highest sequential statistic, and the index of the current value at which it crossed the threshold."""
    if not signal.varies:
        return 0.0, None
    statistic = watch(signal.reference, signal.current, signal.name, rate=signal.rate)
    crossed = (statistic >= threshold).nonzero()[0]
    return float(statistic.max()), int(crossed[0]) if len(crossed) else None


def _canaries(replays: tuple[Replay | None, Replay] | None, alpha: float) -> dict[str, Any] | None:
    """Return what the replay of canaries says, `reference` for the first one, None where none was asked."""
    if replays is None:
        return None
    reference, current = replays
    said = {"set": current.canaries, "requests": len(current.requests)}
    if reference is None:
        return {**said, "verdict": "reference", "n": len(current.answers)}
    return {**said, **compare(reference, current, alpha)}


def _verdict(signals: Sequence[dict[str, Any]], canaries: dict[str, Any] | None, *, enough: bool) -> str:
    found = [*signals, canaries] if canaries else signals
    if any(finding["verdict"] == "drift" for finding in found):
        return "drift"
    return "quiet" if enough else "too_little_data"


def _cause(signals: Sequence[dict[str, Any]], canaries: dict[str, Any] | None) -> str:
    """Return what changed, as far as the canaries tell: with equal answers to them, it is the traffic."""
    if canaries is None or canaries["verdict"] == "reference":
        return ""
    moved = {signal["side"] for signal in signals if signal["verdict"] == "drift"}
    if canaries["verdict"] == "drift":
        return "both" if TRAFFIC in moved else "model"
    return "traffic" if moved else ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
