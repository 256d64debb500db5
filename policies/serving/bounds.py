"""The limits of an endpoint that a workspace's settings name: requests at once, sizes, times, connections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from policies.endpoint.desk import Bounds
from policies.endpoint.edge import EdgeLimits
from registry.errors import SpecError

if TYPE_CHECKING:
    from registry.settings import Settings

_LONGEST_S = 86_400.0
_LARGEST = 1 << 30


@dataclass(frozen=True, slots=True)
class Range:
    """What a setting may be, both ends included; `field` is its name in `Bounds` or, on the edge, in `EdgeLimits`."""

    field: str
    low: float
    high: float
    whole: bool = True
    edge: bool = False


RANGES: Mapping[str, Range] = {
    "max_running": Range("running", 1, 1 << 16),
    "max_waiting": Range("waiting", 0, 1 << 16),
    "max_wait_s": Range("wait_s", 0, 600, whole=False),
    "max_body_bytes": Range("body_bytes", 1 << 10, _LARGEST),
    "max_body_s": Range("body_s", 0.1, 3600, whole=False),
    "max_bodies_bytes": Range("pending_bytes", 1 << 10, 1 << 40),
    "max_request_s": Range("request_s", 1, _LONGEST_S, whole=False),
    "max_answer_bytes": Range("answer_bytes", 1 << 10, _LARGEST),
    "max_connections": Range("connections", 1, 1 << 20, edge=True),
    "max_head_s": Range("head_s", 0.1, 3600, whole=False, edge=True),
    "max_idle_s": Range("idle_s", 0.1, _LONGEST_S, whole=False, edge=True),
    "max_stalled_s": Range("stalled_s", 0.1, _LONGEST_S, whole=False, edge=True),
    "max_handshake_s": Range("handshake_s", 0.1, 3600, whole=False, edge=True),
    "max_linger_s": Range("linger_s", 0.1, 600, whole=False, edge=True),
    "max_wire_bytes": Range("raw_bytes", 1 << 10, 1 << 34, edge=True),
}
"""Setting to the bound that it sets."""


def bounds_of(settings: Settings) -> Bounds:
    """Return the limits that a workspace's settings ask for.

    Raises:
        SpecError: a setting is no number, out of its range, or does not go with another; names it and its source.
    """
    found = {name: _value(settings, name, kind) for name, kind in RANGES.items()}
    for name in ("max_wire_bytes", "max_bodies_bytes"):
        if found[name] < found["max_body_bytes"]:
            raise SpecError(
                f"must be at least `max_body_bytes`, which is {found['max_body_bytes']:g}, not {found[name]:g}",
                field=name, hint=f"it comes from {settings.sources[name]}; no body of that size would arrive",
            )  # fmt: skip
    kinds = RANGES.items()
    edge = EdgeLimits(**{kind.field: found[name] for name, kind in kinds if kind.edge})  # type: ignore[arg-type]
    return Bounds(edge=edge, **{kind.field: found[name] for name, kind in kinds if not kind.edge})  # type: ignore[arg-type]


def _value(settings: Settings, name: str, kind: Range) -> float:
    value = settings.number(name)
    if not kind.low <= value <= kind.high or (kind.whole and value != int(value)):
        what = "a whole number" if kind.whole else "a number"
        raise SpecError(
            f"expected {what} from {kind.low:.15g} to {kind.high:.15g}, found `{settings[name]}`", field=name,
            hint=f"it comes from {settings.sources[name]}",
        )  # fmt: skip
    return int(value) if kind.whole else value
