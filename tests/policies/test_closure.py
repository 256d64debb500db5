"""The automata: matches by their ends, starts by the walk back, liveness, bounded tables."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import closure
from policies.closure import Automaton, Trail
from policies.pattern import parse


def ends_of(automaton: Automaton, text: str) -> list[tuple[int, int]]:
    """Return (start, end) of the longest match of each branch at each place where one ends."""
    state, found = automaton.enter(""), []
    for place, char in enumerate(text, 1):
        state = state[char]
        for _, part, places in state.accepts:
            start = automaton.leftmost(text, place, "", places, part)
            assert start is not None
            found.append((start, place))
    return found


@pytest.mark.parametrize(
    "pattern", ["ab{2,3}c?", "(?:a|ab){1,3}", "[ab]{3}", "a(?:b|ca){0,2}b", "(?:a?b){2}", "(?:a{1,2}b?){1,3}c"]
)
@settings(max_examples=60, deadline=None)
@given(text=st.text("abc", max_size=14))
def test_longest_match_at_every_end(pattern: str, text: str) -> None:
    compiled = re.compile(pattern)
    expected = []
    for end in range(1, len(text) + 1):
        starts = [start for start in range(end) if compiled.fullmatch(text, start, end)]
        expected += [(starts[0], end)] if starts else []
    assert ends_of(Automaton(parse(pattern), folded=False), text) == expected


@settings(max_examples=100, deadline=None)
@given(st.text("ab1", min_size=1, max_size=12), st.sampled_from(["ab{2,3}1", "(?:ab){1,3}1", r"\bab1", "[ab]{4}"]))
def test_live_exactly_when_some_continuation_matches(text: str, pattern: str) -> None:
    automaton = Automaton(parse(pattern), folded=False)
    state = automaton.enter("")
    for char in text:
        state = state[char]
    tails = ["", *(a + b + c for a in "ab1" for b in ("", *"ab1") for c in ("", *"ab1")), "ababa1", "bab1", "babab1"]
    compiled = re.compile(pattern)
    starts = [
        start
        for start in range(len(text))
        for tail in tails
        for end in range(len(text), len(text + tail) + 1)
        if compiled.match(text + tail, start, end) and compiled.match(text + tail, start, end).end() == end  # type: ignore[union-attr]
    ]
    walked = automaton.leftmost(text, len(text), "", state.places) if state.live else None
    assert walked == (min(starts) if starts else None)


def test_places_grow_with_length_not_with_its_square() -> None:
    assert Automaton(parse("a{5}b{0,100}"), folded=False).size == 105


def test_tables_are_dropped_when_they_grow_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure, "MOST_KEPT", 60)
    automaton = Automaton(parse(r"k[0-9a-z]{4}"), folded=True)
    text = "ak1234" + "".join(map(chr, range(0x4E00, 0x4F00))) + "K12\uff134 kabcd"
    assert ends_of(automaton, text) == [(1, 6), (262, 267), (268, 273)]


def test_a_walk_that_meets_an_earlier_one_ends_there() -> None:
    automaton = Automaton(parse("x[a-z]{3,500}"), folded=False)
    text, trail, steps = "x" + "a" * 400, Trail(0), []
    state = automaton.enter("")
    for place, char in enumerate(text, 1):
        state = state[char]
        for _, part, places in state.accepts:
            calls = _CountingText(text)
            assert automaton.leftmost(calls, place, "", places, part, trail) == 0
            steps.append(calls.reads)
    assert max(steps[1:]) <= 4


@pytest.mark.parametrize(
    "pattern",
    ["a(?:b?a){0,3}", "[ab]{1,4}a?", "(?:ab?|b){1,3}", "a|ba{1,6}", "(?:a|b{2})(?:ba){0,3}", "a?(?:b|aa){1,3}"],
)
@settings(max_examples=60, deadline=None)
@given(text=st.text("ab", max_size=24), data=st.data())
def test_a_trail_changes_no_answer(pattern: str, text: str, data: st.DataObject) -> None:
    automaton = Automaton(parse(pattern), folded=False)
    state, ending, live, cut = automaton.enter(""), Trail(0), Trail(0), 0
    for place, char in enumerate(text, 1):
        state = state[char]
        for trail, places in [(live, state.places), *((ending, accept[2]) for accept in state.accepts)]:
            expected = automaton.leftmost(text, place, "", places)
            trail.shift = cut
            found = automaton.leftmost(text[cut:place], place - cut, text[cut - 1 : cut], places, None, trail)
            assert (None if found is None else found + cut) == expected
        earliest = automaton.leftmost(text, place, "", state.places)
        cut = data.draw(st.integers(cut, place if earliest is None else earliest))


class _CountingText(str):
    """A text that counts how often a character of it is read."""

    reads = 0

    def __getitem__(self, place):
        self.reads += 1
        return super().__getitem__(place)
