"""Supervised fine-tuning through TRL: docstrings asked, signatures answered, only the answers trained on.

What the loss sees is checked and recorded: the decoded trained span of sample rows must be the answer and its EOS.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry.errors import EngineFailure, SpecError, Tampered, UnknownName
from training import checkpoint
from training.data.pairs import signature_pairs
from training.environment import describe, has_amx, threads_for
from training.export import export_model
from training.job import Job, Outcome, Report, read_texts
from training.recipe import Recipe

SAMPLES = 4
MARK = "hallmark.json"
OURS = frozenset({
    "output_dir", "max_steps", "num_train_epochs", "seed", "data_seed", "per_device_train_batch_size", "learning_rate",
    "max_length", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "max_grad_norm", "optim",
    "bf16", "fp16", "use_cpu", "save_strategy", "save_steps", "save_total_limit", "resume_from_checkpoint",
    "assistant_only_loss", "completion_only_loss", "chat_template_path", "trust_remote_code", "report_to",
    "push_to_hub", "hub_token", "hub_model_id", "disable_tqdm",
})  # fmt: skip
"""Arguments that the recipe's own fields decide, or that we never let a recipe change."""


def run(job: Job, report: Report) -> Outcome:
    """Fine-tune the job's base, resuming its newest checkpoint; write the model folder.

    Raises:
        SpecError, UnknownName: `trainer` names an argument that TRL has not, or that the recipe decides.
        EngineFailure: the loss mask does not fall on the answers; Tampered: a checkpoint was altered.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTTrainer

    recipe = job.recipe
    report("prepare", 0, 2, "pairs")
    newest, saved = _newest(job.checkpoints)
    tokenizer = AutoTokenizer.from_pretrained(job.base, trust_remote_code=False)
    rows, too_long = conversations(job, tokenizer)
    # From the checkpoint's own files first: the trainer's resume leaves some architectures' weights at their start.
    model = AutoModelForCausalLM.from_pretrained(newest or job.base, dtype=torch.float32, use_safetensors=True)
    _same_state(model, saved, newest)
    parameters = sum(p.numel() for p in model.parameters())
    threads = threads_for(parameters)
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and (device == "cuda" or has_amx()))
    arguments = make_arguments(recipe, job.checkpoints, bf16=bf16, cpu=device == "cpu")
    report("prepare", 1, 2, "trainer")
    watch = _watch(report, recipe, saved)
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        callbacks=[watch],
    )  # fmt: skip
    shown = trained_spans(trainer, tokenizer, rows)
    report("prepare", 2, 2, "")
    wall = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    wall = time.perf_counter() - wall
    export_model(trainer.model, job)
    tokens = int(trainer.state.num_input_tokens_seen) if arguments.include_num_input_tokens_seen != "no" else 0
    precision = "bf16" if bf16 else "fp32"
    environment = describe(threads=threads, device=device, precision=precision, seed=recipe.seed)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Outcome(
        state_digest=checkpoint.state_digest(checkpoint.untied(trainer.model)),
        steps=int(trainer.state.global_step),
        tokens=tokens,
        metrics={
            "train_loss": float(losses[-1]), "first_loss": float(losses[0]), "pairs": float(len(rows)),
            "pairs_too_long": float(too_long), "wall_s": round(wall, 3),
        },
        environment={**environment, "loss_mask": shown},
        architecture=type(trainer.model).__name__,
        parameters=parameters,
    )  # fmt: skip


def conversations(job: Job, tokenizer: Any) -> tuple[list[dict[str, Any]], int]:
    """Return the pairs as conversations that fit the sequence length, and how many did not."""
    texts = [text for item in job.inputs for text in read_texts(item.path)]
    rows, too_long = [], 0
    for question, answer in signature_pairs(texts):
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if len(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]) > job.recipe.sequence_length:
            too_long += 1  # cut, it would be trained on half an answer without its end
            continue
        rows.append({"messages": messages})
    if not rows:
        raise SpecError(
            "no documented function in the splits", field="data.splits", hint="name a split of Python source"
        )
    return rows, too_long


def make_arguments(recipe: Recipe, folder: Path, *, bf16: bool, cpu: bool) -> Any:
    """Return TRL's SFTConfig for a recipe; its `trainer` mapping may add what the recipe's fields do not decide."""
    from trl import SFTConfig

    known = {field.name for field in dataclasses.fields(SFTConfig)}
    for name in recipe.trainer:
        if name not in known:
            raise UnknownName("argument of TRL's SFTConfig", name, known)
        if name in OURS:
            raise SpecError(
                "this argument is decided by the recipe", field=f"trainer.{name}", hint="set the recipe's own field"
            )
    steps = recipe.budget.steps or 1
    fixed = {
        "output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": recipe.budget.batch,
        "learning_rate": recipe.optimiser.adamw_lr, "weight_decay": recipe.optimiser.weight_decay,
        "max_grad_norm": recipe.optimiser.clip, "optim": "adamw_torch", "max_length": recipe.sequence_length,
        "lr_scheduler_type": "warmup_stable_decay", "warmup_steps": int(steps * recipe.schedule.warmup),
        "lr_scheduler_kwargs": {
            "num_decay_steps": max(int(steps * recipe.schedule.decay), 1), "decay_type": "linear",
            "min_lr_ratio": recipe.schedule.floor,
        },
        "seed": recipe.seed, "data_seed": recipe.seed, "bf16": bf16, "use_cpu": cpu, "assistant_only_loss": True,
        "save_strategy": "steps", "save_steps": recipe.budget.save_every, "save_total_limit": checkpoint.KEEP,
        "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    defaults = {
        "gradient_checkpointing": False, "logging_steps": 5, "dataloader_pin_memory": not cpu,
        "include_num_input_tokens_seen": "all",
    }  # fmt: skip
    try:
        return SFTConfig(**{**defaults, **recipe.trainer, **fixed})
    except (TypeError, ValueError) as error:
        raise SpecError(f"TRL refuses the arguments: {error}", field="trainer", hint="see TRL's SFTConfig") from None


def trained_spans(trainer: Any, tokenizer: Any, rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Return what the loss sees of sample rows, decoded; raise EngineFailure unless it is the answer and its EOS."""
    shown = []
    for index in range(min(SAMPLES, len(rows))):
        batch = trainer.data_collator([trainer.train_dataset[index]])
        ids, labels = batch["input_ids"][0], batch["labels"][0]
        trained = tokenizer.decode(ids[labels != -100])
        expected = rows[index]["messages"][-1]["content"] + tokenizer.eos_token
        if trained != expected:
            raise EngineFailure(
                f"the loss falls on {trained!r}, not on the answer {expected!r}",
                hint="the chat template's generation marks must stand round the answer and its EOS",
            )
        shown.append({"row": tokenizer.decode(ids), "trained": trained})
    return shown


