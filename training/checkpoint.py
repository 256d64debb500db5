"""Atomic checkpoints: a folder appears whole or not at all, and its weights are hashed again when they are loaded."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import Tampered

META = "checkpoint.json"
KEEP = 2


@dataclass(frozen=True, slots=True)
class Progressed:
    """How far a run was at a checkpoint: the next step to take, and the seconds and figures that led there."""

    step: int
    elapsed: float
    metrics: dict[str, float]


def state_digest(state: Mapping[str, Any]) -> str:
    """Return `sha256:<hex>` over name, type, shape and bytes of every tensor of a state dict, by name."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu").contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def save(folder: Path, model: Any, optimisers: Mapping[str, Any], progressed: Progressed) -> Path:
    """Write a checkpoint durably into `folder`; older ones than the last two go. Return where it lies."""
    import torch
    from safetensors.torch import save_file

    final = folder / f"step-{progressed.step:08d}"
    temporary = folder / f"{final.name}.tmp-{os.getpid()}"
    temporary.mkdir(parents=True)
    weights = {name: tensor.detach().to("cpu").contiguous() for name, tensor in untied(model).items()}
    save_file(weights, temporary / "model.safetensors")
    meta: dict[str, Any] = {
        "state": state_digest(weights), "step": progressed.step, "elapsed": progressed.elapsed,
        "metrics": progressed.metrics, "python_rng": list(random.getstate()[1]), "optimisers": {},
    }  # fmt: skip
    tensors = {"torch_rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda_rng"] = torch.cuda.get_rng_state()
    for name, optimiser in optimisers.items():
        flat, scalars = _flatten(optimiser.state_dict()["state"])
        tensors |= {f"{name}.{key}": value for key, value in flat.items()}
        meta["optimisers"][name] = {"scalars": scalars, "state": state_digest(flat)}
    save_file(tensors, temporary / "optimisers.safetensors")
    (temporary / META).write_text(json.dumps(meta))
    publish(temporary, final)
    for old in _complete(folder)[:-KEEP]:
        shutil.rmtree(old)
    return final


def load(folder: Path, model: Any, optimisers: Mapping[str, Any]) -> Progressed | None:
    """Put the newest checkpoint of `folder` into model and optimisers; None when there is none.

    Raises:
        Tampered: what is in the model or an optimiser after loading does not hash to what was saved.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found = _complete(folder)
    if not found:
        return None
    newest = found[-1]
    try:
        meta = json.loads((newest / META).read_text())
        weights, tensors = load_file(newest / "model.safetensors"), load_file(newest / "optimisers.safetensors")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _refuse(newest, f"cannot be read: {error}") from None
    model.load_state_dict(weights, strict=False)
    if state_digest(untied(model)) != meta["state"]:
        raise _refuse(newest, "the loaded weights do not hash to the saved ones")
    for name, optimiser in optimisers.items():
        flat = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        whole = optimiser.state_dict()
        whole["state"] = _unflatten(flat, meta["optimisers"][name]["scalars"])
        optimiser.load_state_dict(whole)
        if state_digest(_flatten(optimiser.state_dict()["state"])[0]) != meta["optimisers"][name]["state"]:
            raise _refuse(newest, f"the loaded state of optimiser `{name}` does not hash to the saved one")
    torch.set_rng_state(tensors["torch_rng"])
    if "cuda_rng" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda_rng"])
    random.setstate((3, tuple(meta["python_rng"]), None))
    return Progressed(meta["step"], meta["elapsed"], meta["metrics"])


def publish(temporary: Path, final: Path) -> None:
    """Make a finished folder durable and give it its name in one step; one already there is replaced."""
    for path in [*temporary.rglob("*"), temporary]:
        sync(path)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    sync(final.parent)


def sync(path: Path) -> None:
    """Make one file, or the names in one folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _complete(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if ".tmp-" not in path.name)


def untied(model: Any) -> dict[str, Any]:
    """Return the state dict with every shared tensor once, under its first name."""
    seen: dict[int, str] = {}
    out = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen[tensor.data_ptr()] = name
            out[name] = tensor
    return out


def _flatten(state: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split an optimiser's state into tensors and plain numbers, both keyed `index.field`."""
    import torch

    tensors, scalars = {}, {}
    for index, fields in state.items():
        for name, value in fields.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value.detach().to("cpu").contiguous()
            else:
                scalars[f"{index}.{name}"] = value
    return tensors, scalars


def _unflatten(tensors: Mapping[str, Any], scalars: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    out: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **scalars}.items():
        index, _, name = key.partition(".")
        out.setdefault(int(index), {})[name] = value
    return out


def _refuse(where: Path, why: str) -> Tampered:
    return Tampered(f"checkpoint `{where.name}`: {why}", hint=f"remove `{where}` to go on from the one before it")
