"""Shapes that rooms share without importing one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Progress(Protocol):
    """Told how far long work is; `total` is None where it is unknown. `note` is a short text of current figures."""

    def __call__(self, stage: str, done: float, total: float | None = None, note: str = "") -> None:
        """Report that `done` of `total` units of `stage` are finished."""


def silent(stage: str, done: float, total: float | None = None, note: str = "") -> None:
    """Report nothing: the default progress callback."""


class Scorer(Protocol):
    """Plugin kind `hallmark.scorer`: scores completions; used by KPIs and, by name, as a training reward."""

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
        """Return one number per completion, higher is better."""


class GuardedEndpoint(Protocol):
    """A running guarded endpoint, as an evaluation sees it."""

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:<port>/v1`."""

    @property
    def api_key(self) -> str:
        """The evaluator's key, good for this endpoint alone."""

    @property
    def permit(self) -> str:
        """The permit under which it serves."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What every request carries besides the key."""

    def close(self) -> None:
        """Drain and stop it."""
