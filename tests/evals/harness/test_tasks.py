"""Planning: the same documents give the same questions, in any order, spread over clusters."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.harness.tasks import (
    PIECE_BYTES,
    Document,
    choose,
    pieces,
    plan_bits_per_byte,
    plan_exact_match,
    plan_next_line,
)
from evals.samples import make_sample
from registry.errors import SpecError


def documents(count=30):
    made = []
    for number in range(count):
        lines = [f"def function_{number}(first, second):"]
        lines += [f"    value_{line} = combine(first, {number + line}, second)" for line in range(9)]
        made.append(Document("\n".join(lines), {"path": f"file{number % 10}.py"}))
    return made


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=5000))
def test_pieces_are_bounded_and_in_order(text):
    found = pieces(text)
    assert all(len(piece.encode()) <= PIECE_BYTES for piece in found)
    place = 0
    for piece in found:
        place = text.index(piece, place) + len(piece)


def test_pieces_of_plain_lines_lose_nothing_but_a_short_rest():
    text = "".join(f"line number {number} of a long text\n" for number in range(200))
    assert "".join(pieces(text)) in (text, text[: len("".join(pieces(text)))])
    assert len("".join(pieces(text))) > len(text) - 64


@pytest.mark.parametrize("plan", [plan_bits_per_byte, plan_next_line])
def test_order_of_documents_changes_nothing(plan):
    made = documents()
    first = choose(plan(made, "path"), 20)
    random.Random(3).shuffle(made)
    assert choose(plan(made, "path"), 20) == first


def test_choose_takes_clusters_in_turn_and_each_sample_once():
    samples = [make_sample(f"text {number}", cluster=str(number % 5)) for number in range(50)] * 2
    chosen = choose(samples, 5)
    assert {sample.cluster for sample in chosen} == {"0", "1", "2", "3", "4"}
    everything = choose(samples, 1000)
    assert len({sample.id for sample in everything}) == len(everything) == 50
    assert everything[:5] == chosen


def test_next_line_offers_one_real_line_and_three_real_others():
    made = documents()
    lines = {line for document in made for line in document.text.split("\n")}
    samples = list(plan_next_line(made, "path"))
    assert len(samples) == len(made)
    for sample in samples:
        right = sample.choices[int(sample.target)]
        assert any(sample.input + right in document.text for document in made)
        assert len(set(sample.choices)) == 4
        assert all(choice[1:] in lines for choice in sample.choices)
    assert len({sample.target for sample in samples}) > 1


def test_cluster_must_be_a_field():
    with pytest.raises(SpecError, match="no field `file`"):
        list(plan_bits_per_byte(documents(), "file"))


def test_exact_match_needs_targets():
    rows = [Document("2 + 2 =", {"target": "4"})]
    assert [sample.target for sample in plan_exact_match(rows, "")] == ["4"]
    with pytest.raises(SpecError, match="target"):
        list(plan_exact_match([Document("2 + 2 =", {})], ""))
