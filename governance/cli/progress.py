"""Progress on stderr: rich bars with rate and time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

EVERY_S = 5.0
"""Seconds between two plain lines of one stage."""


class Bars:
    """A `registry.protocols.Progress`: call it with (stage, done, total, note)."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._rich: Any = None
        self._tasks: dict[str, Any] = {}
        self._started: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def __call__(self, stage: str, done: float, total: float | None = None, note: str = "") -> None:
        """Show how far a stage is."""
        if self._live:
            self._draw(stage, done, total, note)
        else:
            self._line(stage, done, total, note)

    def stop(self) -> None:
        """Leave the bars as they are and give the terminal back."""
        if self._rich is not None:
            self._rich.stop()
            self._rich = None
            self._tasks.clear()

    def _draw(self, stage: str, done: float, total: float | None, note: str) -> None:
        if self._rich is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            self._rich = Progress(
                TextColumn("{task.description:<28}"), BarColumn(bar_width=30), TaskProgressColumn(),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True), TextColumn("[dim]{task.fields[note]}"),
                console=Console(stderr=True),
            )  # fmt: skip
            self._rich.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._rich.add_task(stage, total=total, note=note)
        self._rich.update(self._tasks[stage], completed=done, total=total, note=note)

    def _line(self, stage: str, done: float, total: float | None, note: str) -> None:
        now = time.monotonic()
        started = self._started.setdefault(stage, now)
        finished = total is not None and done >= total
        if not finished and now - self._said.get(stage, started) < EVERY_S:
            return
        if finished and self._said.get(stage) == float("inf"):
            return
        self._said[stage] = float("inf") if finished else now
        share = f" {100 * done / total:.0f} %" if total else f" {done:g}"
        left = (now - started) * (total - done) / done if total and done and not finished else 0.0
        rest = f", {left:.0f} s left" if left else f", {now - started:.0f} s" if finished else ""
        print(f"  {stage}:{share}{rest}{'  ' + note if note else ''}", file=sys.stderr, flush=True)  # noqa: T201
