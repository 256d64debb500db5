"""The endpoint in front of vLLM on a GPU: tokens per second through the gateway and past it, adapters, abort, fp8.

    python benchmarks/gpu_endpoint.py [--engine vllm] [--small] [--rounds 3]

A random Llama (1.2 billion parameters, bfloat16; `--small`: tiny, for any machine) with two random LoRA adapters is
served on a private socket by our launcher. The same streamed chats go straight to the engine and through the gateway
with the default policy, in turn; CPU of the gateway is the kernel's accounting. Then: two adapters answer differently,
a blocked answer stops the engine, and where there are GPUs for it the engine starts with fp8 weights and on two GPUs.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.load import cpu_seconds, free_port  # noqa: E402
from benchmarks.measure import hardware  # noqa: E402
from policies import engines  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "gpu_endpoint.json"
NAMES = ("base", "first", "second", "blocking")
KEY = "hk_00_secret"
SPOKEN = re.compile(rb'"content": ?"[^"]')


@dataclass(frozen=True)
class Size:
    """Shape of the model and of the load."""

    layers: int
    hidden: int
    inner: int
    heads: int
    callers: int
    requests: int
    tokens: int


LARGE = Size(16, 2048, 8192, 32, 64, 256, 256)
SMALL = Size(2, 128, 256, 4, 4, 8, 24)


def make_model(folder: Path, size: Size) -> int:
    """Write a random Llama with a byte-level tokenizer; return its parameters."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.llama import LlamaConfig, LlamaForCausalLM

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    sources = sorted(Path(os.__file__).parent.glob("*.py"))[:120]
    backend.train_from_iterator([path.read_text(errors="replace") for path in sources], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    wrapped.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        config = LlamaConfig(
            vocab_size=len(wrapped), hidden_size=size.hidden, intermediate_size=size.inner,
            num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=max(2, size.heads // 4),
            max_position_embeddings=2048, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False,
        )  # fmt: skip
        model = LlamaForCausalLM(config).to(torch.bfloat16 if device == "cuda" else torch.float32)
    model.save_pretrained(folder)
    return int(sum(parameter.numel() for parameter in model.parameters()))


def make_adapter(folder: Path, size: Size, seed: int) -> Path:
    """Write a random LoRA adapter of rank 8 on the query and value projections."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(seed)
    kv = size.hidden // size.heads * max(2, size.heads // 4)
    tensors = {}
    for layer in range(size.layers):
        for name, out in (("q_proj", size.hidden), ("v_proj", kv)):
            place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{place}.lora_A.weight"] = torch.randn(8, size.hidden) * 0.2
            tensors[f"{place}.lora_B.weight"] = torch.randn(out, 8) * 0.2
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0,
              "target_modules": ["q_proj", "v_proj"], "bias": "none", "fan_in_fan_out": False,
              "base_model_name_or_path": "base"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def run_gateway(uds: Path, port: int, folder: Path) -> None:
    """Serve base and adapters under the default policy, and one name whose policy blocks the first word."""
    from policies.access.authorize import Authorizer, ModelState
    from policies.access.callers import Callers, hash_secret
    from policies.bundle import compile_bundle, load
    from policies.endpoint.audit import DecisionLog
    from policies.endpoint.desk import Desk, Front
    from policies.endpoint.exchange import Served
    from policies.endpoint.gateway import Gateway
    from policies.endpoint.listener import Listener, bind, settled_memory
    from policies.endpoint.upstream import Upstream
    from policies.enforcement.engine import Enforcer
    from registry.journal import Journal

    default = ROOT / "policies" / "bundles" / "default"
    blocking = folder / "blocking"
    blocking.mkdir()
    for name in ("access.cedar", "access.cedarschema"):
        (blocking / name).write_text((default / name).read_text())
    rule = "{id: no-words, kind: regex, side: output, type: word, action: block, pattern: '[a-z][a-z][a-z]'}"
    (blocking / "bundle.yaml").write_text(f"name: blocking\nrules:\n  - {rule}\n")
    row = {
        "name": "mia",
        "groups": ["members"],
        "attributes": {},
        "key_id": "00",
        "key_hash": hash_secret("00", "secret"),
    }
    (folder / "journal").mkdir()
    decisions = DecisionLog(Journal(folder / "journal", "benchmark").append, endpoint="prod")
    loaded = {name: load(blocking if name == "blocking" else default) for name in NAMES}
    desks = []
    for name, bundle in loaded.items():
        served = Served("prod", name, name.replace("blocking", "base"), "sha256:c", f"sha256:{name}", bundle.digest)
        state = ModelState(name, "sha256:c", f"sha256:{name}", "certified")
        desks.append(Desk(served, state, Enforcer(compile_bundle(bundle)), Authorizer(bundle), Upstream(uds)))
    signal.signal(signal.SIGTERM, lambda *_: None)
    with settled_memory():
        Listener(
            Gateway(Front(Callers(lambda: [row]), decisions, os.urandom(32)), desks), bind("127.0.0.1", port)
        ).run()
    decisions.close()


@contextmanager
def gateway(uds: Path, folder: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Yield the port and the process of a gateway in front of an engine."""
    port = free_port()
    folder.mkdir()
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--child", "--uds", str(uds), "--port", str(port),
               "--folder", str(folder)]  # fmt: skip
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(
        [str(ROOT), os.environ.get("PYTHONPATH", "")])})  # fmt: skip
    try:
        for _ in range(600):
            try:
                asyncio.run(_connect(port))
                break
            except OSError:
                time.sleep(0.1)
        yield port, child
    finally:
        child.terminate()
        child.wait(30)


