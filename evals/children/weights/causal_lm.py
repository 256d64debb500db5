"""A plain Hugging Face folder as what answers lm-eval's requests: batched log-likelihoods on CPU in float32."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import AutoConfig, AutoModelForCausalLM

from evals.children.lm_eval_model import Question, Reply
from evals.children.weights.generate import complete
from evals.children.weights.tokens import Tokens
from registry.errors import EngineFailure

BATCH_TOKENS = 1024
"""Padded tokens of one forward pass; less for a large vocabulary, whose logits are kept under `LOGIT_BYTES`."""
LOGIT_BYTES = 256 << 20
SMALL = 50_000_000
"""Below so many parameters, threads inside one operation mostly wait for each other: batches run side by side."""
GROUP_BATCHES = 32
"""Whole texts are scored in groups of about so many batches: what is finished of a killed run is at least that."""

Job = tuple[list[int], list[int]]
"""Input ids, and the target ids that the last inputs predict."""


class CausalLM:
    """Scores and completes text with the weights in a folder: a `Backend`.

    Args:
        folder: configuration, tokenizer and safetensors weights. No remote code is run.
        random_seed: None loads the weights; a number makes new ones from the configuration: the null model.
    """

    def __init__(self, folder: Path, *, random_seed: int | None = None) -> None:
        self.tokens = Tokens(folder)
        self.model = _load(folder, random_seed).eval()
        self.tokenizer, self.prefix = self.tokens.tokenizer, self.tokens.prefix
        self.max_length = self.tokens.max_length
        vocabulary = int(self.model.get_output_embeddings().weight.shape[0])
        self.batch_tokens = max(self.max_length, min(BATCH_TOKENS, LOGIT_BYTES // (4 * vocabulary)))
        cores = len(os.sched_getaffinity(0))
        small = sum(weights.numel() for weights in self.model.parameters()) < SMALL
        self.workers, self.threads = (cores, 1) if small else (1, cores)
        torch.set_num_threads(self.threads)
        self._pool = ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(self.threads,))
        self._sampling = threading.Lock()

    def encode(self, text: str) -> list[int]:
        """Return token ids of text alone: nothing added, and special tokens spelled in it stay text."""
        return self.tokens.encode(text)

    def answer(self, questions: Sequence[Question], told: Callable[[int, Reply], None]) -> None:
        """Answer questions of one kind; see `evals.children.lm_eval_model.Backend`."""
        match questions[0].kind:
            case "loglikelihood":
                self._score_pairs(questions, told)
            case "loglikelihood_rolling":
                self._score_texts(questions, told)
            case "generate_until":
                self._generate(questions, told)
            case kind:
                raise EngineFailure(f"lm-eval asks for `{kind}`", hint="this version answers text requests only")

    def chat_prompt(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        """Return a conversation as the model's template writes it."""
        return self.tokens.chat_prompt(messages, add_generation_prompt=add_generation_prompt)

    def _score_pairs(self, questions: Sequence[Question], told: Callable[[int, Reply], None]) -> None:
        """Give (log-probability in nats, whether greedy decoding would say it) of each continuation."""
        jobs = []
        for question in questions:
            context, target = self.tokens.pair(*question.arguments)
            jobs.append(([self.tokens.prefix, *context, *target[:-1]], target))

        def scored(place: int, score: tuple[float, bool], ms: float) -> None:
            told(place, Reply([score[0], score[1]], ms, len(jobs[place][0][-self.max_length :])))

        self._score(jobs, scored)

    def _score_texts(self, questions: Sequence[Question], told: Callable[[int, Reply], None]) -> None:
        """Give the log-probability (nats) of each whole text, every token predicted once, windows where needed.

        NaN where the tokenizer cannot express the text: fewer tokens would otherwise look like a better model.
        """
        texts: dict[int, list[Job]] = {}
        for place, question in enumerate(questions):
            ids = self.tokens.encode(question.arguments[0])
            if not ids or self.tokens.unknown in ids:
                told(place, Reply(float("nan")))
                continue
            windows = get_rolling_token_windows(ids, self.tokens.prefix, self.max_length, 1)
            pairs = [make_disjoint_window(window) for window in windows]
            texts[place] = [([*context, *target[:-1]], list(target)) for context, target in pairs]
        for group in self._groups(texts):
            self._score_group({place: texts[place] for place in group}, told)

    def _score_group(self, texts: dict[int, list[Job]], told: Callable[[int, Reply], None]) -> None:
        jobs = [(place, job) for place, windows in texts.items() for job in windows]
        open_ = {place: len(windows) for place, windows in texts.items()}
        totals = dict.fromkeys(texts, 0.0)
        spent = dict.fromkeys(texts, 0.0)

        def scored(number: int, score: tuple[float, bool], ms: float) -> None:
            place = jobs[number][0]
            totals[place] += score[0]
            spent[place] += ms
            open_[place] -= 1
            if not open_[place]:
                told(place, Reply(totals[place], spent[place], sum(len(inputs) for inputs, _ in texts[place])))

        self._score([job for _, job in jobs], scored)

    def _groups(self, texts: dict[int, list[Job]]) -> Iterator[list[int]]:
        """Yield groups of texts of like length, longest first."""
        sizes = {place: sum(len(inputs) for inputs, _ in windows) for place, windows in texts.items()}
        group: list[int] = []
        room = GROUP_BATCHES * self.batch_tokens
        for place in sorted(sizes, key=lambda place: -sizes[place]):
            if group and room < sizes[place]:
                yield group
                group, room = [], GROUP_BATCHES * self.batch_tokens
            group.append(place)
            room -= sizes[place]
        if group:
            yield group

    def _generate(self, questions: Sequence[Question], told: Callable[[int, Reply], None]) -> None:
        """Complete each prompt; sampled ones one at a time, as the random numbers are the process's."""

        def one(question: Question) -> Reply:
            started = time.perf_counter()
            if question.sampled:
                with self._sampling:
                    text, asked, said = complete(self.model, self.tokens, question)
            else:
                text, asked, said = complete(self.model, self.tokens, question)
            return Reply(text, (time.perf_counter() - started) * 1000, asked, said)

        for place, reply in enumerate(self._pool.map(one, questions)):
            told(place, reply)

    def _score(self, jobs: Sequence[Job], scored: Callable[[int, tuple[float, bool], float], None]) -> None:
        """Score jobs in batches, longest first; a small model takes several batches at once, one thread each."""
        order = sorted(range(len(jobs)), key=lambda number: -len(jobs[number][0]))
        batches = []
        while order:
            size = max(1, self.batch_tokens // min(self.max_length, len(jobs[order[0]][0])))
            batches.append(order[:size])
            order = order[size:]
        found = self._pool.map(lambda batch: self._timed([jobs[number] for number in batch]), batches)
        for batch, (scores, ms) in zip(batches, found, strict=True):
            for number, score in zip(batch, scores, strict=True):
                scored(number, score, ms / len(batch))

    def _timed(self, jobs: Sequence[Job]) -> tuple[list[tuple[float, bool]], float]:
        started = time.perf_counter()
        return self._forward(jobs), (time.perf_counter() - started) * 1000

    def _forward(self, jobs: Sequence[Job]) -> list[tuple[float, bool]]:
        inputs = [job[0][-self.max_length :] for job in jobs]
        width = max(len(ids) for ids in inputs)
        # Right padding and causal attention: what follows a token cannot change it, so no mask is needed.
        batch = torch.tensor([ids + [self.tokens.prefix] * (width - len(ids)) for ids in inputs])
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
