"""The evidence bundle itself, as canonical JSON: the bytes that governance signs."""

from __future__ import annotations

from typing import Any

from registry.records import canonical


def render(doc: dict[str, Any]) -> str:
    """Return an evidence bundle as RFC 8785 canonical JSON, without a trailing newline: its digest is its identity."""
    return canonical(doc).decode()
