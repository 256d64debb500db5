"""One completion with the weights in memory: greedy or sampled, ended at the first stop text."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from evals.children.lm_eval_model import Question, cut_at, stop_texts, temperature
from evals.children.weights.tokens import Tokens
from registry.records import canonical

PASSED = ("top_p", "top_k", "min_p", "repetition_penalty", "num_beams", "length_penalty", "no_repeat_ngram_size")
"""lm-eval's generation settings that transformers knows under the same name."""


def complete(model: Any, tokens: Tokens, question: Question) -> tuple[str, int, int]:
    """Return (completion, prompt tokens, completion tokens) of a `generate_until` question.

    A sampled completion is drawn with a seed that its request and occurrence decide, so it can be repeated. The
    caller must not sample twice at once: torch's random numbers belong to the process.
    """
    context, settings = question.arguments
    ids, new = tokens.prompt(context, settings)
    stops = stop_texts(settings)
    heat = temperature(settings)
    inputs = torch.tensor([ids])
    options = {name: settings[name] for name in PASSED if settings.get(name) is not None}
    if heat > 0:
        torch.manual_seed(int.from_bytes(hashlib.blake2b(canonical(question.plain()), digest_size=7).digest()))
        options |= {"temperature": heat}
    else:
        options = {name: value for name, value in options.items() if name not in ("top_p", "top_k", "min_p")}
    with torch.inference_mode():
        out = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=new, do_sample=heat > 0,
            pad_token_id=tokens.prefix, stopping_criteria=StoppingCriteriaList([_Said(tokens, len(ids), stops)]),
            **options,
        )  # fmt: skip
    said = out[0, len(ids) :].tolist()
    return cut_at(tokens.decode(said), stops), len(ids), len(said)


class _Said(StoppingCriteria):  # type: ignore[misc]
    """Ends a completion once it holds a stop text."""

    def __init__(self, tokens: Tokens, start: int, stops: list[str]) -> None:
        self._tokens, self._start, self._stops = tokens, start, stops

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Return, for each sequence, whether it holds a stop text."""
        texts = [self._tokens.decode(row[self._start :].tolist()) for row in input_ids] if self._stops else []
        found = [any(stop in text for stop in self._stops) for text in texts] or [False] * len(input_ids)
        return torch.tensor(found, device=input_ids.device)