def _watch(report: Report, recipe: Recipe, saved: str | None) -> Any:
    """Return a trainer callback: progress, a hash beside every checkpoint, and the check that resuming kept it."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Reports progress; hashes weights at every save and after every resume."""

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            """Refuse to go on when the weights are not those of the checkpoint."""
            _same_state(model, saved, Path(args.output_dir))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            """Pass the figures on."""
            loss = (logs or {}).get("loss")
            note = f"step {state.global_step}" + (f" loss {loss}" if loss is not None else "")
            report("train", state.global_step, float(recipe.budget.steps or 1), note)

        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            """Mark the checkpoint complete, with the hash of its weights."""
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            mark = folder / f"{MARK}.tmp"
            mark.write_text(json.dumps({"state": checkpoint.state_digest(checkpoint.untied(model))}))
            for path in folder.iterdir():
                checkpoint.sync(path)
            mark.rename(folder / MARK)
            checkpoint.sync(folder)

    return Watch()


def _newest(folder: Path) -> tuple[Path | None, str | None]:
    """Return the newest complete checkpoint and the hash of its weights; both None when there is none."""
    marks = sorted(folder.glob(f"checkpoint-*/{MARK}"), key=lambda mark: int(mark.parent.name.rpartition("-")[2]))
    if not marks:
        return None, None
    return marks[-1].parent, str(json.loads(marks[-1].read_text())["state"])


def _same_state(model: Any, saved: str | None, where: Path | None) -> None:
    if saved and checkpoint.state_digest(checkpoint.untied(model)) != saved:
        raise Tampered(
            f"checkpoint `{where.name if where else ''}`: the loaded weights do not hash to the saved ones",
            hint=f"remove `{where}` to go on from the one before it",
        )
