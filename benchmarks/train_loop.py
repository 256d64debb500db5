"""Our training loop against a bare torch loop: same model, optimisers and packed batches, interleaved rounds.

The bare loop does what no loop can leave out: forward, loss, backward, clip, both optimisers. Ours adds the mixture's
order, the schedule, the smoothed loss, progress reports and checks. Figures are tokens per second of CPU time of the
process, so other work on the machine disturbs them little; rounds alternate, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from registry.specs import parse
from training.data.batches import Batches
from training.environment import describe, threads_for
from training.export import random_model
from training.pretrain import State, loop, make_optimisers
from training.recipe import Recipe
from training.tokenizer import encode_documents, train_tokenizer

RESULT = Path(__file__).parent / "results" / "train_loop.json"
RECIPE = """\
name: bench
method: pretrain
data: {dataset: d, splits: {stdlib: 1}}
model: {vocab: 2048, hidden: 128, layers: 4, heads: 2, kv_heads: 1, intermediate: 384}
sequence_length: 256
budget: {steps: STEPS, batch: 4, save_every: 1000000}
"""


def texts() -> list[str]:
    """Return this interpreter's own library, one text per file."""
    import sysconfig

    root = Path(sysconfig.get_paths()["stdlib"])
    return [path.read_text(encoding="utf-8", errors="replace") for path in sorted(root.glob("*.py"))[:80]]


def fresh(recipe: Recipe, tokenizer: object) -> State:
    torch.manual_seed(0)
    model = random_model(recipe.shape, tokenizer, longest=recipe.sequence_length)
    return State(model, make_optimisers(model, recipe.optimiser), "cpu", bf16=False)


def bare(recipe: Recipe, state: State, batches: list[tuple[torch.Tensor, ...]]) -> None:
    """Train on prepared tensors with nothing round it."""
    for tokens, positions, labels in batches:
        logits = state.model(input_ids=tokens, position_ids=positions, attention_mask=None, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.optimiser.clip)
        for optimiser in state.optimisers.values():
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)


def timed(work) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--steps", type=int, default=15)
    chosen = options.parse_args()
    recipe = parse(RECIPE.replace("STEPS", str(chosen.steps)), Recipe)
    corpus = texts()
    tokenizer = train_tokenizer(corpus, recipe.shape.vocab)
    documents = {"stdlib": encode_documents(tokenizer, corpus)}
    batches = Batches(documents, {"stdlib": 1.0}, length=recipe.sequence_length, batch=recipe.budget.batch, seed=0)
    prepared = [batches.tensors(step, "cpu") for step in range(chosen.steps)]
    parameters = sum(p.numel() for p in fresh(recipe, tokenizer).model.parameters())
    threads = threads_for(parameters)
    torch.set_num_threads(threads)
    tokens = chosen.steps * recipe.budget.batch * recipe.sequence_length
    bare(recipe, fresh(recipe, tokenizer), prepared[:3])  # warm up
    ours, theirs = [], []
    for round_ in range(chosen.rounds):
        one, two = fresh(recipe, tokenizer), fresh(recipe, tokenizer)
        runs = [
            (ours, lambda state=one: loop(recipe, batches, state, lambda *_: None)),
            (theirs, lambda state=two: bare(recipe, state, prepared)),
        ]
        for rates, work in runs if round_ % 2 else reversed(runs):
            rates.append(tokens / timed(work))
    figures = {
        "ours_tokens_per_cpu_s": round(statistics.median(ours), 1),
        "bare_tokens_per_cpu_s": round(statistics.median(theirs), 1),
        "ratio_of_medians": round(statistics.median(ours) / statistics.median(theirs), 4),
        "median_of_round_ratios": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 4),
        "rounds": chosen.rounds,
        "steps_per_round": chosen.steps,
        "parameters": parameters,
        "threads": threads,
    }
    print(f"{'loop':<22}{'median':>10}{'lowest':>10}{'highest':>10}   tokens per CPU-second")
    for name, rates in (("ours", ours), ("bare torch", theirs)):
        print(f"{name:<22}{statistics.median(rates):>10.0f}{min(rates):>10.0f}{max(rates):>10.0f}")
    print(f"{'ours / bare':<22}{figures['ratio_of_medians']:>10.3f}   goal: at least 0.97")
    environment = describe(threads=threads, device="cpu", precision="fp32", seed=0)
    kept = {name: environment[name] for name in ("cpu", "packages", "python", "system")}
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"date": date, "machine": platform.machine(), **kept, **figures}, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
