"""Scorers by name: what scores completions for a KPI, or rewards them in training. Rooms find them here, unimported."""

from __future__ import annotations

from registry.plugins import Plugins

SCORERS = Plugins("scorer", "hallmark.scorer", {"policy": "policies.authoring.reward:Reward"})
"""Name to class; `Class.open(folder, digest)` returns a `registry.protocols.Scorer` that is pinned to a digest."""
