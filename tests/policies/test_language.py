"""The language rule: what is told, what is not, and that a text is judged to its end on both sides."""

from __future__ import annotations

import pytest

from policies.enforcement.language import PART, speaks
from tests.policies.enforcing import enforcer_of, streamed

ENGLISH = "The rule is the same for all of you, and it was not made to be broken by those who wrote it. "
GERMAN = "Die Regel ist für alle gleich, und sie wurde nicht gemacht, um von denen gebrochen zu werden. "
KOREAN = "규칙은 모두에게 같으며, 어기라고 만든 것이 아니다. "
CODE = "x = [3, 4, 5]\nprint(x[1:2])\n"


@pytest.mark.parametrize(
    ("text", "languages", "passes"),
    [
        (ENGLISH, {"en"}, True),
        (ENGLISH, {"de", "fr"}, False),
        (GERMAN, {"de"}, True),
        (GERMAN, {"en"}, False),
        (KOREAN, {"en"}, False),
        (CODE, {"en"}, True),
        ("Nein.", {"en"}, True),
        ("", {"en"}, True),
    ],
)
def test_what_is_told(text: str, languages: set[str], passes: bool) -> None:
    assert speaks(text, languages, {"latin"}, unknown=True) is passes


def test_what_is_not_told_may_be_refused() -> None:
    assert not speaks(CODE, {"en"}, {"latin"}, unknown=False)
    assert not speaks("Hello.", {"en"}, {"latin"}, unknown=False)
    assert speaks(ENGLISH, {"en"}, {"latin"}, unknown=False)


def test_a_script_may_be_allowed() -> None:
    assert speaks(KOREAN, {"en"}, {"latin", "hangul"}, unknown=False)
    assert not speaks(KOREAN, {"en"}, {"latin"}, unknown=True)


def test_a_long_text_is_judged_to_its_end() -> None:
    text = (ENGLISH * 100)[:PART] + (GERMAN * 100)[:PART]
    assert not speaks(text, {"en"}, {"latin"}, unknown=True)
    assert speaks(text, {"en", "de"}, {"latin"}, unknown=True)


def test_a_few_foreign_words_are_not_seen() -> None:
    assert speaks(ENGLISH * 3 + GERMAN, {"en"}, {"latin"}, unknown=True)


def test_the_rule_holds_an_answer_until_its_end_and_blocks_it_whole() -> None:
    enforcer = enforcer_of({"kind": "language", "languages": ["en"]})
    assert enforcer.holds_whole_text()
    assert streamed(enforcer, list(ENGLISH)) == (ENGLISH, (), None)
    released, hits, blocked = streamed(enforcer, list(GERMAN))
    assert (released, [hit.rule for hit in hits], blocked) == ("", ["r0"], "r0")
    assert enforcer.check_output(GERMAN).text == ""


def test_the_rule_reads_inputs_and_may_be_exempted() -> None:
    enforcer = enforcer_of({"kind": "language", "languages": ["en"], "side": "input"})
    assert enforcer.check_input(GERMAN).blocked == "r0"
    assert enforcer.check_input(GERMAN, exempt=frozenset({"r0"})).text == GERMAN
    assert enforcer.check_input(ENGLISH).text == ENGLISH
    assert not enforcer.holds_whole_text()
