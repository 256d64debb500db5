"""Rules that code decides, validators and Python functions, in the form in which the guard worker gets them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policies.enforcement.rules import GuardrailsRule, PythonRule

SURFACES = ("chat", "completions", "responses")


@dataclass(frozen=True, slots=True)
class GuardRule:
    """A rule that the guard worker runs on a whole text. `validator` is `module:Class` or `/path/file.py:name`.

    `kind` is `guardrails` or `python`; `memory_mb` bounds the worker's address space, 0 leaves the kind's default.
    """

    id: str
    type: str
    action: str
    validator: str
    kwargs: dict[str, Any]
    deadline_s: float
    surfaces: tuple[str, ...] = SURFACES
    kind: str = "guardrails"
    memory_mb: int = 0

    def message(self) -> dict[str, Any]:
        """Return what the worker is told of the rule."""
        return {**asdict(self), "mark": f"[REDACTED:{self.type}]"}


def guard_rule(rule: GuardrailsRule | PythonRule, folder: Path) -> GuardRule:
    """Return a rule with its file found in the bundle's folder."""
    place, _, name = rule.target.partition(":")
    if place.endswith(".py"):
        place = str((folder / place).resolve())
    return GuardRule(
        rule.id, rule.type, rule.action, f"{place}:{name}", dict(rule.kwargs), rule.deadline_s, tuple(rule.surfaces),
        rule.kind, rule.memory_mb,
    )  # fmt: skip
