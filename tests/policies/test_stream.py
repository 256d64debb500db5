"""The law of the endpoint: for every rule set, text and chunking, the stream releases what the definition says."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.enforcement import stream as stream_module
from policies.enforcement.normalize import see
from policies.enforcement.rules import RegexRule, SpanRule, TopicRule
from policies.enforcement.stream import OVERFLOW, HoldBack
from tests.policies.enforcing import enforcer_of, enforcer_with, model, model_matches, rules_of, streamed

LETTERS = "abAB1 _-\u00e9\u200b\ufb01\uff41\n\u0301\u0430%"
"""Few enough to collide all the time: case, digit, space, accents, zero width, a ligature, full width, Cyrillic."""

atoms = st.sampled_from(
    ["a", "b", "A", "1", "[ab]", "[^a]", ".", r"\d", r"\w", "[a-c1]", "-", "\u00e9", "[^b1 ]", "fi", "f", r"\s"]
)


@st.composite
def bodies(draw: st.DrawFn, depth: int = 2) -> str:
    """Return a pattern of the language, without word edges, that may not be empty."""
    kind = draw(st.sampled_from(["atom", "repeat", "series", "choice"] if depth else ["atom"]))
    if kind == "atom":
        return draw(atoms)
    if kind == "repeat":
        low = draw(st.integers(1, 2))
        return f"(?:{draw(bodies(depth - 1))}){{{low},{low + draw(st.integers(0, 3))}}}"
    parts = draw(st.lists(bodies(depth - 1), min_size=2, max_size=3))
    if kind == "choice":
        return "(?:" + "|".join(parts) + ")"
    optional = draw(st.booleans())
    return "".join(parts) + (f"(?:{draw(bodies(depth - 1))})?" if optional else "")


views = st.sampled_from(["exact", "exact", "plain", "folded", "lookalike"])
codings = st.sampled_from([[], [], [], ["base64"], ["hex"], ["url"], ["base64", "hex", "url"]]).map(
    lambda names: {"decoded": names}
)


@st.composite
def rule_dicts(draw: st.DrawFn) -> dict[str, object]:
    kind = draw(st.sampled_from(["regex", "regex", "regex", "terms", "topic", "max_length"]))
    if kind == "max_length":
        return {"kind": kind, "characters": draw(st.integers(1, 30))}
    if kind == "topic":
        words = draw(
            st.lists(
                st.text("abAfi1\u00e9", min_size=1, max_size=3),
                min_size=1,
                max_size=3,
                unique_by=lambda word: see(word, "lookalike"),
            )
        )
        view = draw(st.sampled_from(["folded", "lookalike"]))
        most = len(words)
        return {"kind": kind, "keywords": words, "at_least": draw(st.integers(1, most)), "view": view, **draw(codings)}
    action = draw(st.sampled_from(["redact", "redact", "redact", "mask", "block", "abort"]))
    if kind == "terms":
        terms = draw(
            st.lists(
                st.sampled_from(["a", "ab", "a b", "b-a", "fi", "f", "\u00e9a", "A1", "-"]), min_size=1, max_size=3
            )
        )
        more = {"view": draw(views), "whole_words": draw(st.booleans()), **draw(codings)}
        return {"kind": kind, "terms": terms, "action": action, **more}
    left, right = draw(st.sampled_from(["", r"\b"])), draw(st.sampled_from(["", r"\b"]))
    check = draw(st.sampled_from([None, None, None, "entropy"]))
    until = draw(st.sampled_from([None, None, draw(bodies(1)) + draw(st.sampled_from(["", r"\b"]))]))
    more = {"view": draw(views), "check": check, "until": until if action == "redact" else None, **draw(codings)}
    return {"kind": kind, "pattern": left + draw(bodies()) + right, "action": action, **more}


def cut_up(data: st.DataObject, text: str) -> list[str]:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


plain_texts = st.text(LETTERS, max_size=36)
said = st.text("abAB1 _-", max_size=9)
"""What encoded parts of texts say."""


def percent(text: str) -> str:
    return "".join(f"%{ord(char):02{'x' if ord(char) % 2 else 'X'}}" for char in text)


encoded = st.one_of(
    said.map(lambda text: base64.b64encode(text.encode()).decode()),
    said.map(lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")),
    said.map(lambda text: text.encode().hex()),
    said.map(percent),
    st.text("abAB1", max_size=3),
    st.text(LETTERS, max_size=8),
)
texts = st.one_of(plain_texts, st.lists(encoded, min_size=1, max_size=4).map("".join))


def comparable(rules: list[object]) -> bool:
    """A pattern is modelled by Python's `re` only if it is spelled as its view reads."""
    return not any(
        isinstance(rule, RegexRule)
        and rule.folded
        and any(char in rule.pattern + (rule.until or "") for char in "A\u00e9")
        for rule in rules
    )


