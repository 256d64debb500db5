"""Drawing tokens: against transformers' own filters, against the exact distribution, and row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from policies.engines.constraints import Constraints, choice_grammar
from policies.engines.decoding import Sequence
from policies.engines.sampling import NO_TOKEN, Sampler, _filtered
from policies.engines.text_stream import TextStream
from policies.engines.wire import Settings

EOS = 1


@pytest.fixture(scope="module")
def constraints(tokenizer: Any) -> Constraints:
    return Constraints(tokenizer.backend_tokenizer.to_str(), len(tokenizer), [EOS])


@pytest.fixture
def sampler(tokenizer: Any, constraints: Constraints) -> Sampler:
    return Sampler(len(tokenizer), [EOS], constraints, torch.device("cpu"))


@pytest.fixture
def row(tokenizer: Any, sampler: Sampler) -> Any:
    """Return a function that makes a prepared sequence of settings."""

    def make(prompt: tuple[int, ...] = (5,), matchers: tuple[Any, ...] = (), **settings: Any) -> Sequence:
        text = TextStream(tokenizer.backend_tokenizer)
        one = Sequence(0, list(prompt), Settings(**settings), 99, lambda news: None, text, matchers=list(matchers))
        one.structured = bool(matchers)
        sampler.prepare(one)
        return one

    return make


def _logits(rows: int, size: int) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(3)) * 2


@pytest.mark.parametrize(
    ("settings", "warper"),
    [
        ({"top_k": 7}, TopKLogitsWarper(7)),
        ({"top_p": 0.6}, TopPLogitsWarper(0.6)),
        ({"top_p": 1e-6}, TopPLogitsWarper(1e-6)),
        ({"min_p": 0.2}, MinPLogitsWarper(0.2)),
    ],
)
def test_filters_keep_what_transformers_keeps(row: Any, settings: dict[str, Any], warper: Any) -> None:
    logits = _logits(4, 512)
    kept = _filtered(logits.clone(), [row(**settings) for _ in range(4)]) > float("-inf")
    assert (kept == (warper(None, logits.clone()) > float("-inf"))).all()


def test_filters_of_one_row_leave_the_others_alone(row: Any) -> None:
    logits = _logits(3, 512)
    kept = (_filtered(logits.clone(), [row(), row(top_k=1), row(top_p=0.5)]) > float("-inf")).sum(-1).tolist()
    assert kept[0] == 512
    assert kept[1] == 1
    assert 1 < kept[2] < 512


def test_draws_follow_the_distribution(sampler: Sampler, row: Any) -> None:
    logits = torch.full((1, 512), float("-inf"))
    logits[0, [3, 200, 511]] = torch.tensor([0.2, 0.3, 0.5]).log()
    one = row(seed=1)
    drawn = [sampler.draw(logits.clone(), [one])[0] for _ in range(4000)]
    counts = {token: drawn.count(token) / 4000 for token in (3, 200, 511)}
    assert sum(counts.values()) == 1
    assert counts == pytest.approx({3: 0.2, 200: 0.3, 511: 0.5}, abs=0.03)


def test_a_seeded_row_draws_the_same_whatever_its_neighbours(sampler: Sampler, row: Any) -> None:
    logits = _logits(3, 512)
    alone = [row(seed=9, temperature=0.8, top_p=0.9)]
    together = [row(), row(seed=9, temperature=0.8, top_p=0.9), row(temperature=0)]
    first = [sampler.draw(logits[1:2].clone(), alone)[0] for _ in range(20)]
    second = [sampler.draw(logits.clone(), together)[1] for _ in range(20)]
    assert first == second
    assert len(set(first)) > 1


def test_greedy_rows_take_the_best(sampler: Sampler, row: Any) -> None:
    logits = _logits(4, 512)
    assert sampler.draw(logits.clone(), [row(temperature=0)] * 4) == logits.argmax(-1).tolist()


def test_biases_bans_and_allowed_tokens_move_the_choice(sampler: Sampler, row: Any) -> None:
    logits = _logits(4, 512)
    best = int(logits[0].argmax())
    rows = [
        row(temperature=0, logit_bias=((44, 100.0),)),
        row(temperature=0, allowed_token_ids=(7,)),
        row(temperature=0, logit_bias=((best, -100.0),)),
        row(temperature=0),
    ]
    tokens = sampler.draw(logits[:1].expand(4, -1).clone(), rows)
    assert tokens[:2] == [44, 7]
    assert tokens[2] == int(logits[0].topk(2).indices[1])
    assert tokens[3] == best


def test_text_does_not_end_before_min_tokens(sampler: Sampler, row: Any) -> None:
    logits = torch.zeros(1, 512)
    logits[0, EOS] = 9
    one = row(temperature=0, min_tokens=2)
    ended = []
    for _ in range(3):
        token = sampler.draw(logits.clone(), [one])[0]
        ended.append(token == EOS)
        one.tokens.append(token)
    assert ended == [False, False, True]


def test_repetition_penalty_equals_transformers(sampler: Sampler, row: Any) -> None:
    logits = _logits(1, 512)
    one = row(prompt=(3, 4, 5), temperature=0, repetition_penalty=1.7)
    one.rules.count(9)
    ours = logits[0].clone()
    one.rules.apply(ours, 1)
    theirs = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[3, 4, 5, 9]]), logits.clone())[0]
    assert torch.allclose(ours, theirs)


def test_presence_and_frequency_penalties_count_generated_tokens_only(row: Any) -> None:
    one = row(prompt=(3,), presence_penalty=0.5, frequency_penalty=0.25)
    for token in (9, 9, 10):
        one.rules.count(token)
    changed = torch.zeros(512)
    one.rules.apply(changed, 3)
    assert changed[[3, 9, 10, 11]].tolist() == [0, -1.0, -0.75, 0]


def test_rows_with_nothing_possible_are_told_apart(sampler: Sampler, row: Any, constraints: Constraints) -> None:
    bad = torch.zeros(4, 512)
    bad[0, 8] = float("nan")
    bad[2, 8] = float("inf")
    impossible = row(matchers=(constraints.matcher(choice_grammar(["a"])),), allowed_token_ids=(300,))
    tokens = sampler.draw(bad, [row(), row(temperature=0), row(temperature=0), impossible])
    assert tokens[0] == tokens[2] == tokens[3] == NO_TOKEN
    assert tokens[1] == 0
