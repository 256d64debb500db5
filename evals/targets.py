"""What is measured: the weights in a private copy, or an endpoint: guarded, a bare engine, or one the user named."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evals.scratch import claim_scratch
from registry.adapters import merge
from registry.errors import EngineFailure, Tampered
from registry.protocols import GuardedEndpoint
from registry.records import Candidate, digest_of, plain, sha256
from registry.workspace import Workspace

NULL_SEED = 20_240_229
"""The seed of the null model's weights."""
_NOT_NULL = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".md")
"""Files that a null model does not read: it has the architecture and tokenizer of the others."""
_SAID = ("template", "system_prompt", "generation")


@dataclass(frozen=True, slots=True)
class WeightsTarget:
    """A model folder, every byte of which was checked against its manifest; `random_seed` replaces its weights.

    `system_prompt` opens every conversation with it; log-likelihoods do not see it.
    """

    folder: Path
    identity: dict[str, Any]
    random_seed: int | None = None
    system_prompt: str = ""

    @property
    def size(self) -> int:
        """Bytes of the folder's files."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


@dataclass(frozen=True, slots=True)
class EndpointTarget:
    """An OpenAI-compatible endpoint; `identity` is what it serves, `model` what to ask for (empty: its only one).

    `tokenizer` is a folder with the tokenizer of what it serves, where that is known: harnesses can then send the very
    tokens that the weights would see in process.
    """

    base_url: str
    api_key: str
    headers: dict[str, str]
    identity: dict[str, Any]
    model: str = ""
    tokenizer: Path | None = None

    def plain(self) -> dict[str, Any]:
        """Return what a harness child needs; it holds the key."""
        named = {"model": self.model} if self.model else {}
        return {"base_url": self.base_url, "api_key": self.api_key, "headers": self.headers, **named}


def weights_identity(candidate: Candidate) -> dict[str, Any]:
    """Return what decides what weights say: they, an adapter, tokenizer, template, prompt, generation, quantisation."""
    parts = plain(candidate)
    adapter = {} if candidate.adapter == "none" else {"adapter": candidate.adapter}
    return {**{name: parts[name] for name in ("weights", "tokenizer", "quantisation", *_SAID)}, **adapter}


def null_identity(ws: Workspace, candidate: Candidate, random_seed: int) -> dict[str, Any]:
    """Return what decides a null model: everything of the candidate's folder but its weights, and the seed.

    Two versions of one architecture and tokenizer have the same null model, which is then measured once.
    """
    parts = plain(candidate)
    entries = ws.artifacts.manifest(candidate.weights).entries
    kept = {entry.path: entry.blake3 for entry in entries if not entry.path.endswith(_NOT_NULL)}
    return {"folder": digest_of(kept), "random_seed": random_seed, **{name: parts[name] for name in _SAID}}


def served_identity(candidate: Candidate, engine: str) -> dict[str, Any]:
    """Return what decides what a candidate's weights say in a bare engine, whatever engine it names itself."""
    own = {"own_engine": candidate.engine, "engine_version": candidate.engine_version}
    return {**weights_identity(candidate), "engine": engine, **own}


def write_tokenizer(ws: Workspace, candidate: Candidate, folder: Path) -> Path:
    """Write everything of a candidate's model folder but its weights, verified, and return the folder."""
    for entry in ws.artifacts.manifest(candidate.weights).entries:
        if not entry.path.endswith(_NOT_NULL):
            path = folder / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(ws.artifacts.read_bytes(entry.blake3))
    return folder


@contextmanager
def open_weights(ws: Workspace, candidate: Candidate, *, random_seed: int | None = None) -> Iterator[WeightsTarget]:
    """Yield a private, verified copy of the candidate's model folder, its adapter merged in; it is removed afterwards.

    Raises Tampered, or Refused for an adapter that is more than plain LoRA or does not fit (`registry.adapters`).
    """
    prompt = str(candidate.generation.get("system_prompt", ""))
    if prompt and sha256(prompt.encode()) != candidate.system_prompt:
        raise Tampered("the candidate's system prompt is not the one it names", hint="create the candidate again")
    identity = weights_identity(candidate) if random_seed is None else null_identity(ws, candidate, random_seed)
    with claim_scratch(ws, "weights") as scratch:
        folder = ws.artifacts.checkout(candidate.weights, scratch / "model")
        if candidate.adapter != "none" and random_seed is None:
            merge(folder, ws.artifacts.checkout(candidate.adapter, scratch / "adapter"))
        yield WeightsTarget(folder, identity, random_seed, prompt)


def open_endpoint(endpoint: GuardedEndpoint, identity: dict[str, Any], *, anywhere: bool = False) -> EndpointTarget:
    """Return the target of a running endpoint.

    Args:
        endpoint: where it is and how to ask it; its `model`, where it has one, names the model to ask for.
        identity: what answers there.
        anywhere: whether it may be on another machine, because the user named it.

    Raises:
        EngineFailure: it is on another machine and may not be, or its address is none.
    """
    parts = urlsplit(endpoint.base_url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise EngineFailure(f"`{endpoint.base_url}` is no address", hint="write it like `http://127.0.0.1:8000/v1`")
    if not anywhere and host != "localhost" and not _loopback(host):
        raise EngineFailure(
            f"`{endpoint.base_url}` is not on this machine",
            hint="only a KPI with `endpoint: url`, or a judge, may be elsewhere",
        )
    model = str(getattr(endpoint, "model", ""))
    return EndpointTarget(endpoint.base_url.rstrip("/"), endpoint.api_key, dict(endpoint.headers), identity, model)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
