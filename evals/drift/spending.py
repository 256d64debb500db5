"""How much of the false-alarm rate one check may use, when checks are repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from registry.workspace import Workspace

ALPHA = 0.05
"""How likely a check, or any cumulative check of a certificate, says `drift` at most when nothing has changed."""


@dataclass(frozen=True, slots=True)
class Level:
    """What one check may use: `alpha` of the total `ALPHA`; it is number `number` of its certificate."""

    mode: str
    number: int
    alpha: float

    @property
    def bound(self) -> str:
        """What is promised, in words."""
        if self.mode == "cumulative":
            return f"if nothing had changed, at most {ALPHA:.0%} of certificates would ever see such a check say drift"
        return (
            f"if nothing had changed, at most {ALPHA:.0%} of such checks would say drift; repeated checks add up:"
            f" {_repeated(30):.0%} within 30 independent ones at worst (`--cumulative` bounds all of them together)"
        )

    def plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"mode": self.mode, "number": self.number, "alpha": self.alpha, "bound": self.bound}


def level_of(ws: Workspace, alias: str, certificate: str, *, cumulative: bool) -> Level:
    """Return the level of the next check of an alias.

    Cumulative checks spend ALPHA / (k (k + 1)) at the k-th since the certificate was issued. These sum to ALPHA, so
    that the chance of any false alarm among all of them, however they overlap, is at most ALPHA (union bound). Checks
    that could compare nothing, neither traffic nor canaries, spent nothing; those of both modes count.
    """
    if not cumulative:
        return Level("single", 1, ALPHA)
    rows = ws.store.query(
        "SELECT count(*) AS n FROM asset WHERE kind = 'drift' AND name = ?"
        " AND json_extract_string(body, '$.check.certificate') = ?"
        " AND (json_extract_string(body, '$.verdict') != 'too_little_data'"
        " OR json_extract_string(body, '$.canaries.verdict') = 'quiet')",
        [alias, certificate],
    )
    number = int(rows[0]["n"]) + 1
    return Level("cumulative", number, ALPHA / (number * (number + 1)))


def _repeated(checks: int) -> float:
    return float(1 - (1 - ALPHA) ** checks)
