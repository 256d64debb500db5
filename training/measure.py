"""Bits per byte of a model on texts: what a loss means whatever the tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from training.tokenizer import BOS, load_tokenizer


def bits_per_byte(folder: Path, texts: Sequence[str], *, batch: int = 16) -> float:
    """Return the bits a model spends per UTF-8 byte of texts.

    Every token of a text is predicted once, special tokens excluded; nats are summed over all texts and divided by
    their bytes and ln 2. A text longer than the model's context is cut into windows whose first token is predicted
    from the token before it; a text's first token from BOS.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
    tokenizer = load_tokenizer(folder)
    tokenizer.encode_special_tokens = True
    start = tokenizer.token_to_id(BOS)
    window = model.config.max_position_embeddings
    pieces: list[list[int]] = []
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        ids = [start, *encoding.ids]
        pieces += [ids[i : i + window + 1] for i in range(0, len(ids) - 1, window)]
    pieces.sort(key=len)
    nats = 0.0
    with torch.inference_mode():
        for begin in range(0, len(pieces), batch):
            group = pieces[begin : begin + batch]
            longest = max(map(len, group))
            tokens = torch.tensor([piece + [start] * (longest - len(piece)) for piece in group])
            wanted = torch.tensor([piece[1:] + [-100] * (longest - len(piece)) for piece in group])
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits  # padded on the right: causal, so unseen
            nats += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum"))
    size = sum(len(text.encode()) for text in texts)
    return nats / math.log(2) / max(size, 1)