async def _connect(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def ask(place: Path | int, body: dict[str, Any]) -> dict[str, Any]:
    """Ask over a socket or a port; return status, text, tokens, seconds to the first text, headers."""
    opened = (
        asyncio.open_connection("127.0.0.1", place) if isinstance(place, int) else asyncio.open_unix_connection(place)
    )
    reader, writer = await opened
    raw = json.dumps(body).encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n")  # fmt: skip
    begun = time.perf_counter()
    writer.write(head.encode() + raw)
    pieces, first = [], 0.0
    while piece := await reader.read(1 << 16):
        pieces.append(piece)
        if not first and SPOKEN.search(piece):
            first = time.perf_counter() - begun
    data = b"".join(pieces)
    writer.close()
    header, _, payload = data.partition(b"\r\n\r\n")
    text, tokens = "", 0
    for line in payload.split(b"\n"):
        start = line.find(b"data: {")
        if start < 0:
            continue
        event = json.loads(line[start + 6 :].strip())
        for choice in event.get("choices", ()):
            text += choice["delta"].get("content") or ""
        tokens = (event.get("usage") or {}).get("completion_tokens") or tokens
    return {"status": int(header[9:12]), "text": text, "tokens": tokens, "first_s": first,
            "head": header.decode("latin-1").lower(), "raw": payload[-400:]}  # fmt: skip


def body_of(model: str, number: int, size: Size, **more: Any) -> dict[str, Any]:
    prompt = f"Request {number}: explain what this module does and where it is used. " * 4
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "max_tokens": size.tokens,
        "min_tokens": size.tokens,
        **more,
    }


async def load(place: Path | int, size: Size) -> dict[str, float]:
    """Put the whole load on a place; return tokens per second and seconds to the first text."""
    numbers = iter(range(size.requests))
    answers: list[dict[str, Any]] = []

    async def caller() -> None:
        for number in numbers:
            answers.append(await ask(place, body_of("base", number, size)))

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(size.callers)))
    seconds = time.perf_counter() - begun
    bad = [answer for answer in answers if answer["status"] != 200 or answer["tokens"] != size.tokens]
    if bad:
        raise RuntimeError(f"{len(bad)} of {len(answers)} answers are wrong: {bad[0]}")
    return {"tokens_per_s": size.requests * size.tokens / seconds,
            "first_text_ms": statistics.median(answer["first_s"] for answer in answers) * 1000}  # fmt: skip


def started(kind: str, model: Path, folder: Path, options: dict[str, Any]) -> tuple[engines.EngineHandle, float]:
    """Start an engine and wait for it; return it with the seconds that took."""
    begun = time.perf_counter()
    handle = engines.start(
        kind, model, folder / "e.sock", served_name="base", log=folder / "engine.log", options=options
    )
    handle.wait_ready(540)
    return handle, time.perf_counter() - begun


