"""A model as a plain Hugging Face folder: safetensors, configuration, tokenizer, template; needs nothing of ours."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from training import checkpoint
from training.job import Job
from training.recipe import Shape
from training.tokenizer import BOS, EOS, PAD

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
CRUMBS = ("README.md", "training_args.bin")


def random_model(shape: Shape, tokenizer: Any, *, longest: int) -> Any:
    """Return a Mistral model of a shape with weights drawn from torch's current seed, in training mode."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head,
        intermediate_size=shape.intermediate,
        max_position_embeddings=longest,
        sliding_window=None,
        tie_word_embeddings=shape.tied,
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(EOS),
        pad_token_id=tokenizer.token_to_id(PAD),
    )
    return MistralForCausalLM(config).train()


def export_model(model: Any, job: Job) -> Path:
    """Write the job's model folder, whole or not at all; return it."""
    temporary = job.folder / f"model.tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    config = model.config
    model.generation_config.update(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        do_sample=False,
        use_cache=True,
    )
    config.use_cache = True
    model.save_pretrained(temporary)
    source = job.base or job.folder / "tokenizer"
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, temporary / name)
    for name in CRUMBS:
        (temporary / name).unlink(missing_ok=True)
    checkpoint.publish(temporary, job.model)
    return job.model
