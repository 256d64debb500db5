"""lm-eval's model interface over a plain Hugging Face folder: batched log-likelihoods on CPU in float32."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from registry.errors import EngineFailure

BATCH_TOKENS = 1024
"""Padded tokens of one forward pass; less for a large vocabulary, whose logits are kept under `LOGIT_BYTES`."""
LOGIT_BYTES = 256 << 20
SMALL = 50_000_000
"""Below so many parameters, threads inside one operation mostly wait for each other: batches run side by side."""
MAX_NEW_TOKENS = 64


Job = tuple[list[int], list[int]]
"""Input ids, and the target ids that the last inputs predict."""


class CausalLM(LM):  # type: ignore[misc]
    """Scores and completes text with the weights in a folder.

    Args:
        folder: configuration, tokenizer and safetensors weights. No remote code is run.
        random_seed: None loads the weights; a number makes new ones from the configuration: the null model.
        tick: called with the number of requests finished since the last call, parts of requests included.
    """

    def __init__(self, folder: Path, *, random_seed: int | None = None, tick: Callable[[float], None]) -> None:
        super().__init__()
        self._tick = tick
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.model = _load(folder, random_seed).eval()
        self.prefix = _prefix_token(self.tokenizer, self.model.config)
        self.max_length = _context_length(self.model.config, self.tokenizer)
        vocabulary = int(self.model.get_output_embeddings().weight.shape[0])
        self.batch_tokens = max(self.max_length, min(BATCH_TOKENS, LOGIT_BYTES // (4 * vocabulary)))
        cores = len(os.sched_getaffinity(0))
        small = sum(weights.numel() for weights in self.model.parameters()) < SMALL
        self.workers, self.threads = (cores, 1) if small else (1, cores)
        torch.set_num_threads(self.threads)

    def encode(self, text: str) -> list[int]:
        """Return token ids of text alone: nothing added, and special tokens spelled in it stay text."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        return list(ids)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, whether greedy decoding would say it) of each continuation.

        White space at the end of a context moves to its continuation, as tokens may span that border.
        """
        jobs = []
        for context, continuation in (request.args for request in requests):
            bare = context.rstrip()
            whole = self.encode(context + continuation)
            start = len(self.encode(bare)) if bare else 0
            jobs.append(([self.prefix, *whole[:-1]], whole[start:]))
        return self._score(jobs)

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Return the log-probability (nats) of each whole text, every token predicted once, windows where needed.

        NaN where the tokenizer cannot express the text: fewer tokens would otherwise look like a better model.
        """
        jobs: list[Job] = []
        owners: list[int] = []
        lost = set()
        for number, (text,) in enumerate(request.args for request in requests):
            ids = self.encode(text)
            if not ids or self.tokenizer.unk_token_id in ids:
                lost.add(number)
                continue
            for window in get_rolling_token_windows(ids, self.prefix, self.max_length, 1):
                context, target = make_disjoint_window(window)
                jobs.append(([*context, *target[:-1]], target))
                owners.append(number)
        totals = [float("nan") if number in lost else 0.0 for number in range(len(requests))]
        share = len(requests) / max(1, len(jobs))
        for number, (score, _) in zip(owners, self._score(jobs, share), strict=True):
            totals[number] += score
        return totals

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Return greedy completions, cut at the first stop text."""
        return [self._complete(*request.args) for request in requests]

    def _complete(self, context: str, settings: dict[str, Any]) -> str:
        new = int(settings.get("max_gen_toks", MAX_NEW_TOKENS))
        ids = [self.prefix, *self.encode(context)][-(self.max_length - new) :]
        inputs = torch.tensor([ids])
        with torch.inference_mode():
            out = self.model.generate(
                inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=new, do_sample=False,
                pad_token_id=self.prefix,
            )  # fmt: skip
        text = str(self.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))
        for stop in settings.get("until") or []:
            text = text.split(stop, 1)[0]
        self._tick(1)
        return text

    def _score(self, jobs: Sequence[Job], share: float = 1.0) -> list[tuple[float, bool]]:
        """Score jobs in batches, longest first; a small model takes several batches at once, one thread each."""
        results: list[tuple[float, bool]] = [(float("nan"), False)] * len(jobs)
        order = sorted(range(len(jobs)), key=lambda number: -len(jobs[number][0]))
        batches = []
        while order:
            size = max(1, self.batch_tokens // min(self.max_length, len(jobs[order[0]][0])))
            batches.append(order[:size])
            order = order[size:]
        with ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(self.threads,)) as pool:
            scored = pool.map(lambda batch: self._forward([jobs[number] for number in batch]), batches)
            for batch, scores in zip(batches, scored, strict=True):
                for number, score in zip(batch, scores, strict=True):
                    results[number] = score
                self._tick(len(batch) * share)
        return results

    def _forward(self, jobs: Sequence[Job]) -> list[tuple[float, bool]]:
        inputs = [job[0][-self.max_length :] for job in jobs]
        width = max(len(ids) for ids in inputs)
        # Right padding and causal attention: what follows a token cannot change it, so no mask is needed.
        batch = torch.tensor([ids + [self.prefix] * (width - len(ids)) for ids in inputs])
        with torch.inference_mode():
            logits = self.model(input_ids=batch, use_cache=False).logits
            return [
                _scored(row[: len(ids)], targets[-len(ids) :])
                for row, ids, (_, targets) in zip(logits, inputs, jobs, strict=True)
            ]


def _scored(logits: torch.Tensor, targets: list[int]) -> tuple[float, bool]:
    """Return the log-probability of the targets at the last positions, and whether each was the likeliest."""
    if not targets:
        return float("nan"), False
    last = logits[len(logits) - len(targets) :].float()
    chosen = last.gather(1, torch.tensor(targets)[:, None])[:, 0]
    total = (chosen - last.logsumexp(-1)).double().sum().item()
    return total, bool((chosen >= last.amax(-1)).all())


def _load(folder: Path, random_seed: int | None) -> Any:
    if random_seed is None:
        return AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    torch.manual_seed(random_seed)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)


def _prefix_token(tokenizer: Any, config: Any) -> int:
    """Return the token that stands before a text: beginning of sequence, else end of sequence."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, config.bos_token_id, config.eos_token_id):
        first = token[0] if isinstance(token, list) and token else token
        if isinstance(first, int):
            return first
    raise EngineFailure("the model has neither a begin nor an end token", hint="name `bos_token` in its tokenizer")


def _context_length(config: Any, tokenizer: Any) -> int:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = [getattr(text, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    known = [int(limit) for limit in limits if limit and limit < 1 << 20]
    return min(known, default=2048)