def compare(uds: Path, folder: Path, size: Size, rounds: int, *, adapters: bool) -> dict[str, Any]:
    """Measure the engine with and without the gateway in turn; check adapters and abort."""
    figures: dict[str, list[float]] = {}
    with gateway(uds, folder) as (port, child):
        for number in range(rounds + 1):
            for name, place in (("direct", uds), ("gateway", port)):
                before = cpu_seconds(child.pid)
                for key, value in asyncio.run(load(place, size)).items():
                    if number:  # the first round warms up
                        figures.setdefault(f"{name}_{key}", []).append(value)
                if number and name == "gateway":
                    spent = (cpu_seconds(child.pid) - before) * 1e6 / (size.requests * size.tokens)
                    figures.setdefault("gateway_cpu_us_per_token", []).append(spent)
        found: dict[str, Any] = {name: round(statistics.median(values), 2) for name, values in figures.items()}
        found["gateway_share_of_direct"] = round(found["gateway_tokens_per_s"] / found["direct_tokens_per_s"], 4)
        names = NAMES[:3] if adapters else NAMES[:1]
        answers = {name: asyncio.run(ask(port, body_of(name, 1, size))) for name in names}
        found["adapter_answers_differ"] = len({answer["text"] for answer in answers.values()}) == len(names)
        found["certificate_of_each"] = all(
            f"x-hallmark-certificate: sha256:{name}" in answer["head"] for name, answer in answers.items()
        )
        found |= _abort(port, uds, size)
    return found


def _abort(port: int, uds: Path, size: Size) -> dict[str, Any]:
    """Ask for a long answer that a rule blocks at its first word; return how the engine took it."""
    more = {"max_tokens": 1500, "min_tokens": 1500}
    answer = asyncio.run(ask(port, body_of("blocking", 1, size, **more)))
    time.sleep(1.0)
    running = _running(uds)
    return {"blocked_status": answer["status"], "blocked_text": len(answer["text"]), "running_after_block": running}


def _running(uds: Path) -> float | None:
    """Return the engine's own count of running requests, None where it has none."""

    async def scrape() -> bytes:
        reader, writer = await asyncio.open_unix_connection(uds)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        data = await reader.read()
        while piece := await reader.read():
            data += piece
        writer.close()
        return data

    for line in asyncio.run(scrape()).decode().splitlines():
        if line.startswith("vllm:num_requests_running"):
            return float(line.rpartition(" ")[2])
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", default="vllm")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("plain", "fp8", "two_gpus"), help="one of the engine's starts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--uds", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        return run_gateway(chosen.uds, chosen.port, chosen.folder)
    import torch

    size = SMALL if chosen.small else LARGE
    devices = torch.cuda.device_count()
    found: dict[str, Any] = {
        "benchmark": "gpu_endpoint", "date": datetime.datetime.now(datetime.UTC).date().isoformat(), **hardware(),
        "gpu": torch.cuda.get_device_name() if devices else "none", "torch": torch.__version__,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="hm-") as name:
        folder = Path(name)
        found["parameters"] = make_model(folder / "model", size)
        adapters = {n: make_adapter(folder / n, size, seed) for seed, n in enumerate(NAMES[1:3], 1)}
        options: dict[str, Any] = {"max_model_len": 2048 if not chosen.small else 256}
        if chosen.engine == "vllm" and devices:
            options["gpu_memory_utilization"] = 0.5
        runs: list[tuple[str, dict[str, Any]]] = [("plain", options)]
        if chosen.engine == "vllm":
            runs = [("plain", {**options, "adapters": adapters})]
            runs += [("fp8", {**options, "quantisation": "fp8"})] if devices else []
            runs += [("two_gpus", {**options, "tensor_parallel_size": 2})] if devices > 1 else []
        for label, wanted in [run for run in runs if chosen.only in (None, run[0])]:
            place = folder / label
            place.mkdir()
            try:
                handle, seconds = started(chosen.engine, folder / "model", place, wanted)
            except Exception as error:  # noqa: BLE001 - what does not start is a finding
                found[label] = f"did not start: {error} {getattr(error, 'hint', '')}"
                print(label, found[label], file=sys.stderr)
                continue
            try:
                got = compare(place / "e.sock", place / "gateway", size, chosen.rounds, adapters="adapters" in wanted)
                found |= {f"{label}_{key}": value for key, value in got.items()}
                found |= {f"{label}_start_s": round(seconds, 1), "engine": handle.version}
            finally:
                handle.stop()
            print(label, json.dumps({key: value for key, value in found.items() if key.startswith(label)}))
            if not chosen.small:
                chosen.out.parent.mkdir(exist_ok=True)
                chosen.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))
    return None


if __name__ == "__main__":
    main()
