from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import SpecError
from training.data.pack import IGNORED, pack

DOCUMENTS = st.lists(st.integers(1, 20), min_size=3, max_size=12)


@given(DOCUMENTS, st.integers(2, 9), st.integers(0, 5))
def test_labels_stay_inside_one_document(lengths, length, seed):
    documents = [[number * 100 + place for place in range(size)] for number, size in enumerate(lengths)]
    if sum(lengths) < length:
        return
    packed = pack(documents, length, seed=seed)
    labels = packed.labels()
    assert packed.tokens.shape == (sum(lengths) // length, length)
    for row in range(len(packed)):
        for place in range(length):
            token, label = int(packed.tokens[row, place]), int(labels[row, place])
            if label != IGNORED:
                assert label == token + 1
                assert packed.positions[row, place + 1] == packed.positions[row, place] + 1
            elif place + 1 < length:
                assert packed.positions[row, place + 1] == 0
    flat = packed.tokens.flatten().tolist()
    assert len(set(flat)) == len(flat)


def test_too_little_text():
    with pytest.raises(SpecError, match="do not fill"):
        pack([[1, 2]], 8, seed=0)


def test_documents_in_one_sequence_cannot_see_one_another():
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        intermediate_size=48, max_position_embeddings=32, sliding_window=None, initializer_range=0.5,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    documents = [[(7 * n + 3 * i) % 64 for i in range(9 + n)] for n in range(4)]
    packed = pack(documents, 32, seed=0)
    tokens, positions = torch.from_numpy(packed.tokens).long(), torch.from_numpy(packed.positions).long()
    with torch.inference_mode():
        ours = model(input_ids=tokens, position_ids=positions, attention_mask=None, use_cache=False).logits
        leaky = model(
            input_ids=tokens, position_ids=positions, attention_mask=torch.ones_like(tokens), use_cache=False
        ).logits
        worst = leak = 0.0
        for row in range(len(tokens)):
            starts = [*(positions[row] == 0).nonzero().flatten().tolist(), 32]
            for begin, end in pairwise(starts):
                alone = model(input_ids=tokens[row : row + 1, begin:end], use_cache=False).logits[0]
                worst = max(worst, float((ours[row, begin:end] - alone).abs().max()))
                leak = max(leak, float((leaky[row, begin:end] - alone).abs().max()))
    assert worst < 1e-4
    assert leak > 0.05