@settings(max_examples=120, deadline=None)
@given(st.lists(rule_dicts(), min_size=1, max_size=4), st.lists(texts, min_size=1, max_size=4), st.data())
def test_whole_text_is_the_definition_and_every_chunking_equals_it(
    dicts: list[dict[str, object]], inputs: list[str], data: st.DataObject
) -> None:
    assert_law(dicts, inputs, data)


@pytest.mark.slow
@settings(max_examples=450, deadline=None)
@given(st.lists(rule_dicts(), min_size=1, max_size=4), st.lists(texts, min_size=1, max_size=4), st.data())
def test_the_same_law_on_many_more(dicts: list[dict[str, object]], inputs: list[str], data: st.DataObject) -> None:
    assert_law(dicts, inputs, data)


def assert_law(dicts: list[dict[str, object]], inputs: list[str], data: st.DataObject) -> None:
    rules = rules_of(*dicts)
    enforcer = enforcer_with(rules)
    for text in inputs:
        whole = enforcer.check_output(text)
        if comparable(rules):
            assert (whole.text, whole.blocked) == model(rules, text)
        assert streamed(enforcer, list(text)) == (whole.text, whole.hits, whole.blocked)
        assert streamed(enforcer, cut_up(data, text)) == (whole.text, whole.hits, whole.blocked)


@settings(max_examples=120, deadline=None)
@given(st.lists(rule_dicts(), min_size=1, max_size=3), texts, st.data())
def test_no_character_of_a_match_leaves_at_any_moment(
    dicts: list[dict[str, object]], text: str, data: st.DataObject
) -> None:
    rules = [rule for rule in rules_of(*dicts) if isinstance(rule, SpanRule) and not isinstance(rule, TopicRule)]
    rules = [rule for rule in rules if getattr(rule, "until", None) is None]
    if not rules or not comparable(rules):
        return
    found = [(match.start, match.end, rule.id) for rule in rules for match in model_matches(rule, text)]
    stream = HoldBack(enforcer_with(rules).compiled.output)
    consumed, hits = 0, []
    for piece in [*cut_up(data, text), None]:
        released = stream.finish() if piece is None else stream.push(piece)
        consumed += len(piece or "")
        hits += released.hits
        if released.blocked:
            break
        free = consumed - stream.held  # characters decided so far
        for start, end, rule in found:
            assert free <= start or end <= free
            assert free <= start or any(h.rule == rule and h.start <= start and end <= h.end for h in hits)


@settings(max_examples=100, deadline=None)
@given(texts, st.data())
def test_a_rule_more_never_releases_a_span_that_was_redacted(text: str, data: st.DataObject) -> None:
    one, other = data.draw(rule_dicts()), data.draw(rule_dicts())
    alone = enforcer_with(rules_of(one)).check_output(text)
    both = enforcer_with(rules_of(one, other)).check_output(text)
    if both.blocked is None:
        covered = {place for hit in both.hits for place in range(hit.start, hit.end)}
        assert all(place in covered for hit in alone.hits for place in range(hit.start, hit.end))


