"""Min-K %: the mean of the least likely tokens, compared as ranks; a model that learned texts by heart is noticed."""

import math
import random

import pytest

from evals.min_k import familiarity, min_k, token_logprobs
from registry.errors import SpecError
from registry.records import Candidate
from tests.evals.conftest import code


def test_the_least_likely_share_is_averaged():
    assert min_k([-1.0, -9.0, -2.0, -7.0, -3.0], 0.4) == -8.0
    assert min_k([-1.0, -9.0, -2.0], 0.01) == -9.0
    assert math.isnan(min_k([]))


def test_ranks_give_a_chance_and_an_interval():
    draws = random.Random(3)
    fresh = [draws.gauss(0, 1) for _ in range(300)]
    same = familiarity("k", [draws.gauss(0, 1) for _ in range(200)], fresh)
    assert same.low < 0.5 < same.high
    assert not same.suspect
    known = familiarity("k", [draws.gauss(1, 1) for _ in range(200)], fresh)
    assert known.chance == pytest.approx(0.76, abs=0.04)  # Phi(1 / sqrt(2))
    assert known.suspect
    assert "look closer" in known.render()
    assert familiarity("k", [5.0] * 30, [1.0] * 30).chance == 1.0
    assert familiarity("k", [1.0] * 30, [1.0] * 30).chance == 0.5


def test_too_few_texts_say_nothing():
    with pytest.raises(SpecError, match="19 samples and 300 fresh texts"):
        familiarity("k", [1.0] * 19 + [math.nan], [1.0] * 300)


@pytest.mark.slow
def test_token_log_probabilities_are_those_of_the_model(ws, candidate, tiny_model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = [code(1), "x = 1", ""]
    found = token_logprobs(ws, ws.get(candidate.id, Candidate), texts)
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    assert [len(each) for each in found] == [127, len(tokenizer(texts[1], add_special_tokens=False)["input_ids"]), 0]
    for text, scores in zip(texts[:2], found, strict=False):
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"][: len(scores)]]
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = [float(logits[at, ids[at + 1]]) for at in range(len(ids) - 1)]
        assert scores == pytest.approx(expected, abs=1e-4)
