"""Pre-training and continued pre-training: one loop of our own, about as fast as a bare torch loop.

Muon moves the 2-D weights of the blocks, AdamW the rest. The batch of a step depends on seed and step alone, there is
no dropout, and checkpoints are exact: on CPU a run that was killed and resumed ends in the same bits.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from registry.errors import EngineFailure, SpecError
from training import checkpoint
from training.data.batches import Batches
from training.environment import describe, has_amx, threads_for
from training.export import export_model, random_model
from training.job import Job, Outcome, Report, read_texts
from training.recipe import Optimiser, Recipe
from training.tokenizer import bytes_per_token, encode_documents, load_tokenizer, save_tokenizer, train_tokenizer

REPORT_EVERY = 0.5
SAMPLE = 500


@dataclass(slots=True)
class State:
    """What a loop carries from step to step."""

    model: Any
    optimisers: dict[str, Any]
    device: str
    bf16: bool
    step: int = 0
    elapsed: float = 0.0
    loss: float = float("nan")


def run(job: Job, report: Report) -> Outcome:
    """Train as the job's recipe says, resuming its newest checkpoint; write the model folder.

    Raises:
        SpecError: the recipe does not fit data or base; Tampered: a checkpoint was altered; EngineFailure: the loss
            is no longer a number.
    """
    import torch

    recipe = job.recipe
    report("prepare", 0, 3, "tokenizer")
    tokenizer = _tokenizer(job)
    report("prepare", 1, 3, "sequences")
    batches, gain = _batches(job, tokenizer)
    report("prepare", 2, 3, "model")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe.seed)
    model = _model(job, tokenizer).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    threads = threads_for(parameters)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device == "cpu")
    bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and (device == "cuda" or has_amx()))
    state = State(model, make_optimisers(model, recipe.optimiser), device, bf16)
    _resume(job, state)
    report("prepare", 3, 3, "")
    first, wall, cpu = state.step, time.perf_counter(), time.process_time()
    loop(recipe, batches, state, report, job=job)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tokens = (state.step - first) * recipe.budget.batch * recipe.sequence_length
    export_model(model, job)
    metrics = {
        "train_loss": state.loss, "bytes_per_token": gain, "wall_s": round(wall, 3), "cpu_s": round(cpu, 3),
        "tokens_per_s": round(tokens / max(wall, 1e-9), 1), "resumed_at_step": float(first),
        **{f"sequences_{name}": float(len(packed)) for name, packed in batches.packed.items()},
    }  # fmt: skip
    precision = "bf16" if bf16 else "fp32"
    return Outcome(
        state_digest=checkpoint.state_digest(checkpoint.untied(model)),
        steps=state.step,
        tokens=state.step * recipe.budget.batch * recipe.sequence_length,
        metrics=metrics,
        environment=describe(threads=threads, device=device, precision=precision, seed=recipe.seed),
        architecture=type(model).__name__,
        parameters=parameters,
    )


def loop(recipe: Recipe, batches: Batches, state: State, report: Report, *, job: Job | None = None) -> None:
    """Train `state` in place to the end of the budget; with a job, write its checkpoints on the way."""
    import torch

    total = recipe.budget.total_steps(recipe.sequence_length)
    whole = float(total or recipe.budget.seconds or 1)
    base, began, reported = state.elapsed, time.perf_counter(), 0.0
    smooth: torch.Tensor | None = torch.tensor(state.loss, device=state.device) if state.step else None
    while True:
        state.elapsed = base + time.perf_counter() - began
        done = (state.step if total else state.elapsed) / whole
        if done >= 1:
            break
        loss = step(state, batches.tensors(state.step, state.device), recipe, done)
        smooth = loss if smooth is None else smooth.lerp(loss, 0.05)
        state.step += 1
        if state.elapsed - reported > REPORT_EVERY or state.step == total:
            reported, state.loss = state.elapsed, _number(smooth, state.step)
            rate = state.step * recipe.budget.batch * recipe.sequence_length / max(state.elapsed, 1e-9)
            spent = state.step if total else min(state.elapsed, whole)
            report("train", spent, whole, f"loss {state.loss:.3f}, {rate:,.0f} tokens/s")
        if job and state.step % recipe.budget.save_every == 0 and state.step != total:
            state.loss = _number(smooth, state.step)
            progressed = checkpoint.Progressed(state.step, state.elapsed, {"loss": state.loss})
            checkpoint.save(job.checkpoints, state.model, state.optimisers, progressed)
    if smooth is not None:
        state.loss = _number(smooth, state.step)
    report("train", whole, whole, f"loss {state.loss:.3f}")


def step(state: State, batch: tuple[Any, Any, Any], recipe: Recipe, done: float) -> Any:
    """Take one step at the share `done` of the budget; return the loss in nats per token, detached."""
    import torch
    from torch.nn.functional import cross_entropy

    tokens, positions, labels = batch
    with torch.autocast(state.device, dtype=torch.bfloat16, enabled=state.bf16):
        # No mask and no cache: only then do positions that start again at 0 keep documents apart.
        logits = state.model(input_ids=tokens, position_ids=positions, attention_mask=None, use_cache=False).logits
    loss = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)
    loss.backward()
    if recipe.optimiser.clip:
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.optimiser.clip)
    factor = recipe.schedule.factor(done)
    for name, optimiser in state.optimisers.items():
        peak = recipe.optimiser.lr if name == "muon" else recipe.optimiser.adamw_lr
        for group in optimiser.param_groups:
            group["lr"] = peak * factor
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return loss.detach()


def make_optimisers(model: Any, spec: Optimiser) -> dict[str, Any]:
    """Return the optimisers by name: Muon for 2-D weights of the blocks, AdamW for embeddings, head and norms."""
    import torch

    inner = {id(p) for p in model.model.layers.parameters() if p.ndim == 2} if spec.name == "muon" else set()
    outer = [p for p in model.parameters() if id(p) not in inner]
    rest = torch.optim.AdamW(outer, lr=spec.adamw_lr, betas=(0.9, 0.95), weight_decay=spec.weight_decay)
    if not inner:
        return {"adamw": rest}
    blocks = [p for p in model.parameters() if id(p) in inner]
    muon = torch.optim.Muon(blocks, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)
    return {"muon": muon, "adamw": rest}


def _tokenizer(job: Job) -> Any:
    """Return the base's tokenizer, or one learned from the job's texts; learned once per job."""
    if job.base:
        return load_tokenizer(job.base)
    kept = job.folder / "tokenizer"
    if not kept.is_dir():
        texts = [text for path in job.vocabulary for text in read_texts(path)]
        temporary = job.folder / f"tokenizer.tmp-{os.getpid()}"
        temporary.mkdir()
        learned = train_tokenizer(texts, job.recipe.shape.vocab)
        save_tokenizer(learned, temporary, longest=job.recipe.sequence_length)
        checkpoint.publish(temporary, kept)
    return load_tokenizer(kept)


def _batches(job: Job, tokenizer: Any) -> tuple[Batches, float]:
    """Return the batches of the run, and the tokenizer's bytes per token over the first rows of its texts."""
    documents, sample = {}, []
    for item in job.inputs:
        texts = read_texts(item.path)
        sample += texts[:SAMPLE]
        documents[item.name] = encode_documents(tokenizer, texts)
    recipe = job.recipe
    weights = {item.name: item.share for item in job.inputs}
    batches = Batches(documents, weights, length=recipe.sequence_length, batch=recipe.budget.batch, seed=recipe.seed)
    return batches, round(bytes_per_token(tokenizer, sample), 4)


def _model(job: Job, tokenizer: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    recipe = job.recipe
    if job.base is None:
        return random_model(recipe.shape, tokenizer, longest=recipe.sequence_length)
    model = AutoModelForCausalLM.from_pretrained(
        job.base, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    )
    longest = model.config.max_position_embeddings
    if recipe.sequence_length > longest:
        raise SpecError(
            f"{recipe.sequence_length} is longer than the base's {longest} positions",
            field="sequence_length",
            hint=f"at most {longest}",
        )
    return model.train()


def _resume(job: Job, state: State) -> None:
    reached = checkpoint.load(job.checkpoints, state.model, state.optimisers)
    if reached:
        state.step, state.elapsed, state.loss = reached.step, reached.elapsed, reached.metrics["loss"]


def _number(loss: Any, step: int) -> float:
    value = float(loss)
    if value != value or value == float("inf"):
        raise EngineFailure(f"the loss is {value} at step {step}", hint="lower the learning rates or warm up longer")
    return value