LONG = [
    "a[ab]{2,20}",
    "(?:ab){1,9}c?",
    "[ab]{3,12}c",
    "c(?:a{1,3}b?){1,6}",
    r"\bb[abc]{1,15}",
    "b{2,9}(?:ca){0,3}",
    "ab|ba{1,8}",
]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from(LONG), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from(["a", "ab", "b", "aba", "bbb", "c", "ca", " ", "abab", "aaa"]), max_size=45).map("".join),
    st.data(),
)
def test_long_matches_with_many_ends(patterns: list[str], text: str, data: st.DataObject) -> None:
    actions = [data.draw(st.sampled_from(["redact", "redact", "redact", "mask", "block"])) for _ in patterns]
    dicts = [{"kind": "regex", "pattern": p, "action": a} for p, a in zip(patterns, actions, strict=True)]
    assert_law(dicts, [text], data)


def test_of_blocks_that_end_together_the_leftmost_counts() -> None:
    enforcer = enforcer_of(
        {"kind": "regex", "pattern": "cd", "action": "block"}, {"kind": "regex", "pattern": "abcd", "action": "block"}
    )
    piece = enforcer.check_output("xabcdx")
    assert (piece.text, piece.blocked) == ("x", "r1")
    assert streamed(enforcer, list("xabcdx")) == ("x", piece.hits, "r1")


def test_a_match_may_end_inside_of_a_ligature() -> None:
    enforcer = enforcer_of({"kind": "terms", "terms": ["of"], "whole_words": False})
    assert enforcer.check_output("o\ufb01x").text == "[REDACTED:t0]x"
    assert streamed(enforcer, list("o\ufb01x"))[0] == "[REDACTED:t0]x"


def test_text_without_live_match_is_not_held() -> None:
    stream = enforcer_of({"kind": "regex", "pattern": r"\bghp_[A-Za-z0-9]{36}"}).stream()
    assert stream.push("plain words ").text == "plain words "
    assert stream.push("gh").text == ""
    assert stream.held == 2
    assert stream.push("ost").text == "ghost"


def test_placeholder_comes_as_soon_as_nothing_can_join_the_match() -> None:
    stream = enforcer_of({"kind": "regex", "pattern": "k[0-9]{3}", "type": "key"}).stream()
    assert [stream.push(piece).text for piece in ("see k1", "23", "4 no")] == ["see ", "", "[REDACTED:key]4 no"]


def test_overlapping_matches_become_one_placeholder_of_the_first_rule() -> None:
    enforcer = enforcer_of({"kind": "regex", "pattern": "bcd", "type": "second"}, {"kind": "regex", "pattern": "abc"})
    assert enforcer.check_output("xabcdx").text == "x[REDACTED:second]x"
    assert [hit.rule for hit in enforcer.check_output("xabcdx").hits] == ["r1", "r0"]


def test_touching_matches_stay_apart() -> None:
    assert enforcer_of({"kind": "regex", "pattern": "ab"}).check_output("abab").text == "[REDACTED:t0][REDACTED:t0]"


def test_block_releases_what_comes_before_and_nothing_more() -> None:
    stream = enforcer_of({"kind": "regex", "pattern": "stop", "action": "block"}).stream()
    assert stream.push("go on sto").text == "go on "
    last = stream.push("p here")
    assert (last.text, last.blocked) == ("", "r0")
    assert (stream.push("more").text, stream.finish().text) == ("", "")


def test_exempt_rules_are_not_enforced() -> None:
    enforcer = enforcer_of({"kind": "terms", "terms": ["nightjar"]}, {"kind": "max_length", "characters": 3})
    assert enforcer.check_output("a nightjar", exempt=frozenset({"r0", "r1"})).text == "a nightjar"


def test_a_match_longer_than_may_be_held_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MOST_HELD", 50)
    stream = enforcer_of({"kind": "regex", "pattern": "x[a-z]{2,200}"}).stream()
    pieces = [stream.push("x" + "a" * 20) for _ in range(5)]
    assert [piece.blocked for piece in pieces if piece.blocked] == [OVERFLOW]
    assert "".join(piece.text for piece in pieces) == ""


def test_lone_surrogates_become_replacement_characters() -> None:
    enforcer = enforcer_of({"kind": "regex", "pattern": "a.c"})
    assert enforcer.check_output("\ud800 b").text == "\ufffd b"
    assert streamed(enforcer, ["a\ud800", "c!"])[0] == "[REDACTED:t0]!"
