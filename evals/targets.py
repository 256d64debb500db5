"""What is measured: the weights in a private copy, or the guarded endpoint that serves the whole candidate."""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from registry.artifacts import remove_tree
from registry.errors import EngineFailure, Refused
from registry.protocols import GuardedEndpoint
from registry.records import Candidate, plain
from registry.workspace import Workspace

NULL_SEED = 20_240_229
"""The seed of the null model's weights."""


@dataclass(frozen=True, slots=True)
class WeightsTarget:
    """A model folder, every byte of which was checked against its manifest; `random_seed` replaces its weights."""

    folder: Path
    identity: dict[str, Any]
    random_seed: int | None = None


@dataclass(frozen=True, slots=True)
class EndpointTarget:
    """An OpenAI-compatible endpoint on this machine; `identity` is the candidate it serves."""

    base_url: str
    api_key: str
    headers: dict[str, str]
    identity: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        """Return what a harness child needs; it holds the key."""
        return {"base_url": self.base_url, "api_key": self.api_key, "headers": self.headers}


def weights_identity(candidate: Candidate, random_seed: int | None = None) -> dict[str, Any]:
    """Return what decides a log-likelihood: weights, tokenizer and quantisation, or the seed of random weights."""
    parts = plain(candidate)
    kept = {name: parts[name] for name in ("weights", "tokenizer", "quantisation")}
    return {**kept, "random_seed": random_seed}


@contextmanager
def open_weights(ws: Workspace, candidate: Candidate, *, random_seed: int | None = None) -> Iterator[WeightsTarget]:
    """Yield a private, verified copy of the candidate's model folder; it is removed afterwards.

    Raises Tampered, or Refused for a candidate with an adapter.
    """
    if candidate.adapter != "none":  # measured without it, the numbers would be those of another model
        raise Refused("the harness cannot load adapters", hint="merge the adapter into its base")
    with tempfile.TemporaryDirectory(dir=ws.work("evals"), prefix="weights-") as name:
        folder = ws.artifacts.checkout(candidate.weights, Path(name) / "model")
        try:
            yield WeightsTarget(folder, weights_identity(candidate, random_seed), random_seed)
        finally:
            remove_tree(folder)


def open_endpoint(endpoint: GuardedEndpoint, identity: dict[str, Any]) -> EndpointTarget:
    """Return the target of a running endpoint. Raises EngineFailure unless it listens on this machine."""
    host = urlsplit(endpoint.base_url).hostname or ""
    if host != "localhost" and not _loopback(host):
        raise EngineFailure(
            f"`{endpoint.base_url}` is not on this machine", hint="evaluations run against a loopback endpoint only"
        )
    return EndpointTarget(endpoint.base_url.rstrip("/"), endpoint.api_key, dict(endpoint.headers), identity)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
