"""Child process: the log-probability of every token of some texts, under the weights in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.children.link import Link, serve

BATCH = 8


def work(request: dict[str, Any], link: Link) -> None:
    """Write one JSON list of log-probabilities (nats) a text to `out`: {folder, texts, longest, out}.

    A text is cut after `longest` tokens, or at the model's context; the first token is predicted from the beginning
    of sequence. Fewer than two tokens give an empty list.
    """
    tokenizer = AutoTokenizer.from_pretrained(request["folder"], local_files_only=True, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        request["folder"], local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    ).eval()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    longest = min(int(request["longest"]), int(getattr(model.config, "max_position_embeddings", 1 << 20)) - 1)
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:longest] for text in request["texts"]]
    with Path(request["out"]).open("w", encoding="utf-8") as out:
        for start in range(0, len(ids), BATCH):
            for scores in _score(model, ids[start : start + BATCH], first):
                out.write(json.dumps(scores) + "\n")
            link.progress("token log-probabilities", min(start + BATCH, len(ids)), len(ids))


def _score(model: Any, batch: list[list[int]], first: int) -> list[list[float]]:
    width = max(len(ids) for ids in batch)
    if not width:
        return [[] for _ in batch]
    inputs = torch.tensor([[first, *ids, *[first] * (width - len(ids))] for ids in batch])
    with torch.inference_mode():  # what is padded on the right cannot change what stands before it
        logits = model(input_ids=inputs[:, :-1], use_cache=False).logits.float()
        chosen = logits.gather(2, inputs[:, 1:, None])[:, :, 0] - logits.logsumexp(-1)
    return [row[: len(ids)].tolist() if len(ids) > 1 else [] for row, ids in zip(chosen, batch, strict=True)]


if __name__ == "__main__":
    serve(work)
