"""What reproduces a run beside recipe and data: versions, processor, threads, and the digest of our own code."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "tokenizers", "safetensors", "numpy", "pyarrow",
            "rensa")  # fmt: skip
SMALL_MODEL = 20_000_000
MATRIX_UNITS = ("amx_bf16", "amx_tile", "avx512_bf16", "avx512f", "avx2", "asimd", "bf16", "sve")


def code_digest() -> str:
    """Return `sha256:<hex>` of the Python files of this package, so that a run names the code that made it."""
    state = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        state.update(f"{path.relative_to(root).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"sha256:{state.hexdigest()}"


def cpu() -> dict[str, Any]:
    """Return the processor's model name, its cores visible here, and the matrix units it has."""
    model, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = value
                break
    present = set(flags.split())
    return {"model": model, "cores": os.cpu_count() or 1, "units": [unit for unit in MATRIX_UNITS if unit in present]}


def has_amx() -> bool:
    """Say whether this processor multiplies bf16 matrices in AMX tiles, where bf16 autocast pays."""
    return {"amx_bf16", "amx_tile"} <= set(cpu()["units"])


def threads_for(parameters: int) -> int:
    """Return how many threads train a model of this size: small ones gain nothing from more than two."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 2) if parameters < SMALL_MODEL else cores


def describe(*, threads: int, device: str, precision: str, seed: int) -> dict[str, Any]:
    """Return everything that a reproduction must match or explain, as plain data."""
    import torch

    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    build = torch.__config__.show().splitlines()
    return {
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": packages,
        "torch_build": [line.strip(" -") for line in build if "Build settings" not in line][:12],
        "cpu": cpu(),
        "device": device,
        "accelerator": torch.cuda.get_device_name() if device == "cuda" else "",
        "threads": threads,
        "precision": precision,
        "seeds": {"recipe": seed, "torch": seed, "python": seed, "numpy": seed},
        "deterministic": device == "cpu",
        "code": code_digest(),
    }
