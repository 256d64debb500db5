from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import SpecError
from training.data.mix import BLOCK, Mix


def make(weights=(3.0, 1.0), sizes=(50, 20), seed=0, batch=4) -> Mix:
    names = "abcdef"[: len(weights)]
    return Mix(dict(zip(names, sizes, strict=True)), dict(zip(names, weights, strict=True)), seed=seed, batch=batch)


@settings(max_examples=25)
@given(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4), st.integers(0, 3))
def test_proportions_hold_in_every_block_and_no_error_adds_up(weights, block):
    mix = make(tuple(weights), tuple(7 for _ in weights))
    counts = Counter(mix.slot(slot)[0] for slot in range(BLOCK * block, BLOCK * (block + 1)))
    for name, weight in zip("abcdef", weights, strict=False):
        assert abs(sum(mix.slot(s)[0] == name for s in range(BLOCK)) - BLOCK * weight / sum(weights)) <= 1
        assert abs(counts[name] - BLOCK * weight / sum(weights)) < 2


def test_every_epoch_shows_every_sequence_once():
    mix = make()
    seen = [index for name, index in (mix.slot(slot) for slot in range(400)) if name == "b"]
    assert sorted(seen[:20]) == list(range(20))
    assert sorted(seen[20:40]) == list(range(20))
    assert seen[:20] != seen[20:40]


@settings(max_examples=25)
@given(st.integers(0, 900))
def test_a_step_depends_on_seed_and_step_alone(step):
    straight = make()
    for earlier in range(max(0, step - 3), step):
        straight.step(earlier)
    assert make().step(step) == straight.step(step)


def test_seed_changes_the_order():
    assert [make(seed=0).step(i) for i in range(9)] != [make(seed=1).step(i) for i in range(9)]


@pytest.mark.parametrize(("weights", "sizes"), [((1.0, 0.001), (5, 5)), ((1.0, 1.0), (5, 0))])
def test_refused(weights, sizes):
    with pytest.raises(SpecError):
        make(weights, sizes)
