"""Token masks: exactly the wanted texts can be written, for any way of cutting them into tokens."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.engines.constraints import Constraints, choice_grammar, forbidden_grammar, grammar_of
from policies.engines.decoding import Sequence
from policies.engines.text_stream import TextStream
from policies.engines.wire import ChatBody, RequestError, Settings, StructuredOutputs

EOS = 1


@pytest.fixture(scope="module")
def constraints(tokenizer: Any) -> Constraints:
    return Constraints(tokenizer.backend_tokenizer.to_str(), len(tokenizer), [EOS])


def _sequence(tokenizer: Any, *matchers: Any) -> Sequence:
    text = TextStream(tokenizer.backend_tokenizer)
    return Sequence(0, [5], Settings(), 9, lambda news: None, text, matchers=list(matchers))


def _random_text(constraints: Constraints, tokenizer: Any, grammars: list[str], seed: int, most: int = 200) -> str:
    """Write a text by choosing allowed tokens at random until the end is chosen or nothing else is allowed."""
    rng, one, ids = random.Random(seed), _sequence(tokenizer, *map(constraints.matcher, grammars)), []
    while len(ids) < most:
        allowed = constraints.allowed([one])[0].nonzero()[0].tolist()
        token = rng.choice(allowed)
        if token == EOS:
            break
        ids.append(token)
        assert all(matcher.consume_token(token) for matcher in one.matchers)
        if one.matchers[0].is_stopped():
            break
    return str(tokenizer.backend_tokenizer.decode(ids))


@given(choices=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_only_the_given_choices_can_be_written(
    constraints: Constraints, tokenizer: Any, choices: list[str], seed: int
) -> None:
    assume(not any(special in text for special in ("<s>", "</s>", "<|") for text in choices))
    assert _random_text(constraints, tokenizer, [choice_grammar(choices)], seed) in choices


@pytest.mark.parametrize("text", ["a/b", 'say "no"\\', "line\nbreak\t", "[x](y)*+?{1}|^$.", "#&-~", "é😀\x00\x7f", "'"])
def test_special_characters_of_choices_are_taken_literally(constraints: Constraints, tokenizer: Any, text: str) -> None:
    assert _random_text(constraints, tokenizer, [choice_grammar([text])], 0) == text


@given(
    words=st.lists(st.text(alphabet="ae/i. *", min_size=1, max_size=2), min_size=1, max_size=3), seed=st.integers(0, 99)
)
def test_forbidden_words_never_appear_however_they_are_cut(
    constraints: Constraints, tokenizer: Any, words: list[str], seed: int
) -> None:
    text = _random_text(constraints, tokenizer, [forbidden_grammar(words)], seed, most=60)
    assert not any(word in text for word in words)


def test_forbidden_words_narrow_a_choice(constraints: Constraints, tokenizer: Any) -> None:
    grammars = [choice_grammar(["alpha", "beta"]), forbidden_grammar(["lph"])]
    # Both begin allowed; the first token of "alpha" may be taken, its word never finished.
    one = _sequence(tokenizer, *map(constraints.matcher, grammars))
    for token in tokenizer.backend_tokenizer.encode("beta").ids:
        assert constraints.allowed([one])[0][token]
        assert all(matcher.consume_token(token) for matcher in one.matchers)
    assert one.matchers[0].is_stopped()


def test_rows_have_their_own_masks(constraints: Constraints, tokenizer: Any) -> None:
    free, again = (_sequence(tokenizer, constraints.matcher(forbidden_grammar(["zzz"]))) for _ in range(2))
    bound = _sequence(tokenizer, constraints.matcher(choice_grammar(["a"])))
    masks = constraints.allowed([free, bound, again])
    assert masks.shape == (3, len(tokenizer))
    assert masks[1].sum() == 1
    assert (masks[0] == masks[2]).all()
    assert masks[0].sum() > 400


SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["x", "y"]}, "on": {"type": "boolean"}},
    "required": ["name", "on"],
    "additionalProperties": False,
}


def _body(**fields: Any) -> ChatBody:
    return ChatBody(model="m", messages=[], **fields)


@pytest.mark.parametrize(
    "body",
    [
        _body(structured_outputs=StructuredOutputs(json=SCHEMA)),
        _body(structured_outputs=StructuredOutputs(json=json.dumps(SCHEMA))),
        _body(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}),
    ],
)
def test_json_follows_its_schema(constraints: Constraints, tokenizer: Any, body: ChatBody) -> None:
    grammar = grammar_of(body)
    assert grammar is not None
    for seed in range(5):
        value = json.loads(_random_text(constraints, tokenizer, [grammar], seed))
        assert value["name"] in {"x", "y"}
        assert isinstance(value["on"], bool)
        assert set(value) == {"name", "on"}


@pytest.mark.parametrize(
    "body",
    [
        _body(structured_outputs=StructuredOutputs()),
        _body(structured_outputs=StructuredOutputs(regex="a", choice=["b"])),
        _body(structured_outputs=StructuredOutputs(json="{")),
        _body(structured_outputs=StructuredOutputs(regex="a"), response_format={"type": "json_object"}),
        _body(response_format={"type": "xml"}),
        _body(response_format={"type": "json_schema"}),
    ],
)
def test_contradicting_or_broken_requests_are_refused(body: ChatBody) -> None:
    with pytest.raises(RequestError):
        grammar_of(body)


@pytest.mark.parametrize("regex", ["[a", "(?=x)y", r"\bword\b"])
def test_a_regex_that_does_not_compile_is_refused_with_its_reason(constraints: Constraints, regex: str) -> None:
    grammar = grammar_of(_body(structured_outputs=StructuredOutputs(regex=regex)))
    assert grammar is not None
    with pytest.raises(RequestError, match="does not compile"):
        constraints.matcher(grammar)


def test_text_format_is_no_constraint() -> None:
    assert grammar_of(_body(response_format={"type": "text"})) is None
    assert grammar_of(_body()) is None
