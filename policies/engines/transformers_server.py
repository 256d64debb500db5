"""The built-in engine as a process: loads a folder and serves it on a Unix socket. Run as a child by `start`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

from policies.engines import folder as model_folder
from policies.engines.batcher import Batcher
from policies.engines.child import QUIET, bind, cores, end_with_parent
from policies.engines.constraints import Constraints
from policies.engines.decoding import News
from policies.engines.intake import Intake
from policies.engines.language_model import LanguageModel
from policies.engines.sampling import Sampler
from policies.engines.service import Service, deliver
from policies.engines.wire import Defaults
from registry.errors import HallmarkError, Refused

logger = logging.getLogger(__name__)
MOST_ROWS = 64
CPU_CACHE = 4 << 30
BYTES_PER_THREAD = 4 << 20
UNNEEDED = ("sklearn", "mistral_common", "scipy", "pandas", "torchvision", "torchaudio", "librosa", "soundfile")
"""Packages that transformers imports where they are installed, at a cost of seconds, for things no text model needs."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the child's command line."""
    parser = argparse.ArgumentParser(prog="transformers_server", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--uds", type=Path, required=True)
    parser.add_argument("--served-name", required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="torch threads; default by cores and size of the weights")
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-batch", type=int, default=MOST_ROWS, help="sequences decoded together")
    parser.add_argument("--kv-cache-gib", type=float, help="memory for keys and values")
    parser.add_argument("--system-prompt-file", type=Path)
    parser.add_argument("--chat-template", type=Path)
    parser.add_argument("--generation-config", type=json.loads, help="JSON laid over generation_config.json")
    parser.add_argument("--adapters", type=json.loads, default={}, help="JSON of names to LoRA folders")
    parser.add_argument("--quantisation", help="as the candidate's: stored in the weights")
    parser.add_argument("--end-with-parent", action="store_true")
    return parser.parse_args(argv)


def main() -> int:
    """Serve until SIGTERM; a refusal is one line on standard error and exit code 2."""
    wanted = arguments()
    os.environ.update(QUIET)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    if wanted.end_with_parent:
        end_with_parent()
    for name in UNNEEDED:
        sys.modules[name] = None  # type: ignore[assignment]
    # The decoding thread must not wait long for the event loop's thread, nor the other way round.
    sys.setswitchinterval(0.0005)
    import uvloop

    try:
        uvloop.run(serve(wanted))
    except HallmarkError as error:
        logger.error("%s%s", error.message, f" ({error.hint})" if error.hint else "")  # noqa: TRY400 - no traceback
        return error.exit_code
    return 0


async def serve(wanted: argparse.Namespace) -> None:
    """Load the model, then listen: a socket that answers is a model that answers."""
    import uvicorn

    started = time.monotonic()
    listener = bind(wanted.uds)
    try:
        service, batcher = load(wanted, asyncio.get_running_loop())
        batcher.start()
        config = uvicorn.Config(
            service, http="httptools", lifespan="off", log_config=None, access_log=False, server_header=False,
            date_header=False, timeout_graceful_shutdown=5, ws="none",
        )  # fmt: skip
        # uvicorn ends on SIGTERM and then raises it again: ignored, so that what follows here still runs.
        signal.signal(signal.SIGTERM, lambda *_: None)
        logger.info("ready after %.1f s on %s", time.monotonic() - started, wanted.uds)
        await uvicorn.Server(config).serve(sockets=[listener])
        batcher.stop()
    finally:
        listener.close()
        wanted.uds.unlink(missing_ok=True)


def load(wanted: argparse.Namespace, loop: asyncio.AbstractEventLoop) -> tuple[Service, Batcher]:
    """Return the service over a loaded model, and its batcher, not yet started."""
    model_folder.check(wanted.model)
    if wanted.quantisation not in (None, model_folder.stored_quantisation(wanted.model)):
        raise Refused(f"the built-in engine cannot make weights {wanted.quantisation}", hint="serve them with vLLM")
    threads = _set_threads(wanted)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(wanted.model, trust_remote_code=False, local_files_only=True)
    adapters = {name: Path(folder) for name, folder in wanted.adapters.items()}
    model_folder.check_adapters(adapters, wanted.model)
    model = LanguageModel(wanted.model, dtype=wanted.dtype, device=wanted.device, adapters=adapters)
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    eos = model_folder.end_tokens(wanted.model, tokenizer.eos_token_id)
    budget = _cache_bytes(wanted, model) // model.bytes_per_token
    context = min(model_folder.context_length(wanted.model, wanted.max_model_len), budget)
    logger.info(
        "%s on %s, %d threads, context %d, keys and values for %d tokens",
        model.dtype, model.device, threads, context, budget,
    )  # fmt: skip
    constraints = Constraints(backend.to_str(), model.vocab_size, sorted(eos))
    sampler = Sampler(model.vocab_size, sorted(eos), constraints, model.device)

    def send(news: list[News]) -> None:
        loop.call_soon_threadsafe(deliver, news)

    batcher = Batcher(model, sampler, eos, send, most_rows=wanted.max_batch, budget=budget)
    template = model_folder.chat_template(
        wanted.model,
        system_prompt=wanted.system_prompt_file and wanted.system_prompt_file.read_text(encoding="utf-8"),
        template=wanted.chat_template and wanted.chat_template.read_text(encoding="utf-8"),
    )
    defaults = Defaults.of(model_folder.generation_config(wanted.model, wanted.generation_config))
    intake = Intake(tokenizer, template, context, model.vocab_size, defaults, constraints, batcher)
    return Service(intake, wanted.served_name, adapters), batcher


def _set_threads(wanted: argparse.Namespace) -> int:
    """Use more threads for larger weights only: a small model's layers are too short to be shared out."""
    import torch

    size = sum(file.stat().st_size for file in wanted.model.glob("*.safetensors"))
    threads: int = wanted.threads or max(1, min(cores(), size // BYTES_PER_THREAD))
    torch.set_num_threads(threads)
    return threads


def _cache_bytes(wanted: argparse.Namespace, model: LanguageModel) -> int:
    import torch

    if wanted.kv_cache_gib is not None:
        return int(wanted.kv_cache_gib * (1 << 30))
    if model.device.type == "cuda":
        return int(torch.cuda.mem_get_info(model.device)[0] * 0.8)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(CPU_CACHE, free // 3)


if __name__ == "__main__":
    sys.exit(main())
