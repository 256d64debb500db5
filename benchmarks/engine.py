"""Tokens per second of the built-in engine beside vLLM on the same CPU, and beside one `generate` call after another.

All run the same random Mistral (4M parameters, fp32) for the same requests, greedy, end of text ignored. Rounds are
interleaved and the median counts, so other load on the machine meets all alike. Run: `python benchmarks/engine.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

from policies.engines import EngineHandle, start

RESULTS = Path(__file__).parent / "results" / "engine.json"
MODEL_NAME = "bench"
VOCABULARY = 2048
CONTEXT = 512


def make_model(folder: Path) -> int:
    """Write a random Mistral with a byte-level tokenizer; return its number of parameters."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.mistral import MistralConfig, MistralForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [Path(module.__file__).read_text() for module in (argparse, asyncio.base_events, statistics, tempfile)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    wrapped.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=CONTEXT, sliding_window=None, bos_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def make_requests(count: int, tokens: int) -> list[dict[str, object]]:
    """Return bodies with prompts of 16 to 16 + count tokens."""
    return [
        {
            "model": MODEL_NAME, "temperature": 0, "max_tokens": tokens, "ignore_eos": True,
            "prompt": [(number * 7 + place) % (VOCABULARY - 10) + 5 for place in range(16 + number)],
        }
        for number in range(count)
    ]  # fmt: skip


async def _ask(uds: Path, body: dict[str, object]) -> int:
    # A bare client: an HTTP library would use as much CPU as the engine.
    reader, writer = await asyncio.open_unix_connection(str(uds))
    raw = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
    answer = await reader.read()
    writer.close()
    status, _, payload = answer.partition(b"\r\n\r\n")
    if b" 200 " not in status.split(b"\r\n")[0]:
        raise RuntimeError(answer.decode())
    return int(json.loads(payload)["usage"]["completion_tokens"])


def cpu_seconds(root: int) -> float:
    """Return the CPU time used by a process and its descendants."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)], used[int(stat.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    tree, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in tree} - tree
        tree, grown = tree | more, bool(more)
    return sum(used.get(pid, 0) for pid in tree) / os.sysconf("SC_CLK_TCK")


async def _all(uds: Path, bodies: list[dict[str, object]]) -> int:
    return sum(await asyncio.gather(*(_ask(uds, body) for body in bodies)))


def measure(engine: EngineHandle, bodies: list[dict[str, object]]) -> tuple[float, float]:
    """Return (tokens per second, tokens per CPU second) of one round."""
    cpu, begun = cpu_seconds(engine.pid), time.perf_counter()
    tokens = asyncio.run(_all(engine.uds, bodies))
    wall = time.perf_counter() - begun
    return tokens / wall, tokens / max(cpu_seconds(engine.pid) - cpu, 1e-2)


class Naive:
    """`transformers.generate`, one request after another, in this process."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()

    def measure(self, bodies: list[dict[str, object]]) -> tuple[float, float]:
        """Return (tokens per second, tokens per CPU second) of one round."""
        import torch

        cpu, begun, tokens = time.process_time(), time.perf_counter(), 0
        for body in bodies:
            prompt = torch.tensor([body["prompt"]])
            out = self._model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=body["max_tokens"],
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
            tokens += out.shape[1] - prompt.shape[1]
        return tokens / (time.perf_counter() - begun), tokens / (time.process_time() - cpu)


def processor() -> str:
    """Return the CPU's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def run(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Start both engines, measure all three by turns, and return the record."""
    parameters = make_model(folder / "model")
    bodies = make_requests(options.requests, options.tokens)
    engines: dict[str, EngineHandle] = {}
    seconds: dict[str, float] = {}
    rounds: dict[str, list[tuple[float, float]]] = {"transformers": [], "vllm": [], "one at a time": []}
    try:
        for kind in ("transformers", "vllm"):
            begun = time.perf_counter()
            engines[kind] = start(
                kind, folder / "model", folder / f"{kind}.sock", served_name=MODEL_NAME, log=folder / f"{kind}.log",
                options={"threads": options.threads},
            )  # fmt: skip
            engines[kind].wait_ready(600)
            seconds[kind] = round(time.perf_counter() - begun, 1)
            measure(engines[kind], bodies)  # warm
        naive = Naive(folder / "model")
        naive.measure(bodies[:1])
        load = os.getloadavg()[0]
        for _ in range(options.rounds):
            for kind, engine in engines.items():
                rounds[kind].append(measure(engine, bodies))
            rounds["one at a time"].append(naive.measure(bodies[: max(1, options.requests // 8)]))
        versions = {kind: engine.version for kind, engine in engines.items()}
    finally:
        for engine in engines.values():
            engine.stop()
    wall = {kind: statistics.median(one for one, _ in measured) for kind, measured in rounds.items()}
    cpu = {kind: statistics.median(one for _, one in measured) for kind, measured in rounds.items()}
    return {
        "benchmark": "engine", "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": processor(), "cores": len(os.sched_getaffinity(0)), "load_before": round(load, 2),
        "python": platform.python_version(), "versions": versions,
        "parameters": parameters, "requests": options.requests, "tokens_each": options.tokens,
        "rounds": options.rounds, "threads": options.threads,
        "tokens_per_second": {kind: round(value) for kind, value in wall.items()},
        "tokens_per_cpu_second": {kind: round(value) for kind, value in cpu.items()},
        "every_round": {kind: [round(one) for one, _ in measured] for kind, measured in rounds.items()},
        "seconds_to_start": seconds,
        "ours_over_vllm": round(wall["transformers"] / wall["vllm"], 2),
        "ours_over_one_at_a_time": round(wall["transformers"] / wall["one at a time"], 2),
    }  # fmt: skip


def main() -> int:
    """Print a table and one JSON line, write the results file; exit 1 when the engine is slower than half of vLLM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="OpenMP threads of each engine; default: the engine's own choice")
    parser.add_argument("--no-write", action="store_true", help="leave the results file as it is")
    options = parser.parse_args()
    # Spinning OpenMP threads would make the one-at-a-time loop ten times slower on a machine with other work.
    os.environ.update({"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"})
    with tempfile.TemporaryDirectory() as folder:
        record = run(options, Path(folder))
    print(
        f"{options.requests} concurrent requests of {options.tokens} tokens, {record['cores']} cores, {record['cpu']}"
    )
    print(f"{'engine':<16}{'tokens/s':>10}{'tokens/CPU s':>14}{'start, s':>10}")
    for kind, value in record["tokens_per_second"].items():
        begun = record["seconds_to_start"].get(kind, "")
        print(f"{kind:<16}{value:>10}{record['tokens_per_cpu_second'][kind]:>14}{begun:>10}")
    print(f"ours over vLLM: {record['ours_over_vllm']}   over one at a time: {record['ours_over_one_at_a_time']}")
    print(json.dumps(record))
    if not options.no_write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if record["ours_over_vllm"] >= 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
