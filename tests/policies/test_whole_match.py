"""Patterns of whole answers: the check, Python's `re` and the engines' grammars agree on what is a match."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.authoring.reference import fits
from policies.bundle import load
from policies.enforcement.decode import DURING, constraint, stage
from policies.enforcement.pattern import PatternError
from policies.enforcement.rules import FormatRule
from policies.enforcement.whole_match import WholeMatch
from registry.errors import SpecError
from tests.policies.asking import chat, post, streamed
from tests.policies.enforcing import enforcer_of
from tests.policies.grammar import lets_through
from tests.policies.running import gateway_running
from tests.policies.test_lint import bundle, problems, write  # noqa: F401 - the fixture
from tests.stubs.engine import Script

ATOMS = st.sampled_from(
    ["a", "b", "[ab]", "(?:ab|b)", "a?", "b{1,2}", "(?:a|bb){1,2}", r"[^a\n]", r"\s", r"[\^\-\]\"/]", "é"]
)
PATTERNS = st.lists(st.lists(ATOMS, min_size=1, max_size=3).map("".join), min_size=1, max_size=2).map("|".join)
TEXTS = st.text('ab\né-^ "/', max_size=6)


def compiled(pattern: str) -> WholeMatch | None:
    try:
        return WholeMatch(pattern)
    except PatternError:
        return None  # a part of it may match nothing


@settings(max_examples=120, deadline=None)
@given(PATTERNS, st.lists(TEXTS, max_size=12))
def test_the_check_is_what_the_pattern_says(pattern: str, texts: list[str]) -> None:
    match = compiled(pattern)
    if match is None:
        assert re.fullmatch(f"(?:{pattern})", "") or any(re.fullmatch(part, "") for part in pattern.split("|"))
        return
    for text in texts:
        expected = bool(re.fullmatch(pattern, text))
        assert (match.accepts(text), fits(match.branches, text), bool(re.fullmatch(match.source, text))) == (
            (expected,) * 3
        ), (match.source, text)


SAME = [
    ("[A-Z]{2}-[0-9]{3,5}", ["AB-123"], ["AB-12", "AB-123\n", "xAB-123", ""]),
    (r"yes|no|n\.a\.", ["yes", "n.a."], ["yesno", "n-a-", "Yes"]),
    ('[^\\n"]{1,8}', ["abc", "\u00e4\u00df\u20ac", "\U0001f600"], ["a\nb", 'a"b', "a" * 9]),
    (r"[\s\-\]^/]{1,3}", [" -]", "^/", "\t\n"], ["a"]),
    (r"[\u00e0-\u00fc]{2}\$#~&'", ["\u00e0\u00fc$#~&'"], ["\u00e0\u00fc$#~&"]),
    (".{3}", ["abc", "\u00e9\u20ac\U0001d11e"], ["ab\n", "ab"]),
    (r"[\d\D]{2}", ["a\n"], ["a"]),
    (r"\w{1,3}\x01[\x00-\x1f]", ["a\x01\x02"], ["a\x02\x02"]),
    ("[\U0001f600-\U0001f64f]{1,2}", ["\U0001f600"], ["\U0001f600" * 3]),
]


@pytest.mark.parametrize(("pattern", "good", "bad"), SAME)
def test_engines_read_it_as_the_check_does(pattern: str, good: list[str], bad: list[str]) -> None:
    rule = FormatRule(id="r", kind="format", pattern=pattern)
    assert stage(rule) == DURING
    for text in (*good, *bad):
        assert rule.accepts(text) is (text in good)
        assert lets_through(constraint(rule), text) is (text in good)


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "good", "bad"), SAME)
def test_vllms_grammars_read_it_as_the_check_does(pattern: str, good: list[str], bad: list[str]) -> None:
    xgrammar = pytest.importorskip("xgrammar")
    from xgrammar.testing import _is_grammar_accept_string

    grammar = xgrammar.Grammar.from_regex(WholeMatch(pattern).source)
    assert [_is_grammar_accept_string(grammar, text) for text in good] == [True] * len(good)
    assert [_is_grammar_accept_string(grammar, text) for text in bad] == [False] * len(bad)


def test_a_hostile_answer_costs_no_more_than_its_length() -> None:
    match = WholeMatch("(?:a{0,8}a{0,8}a{0,8}b?){1,8}c")
    assert not match.accepts("a" * 190)
    assert match.accepts("a" * 190 + "c")


@pytest.mark.parametrize(("pattern", "why"), [(r"\bab", "leave"), ("a*", "unbounded"), ("a?", "may match nothing")])
def test_what_has_no_place_in_it_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(PatternError, match=why):
        WholeMatch(pattern)


def test_an_answer_that_does_not_fit_is_blocked_whole_and_streamed() -> None:
    enforcer = enforcer_of({"kind": "format", "side": "output", "pattern": "[0-9]{2,4}"})
    for text, blocked in (("123", None), ("12345", "r0"), ("\ud800", "r0")):
        assert enforcer.check_output(text).blocked == blocked
        stream = enforcer.stream()
        assert [stream.push(char).text for char in text] == [""] * len(text)
        assert stream.finish().text == ("" if blocked else text)


def test_the_check_of_a_bundle_names_patterns_that_contradict(bundle: Path) -> None:  # noqa: F811
    write(
        bundle, "id: code, kind: format, pattern: 'AB[0-9]{4}'", "id: two, kind: choice, choices: [AB1234]",
        "id: stop, kind: terms, side: output, type: t, action: block, whole_words: false, terms: [ab]",
        "id: short, kind: max_length, side: output, characters: 4",
    )  # fmt: skip
    said = [found.message for found in problems(bundle)]
    assert "rule `code`: each of 24 answers made from its pattern is blocked, by `stop`" in said
    assert "rules `code` and `two` both fix the answer's format" in said
    assert any("its shortest match has 6 characters, and `short`" in each for each in said)
    write(bundle, r"id: code, kind: format, pattern: '\bAB'")
    with pytest.raises(SpecError, match="leave"):
        load(bundle)


def test_the_engine_is_told_and_its_answer_is_checked(tmp_path: Path) -> None:
    rules = "name: form\nrules:\n  - {id: order, kind: format, pattern: '[A-Z]{2}-[0-9]{3}'}\n"
    with gateway_running(tmp_path, rules=rules) as run:
        run.engine.script = Script(["AB", "-12", "3"])
        assert streamed(run) == "AB-123"
        run.engine.script = Script(["AB", "-12", "3."])
        refused = post(run, chat())
        assert (refused.status_code, refused.json()["error"]["rules"]) == (400, ["order"])
        asked = [sent["structured_outputs"] for sent in run.engine.requests]
        assert asked == [{"regex": r"[A-Z]{2}\-[0-9]{3}"}] * 2
        own = post(run, chat(structured_outputs={"regex": "a"}), "otto")
        assert (own.status_code, own.json()["error"]["code"]) == (400, "format_is_fixed")
        assert len(run.engine.requests) == 2
