"""A model's tokenizer as evaluations use it: the same ids and the same cuts for weights in memory and for a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from evals.children.lm_eval_model import new_tokens
from registry.errors import EngineFailure, SpecError


class Tokens:
    """Encodes and decodes text with the tokenizer in a folder; no remote code is run.

    Attributes:
        prefix: the id that stands before a text: beginning of sequence, else end of sequence.
        unknown: the id of text that the tokenizer cannot express, or None.
        max_length: the model's context in tokens.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.prefix = _prefix_token(self.tokenizer, config)
        self.unknown = self.tokenizer.unk_token_id
        self.max_length = _context_length(config, self.tokenizer)

    def encode(self, text: str) -> list[int]:
        """Return token ids of text alone: nothing added, and special tokens spelled in it stay text."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        return list(ids)

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the ids of a context and of its continuation.

        White space at the end of a context moves to its continuation, as tokens may span that border.
        """
        bare = context.rstrip()
        whole = self.encode(context + continuation)
        start = len(self.encode(bare)) if bare else 0
        return whole[:start], whole[start:]

    def prompt(self, context: str, settings: dict[str, Any]) -> tuple[list[int], int]:
        """Return the ids of a prompt, cut at its beginning where the completion needs the room, and that room."""
        new = new_tokens(settings)
        if new >= self.max_length:
            new = self.max_length // 2
        return [self.prefix, *self.encode(context)][-(self.max_length - new) :], new

    def chat_prompt(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        """Return a conversation as the model's template writes it. Raises SpecError for a model without one."""
        if not self.tokenizer.chat_template:
            raise SpecError("the model has no chat template", field="task", hint="take the template out of the task")
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )  # fmt: skip
        return str(text)


def _prefix_token(tokenizer: Any, config: Any) -> int:
    """Return the token that stands before a text: beginning of sequence, else end of sequence."""
    named = [getattr(config, name, None) for name in ("bos_token_id", "eos_token_id")]
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, *named):
        first = token[0] if isinstance(token, list) and token else token
        if isinstance(first, int):
            return first
    raise EngineFailure("the model has neither a begin nor an end token", hint="name `bos_token` in its tokenizer")


def _context_length(config: Any, tokenizer: Any) -> int:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = [getattr(text, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    known = [int(limit) for limit in limits if limit and limit < 1 << 20]
    return min(known, default=2048)
