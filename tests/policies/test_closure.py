"""The automata: matches by their ends, starts by the walk back, unions of matches, liveness, bounded tables."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.enforcement import closure
from policies.enforcement.closure import Automaton
from policies.enforcement.pattern import parse


def ends_of(automaton: Automaton, text: str) -> list[tuple[int, int]]:
    """Return (start, end) of the longest match of each branch at each place where one ends."""
    state, found = automaton.enter(""), []
    for place, char in enumerate(text, 1):
        state = state[char]
        for _, part, places in state.accepts:
            start, _ = automaton.leftmost(text, place, "", places, part)
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
    assert ends_of(Automaton(parse(pattern)), text) == expected


@settings(max_examples=100, deadline=None)
@given(st.text("ab1", min_size=1, max_size=12), st.sampled_from(["ab{2,3}1", "(?:ab){1,3}1", r"\bab1", "[ab]{4}"]))
def test_live_exactly_when_some_continuation_matches(text: str, pattern: str) -> None:
    automaton = Automaton(parse(pattern))
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
    walked = automaton.leftmost(text, len(text), "", state.places)[0] if state.live else None
    assert walked == (min(starts) if starts else None)


def test_places_grow_with_length_not_with_its_square() -> None:
    assert Automaton(parse("a{5}b{0,100}")).size == 105


def test_tables_are_dropped_when_they_grow_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure, "MOST_KEPT", 60)
    automaton = Automaton(parse(r"k[0-9a-z]{4}", view="folded"), ["folded"])
    text = "ak1234" + "".join(map(chr, range(0x4E00, 0x4F00))) + "K12\uff134 kabcd"
    assert ends_of(automaton, text) == [(1, 6), (262, 267), (268, 273)]


def test_views_are_read_side_by_side() -> None:
    patterns = [("ab", "exact"), ("ab", "plain"), ("ab", "folded"), ("ab", "lookalike")]
    automaton = Automaton([parse(p, view=v)[0] for p, v in patterns], [view for _, view in patterns])

    def found(text: str) -> set[str]:
        state = automaton.enter("")
        for char in text:
            state = state[char]
        return {patterns[branch][1] for branch, _, _ in state.accepts}

    assert found("ab") == {"exact", "plain", "folded", "lookalike"}
    assert found("a\u200bb") == {"plain", "folded", "lookalike"}
    assert found("\uff41b") == {"plain", "folded", "lookalike"}
    assert found("Ab") == found("\u00e1b") == {"folded", "lookalike"}
    assert found("\u0430b") == {"lookalike"}


@pytest.mark.parametrize(
    "pattern",
    [
        "a(?:b?a){0,3}",
        "[ab]{1,4}a?",
        "(?:ab?|b){1,3}",
        "a|ba{1,6}",
        "(?:a|b{2})(?:ba){0,3}",
        "a?(?:b|aa){1,3}",
        "a.{0,4}b",
    ],
)
@settings(max_examples=80, deadline=None)
@given(text=st.text("abc", max_size=24), data=st.data())
def test_one_walk_over_many_ends_finds_their_union(pattern: str, text: str, data: st.DataObject) -> None:
    automaton = Automaton(parse(pattern))
    state, ends, spans = automaton.enter(""), [], []
    for place, char in enumerate(text, 1):
        state = state[char]
        for branch, _, places in state.accepts:
            if branch == 0 and data.draw(st.booleans()):
                ends.append((place, places))
                spans.append((automaton.leftmost(text, place, "", places)[0], place))
    union: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if union and start < union[-1][1]:
            union[-1] = union[-1][0], max(end, union[-1][1])
        else:
            union.append((start, end))
    assert automaton.cover(text, "", ends)[0] == union


@pytest.mark.parametrize(
    ("pattern", "unit"), [("x[a-z]{3,500}", "xa"), (r"\bsk-[A-Za-z0-9_-]{20,200}", "sk-"), ("(?:a?b){2,300}", "ab")]
)
def test_the_work_for_a_character_does_not_grow_with_the_text(pattern: str, unit: str) -> None:
    automaton, text = Automaton(parse(pattern)), unit * 2000
    state, ends = automaton.enter(""), []
    for place, char in enumerate(text, 1):
        state = state[char]
        ends += [(place, accept[2]) for accept in state.accepts]
    spans, steps = automaton.cover(text, "", ends)
    assert len(spans) == 1
    assert steps < 6 * len(text)
