"""Texts that a rule must act on, and texts that come close to it: made from the rule itself, one after another.

What is made here is a proposal with a name for how it was made; `policies/authoring/scenarios.py` keeps what the
definition of the rule (`policies/authoring/reference.py`, the schema, the list of choices) confirms.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from itertools import cycle

from policies.authoring.json_samples import instances, near_misses
from policies.authoring.samples import draw, draw_match, embed, encode, spell, spellings
from policies.authoring.tongues import SCRIPTS, SENTENCES
from policies.enforcement.normalize import is_word, see
from policies.enforcement.pattern import Branch
from policies.enforcement.rules import (
    AnyRule,
    ChoiceRule,
    FormatRule,
    JsonSchemaRule,
    LanguageRule,
    MaxLengthRule,
    RegexRule,
    SpanRule,
    TopicRule,
)

Specimen = tuple[str, str]
"""(how it was made, text)."""
LONGEST_PAIR = 20_000
"""Limits above this get one text on each side only: a text as long as that says nothing that a second one adds."""
_PROSE = (
    "the report covers a quiet week in the valley where rain fell on most days and the river kept its level while "
    "farmers counted sheep mended walls and waited for the market to open again after a long and even winter"
)
WORDS = tuple(_PROSE.split())
_SENTENCES = (
    "The function returns the number of lines that it has read.",
    "We met on Tuesday and went through the plan together.",
    "Please sort the list before you print it.",
    "There is nothing to add to that.",
    "It takes about two hours by train.",
)


def violating(rule: AnyRule, rng: random.Random) -> Iterator[Specimen]:
    """Yield, without end where there are any, texts that a rule must act on."""
    if isinstance(rule, SpanRule):
        yield from _subjects(rule, rng) if isinstance(rule, TopicRule) else _matches(rule, rng)
    elif isinstance(rule, MaxLengthRule):
        yield "one too long", filler(rule.characters + 1, rng)
        while rule.characters <= LONGEST_PAIR:
            yield "too long", filler(rule.characters + rng.randint(2, 2 + rule.characters), rng)
    elif isinstance(rule, JsonSchemaRule):
        while True:
            yield from near_misses(rule.schema_, seed=rng.randrange(1 << 30), count=8)
            yield "prose", rng.choice(_SENTENCES)
    elif isinstance(rule, ChoiceRule):
        while True:
            yield _other_choice(rule, rng)
    elif isinstance(rule, FormatRule):
        yield from _misfits(rule, rng)
    elif isinstance(rule, LanguageRule):
        yield from _spoken(rule, rng, allowed=False)


def compliant(rule: AnyRule, rng: random.Random) -> Iterator[Specimen]:
    """Yield, without end where there are any, texts that a rule must leave alone, near-misses before ordinary ones."""
    if isinstance(rule, SpanRule):
        yield from _few_keywords(rule, rng) if isinstance(rule, TopicRule) else _near_matches(rule, rng)
    elif isinstance(rule, MaxLengthRule):
        yield "as long as allowed", filler(rule.characters, rng)
        while rule.characters <= LONGEST_PAIR:
            yield "shorter", filler(rng.randint(1, rule.characters), rng)
    elif isinstance(rule, JsonSchemaRule):
        yield from _fitting(rule, rng)
    elif isinstance(rule, ChoiceRule):
        for text in cycle(rule.choices):
            yield "a choice", text
    elif isinstance(rule, FormatRule):
        while True:
            yield "fits the pattern", draw(rng.choice(rule.branches()).body, rng)
    elif isinstance(rule, LanguageRule):
        yield from _spoken(rule, rng, allowed=True)


def _fitting(rule: JsonSchemaRule, rng: random.Random) -> Iterator[Specimen]:
    while True:
        for text in instances(rule.schema_, seed=rng.randrange(1 << 30), count=8):
            yield "fits the schema", text
        yield "fits the schema", "null"  # kept only where it does; else the next turn draws again


def filler(characters: int, rng: random.Random) -> str:
    """Return ordinary words, cut to exactly so many characters."""
    text = " ".join(rng.choice(WORDS) for _ in range(characters // 2 + 1))
    return text[:characters]


def _matches(rule: SpanRule, rng: random.Random) -> Iterator[Specimen]:
    branches = rule.branches()
    ways = ["alone", "among others", *spellings(rule.view), *rule.decoded]
    for number, way in enumerate(cycle(ways)):
        made = draw_match(rule, rng, branches[number // len(ways) % len(branches)] if rng.random() < 0.7 else None)
        if made is None:
            return
        text, branch = made
        if way in rule.decoded:
            yield f"in {way}", f"see {encode(f'{text} ', way)} there"
            continue
        if way in spellings(rule.view):
            text = spell(text, way, rng, lambda part: see(part, rule.view))
        yield way, embed(text, branch, rng, bare=way == "alone")


def _subjects(rule: TopicRule, rng: random.Random) -> Iterator[Specimen]:
    branches = rule.branches()
    for way in cycle(["among others", *spellings(rule.view)]):
        chosen = rng.sample(branches, rule.at_least)
        yield way, _sentence([_keyword(rule, branch, way, rng) for branch in chosen], rng)


def _keyword(rule: TopicRule, branch: Branch, way: str, rng: random.Random) -> str:
    text = draw(branch.body, rng)
    if way in spellings(rule.view):
        text = spell(text, way, rng, lambda part: see(part, rule.view))
    return embed(text, branch, rng, bare=True)


def _sentence(parts: list[str], rng: random.Random) -> str:
    out = [filler(rng.randint(4, 30), rng).strip()]
    for part in parts:
        out += [part, filler(rng.randint(4, 30), rng).strip()]
    return " ".join(piece for piece in out if piece)


def _few_keywords(rule: TopicRule, rng: random.Random) -> Iterator[Specimen]:
    branches = rule.branches()
    while True:
        if rule.at_least > 1:
            few = rng.sample(branches, rule.at_least - 1)
            yield "a keyword too few", _sentence([_keyword(rule, branch, "", rng) for branch in few], rng)
        keyword = _keyword(rule, rng.choice(branches), "", rng)
        yield "a letter off", _sentence([_letter_off(keyword, rng)], rng)
        yield "inside of a longer word", _sentence([f"x{keyword}x"], rng)
        yield "ordinary", rng.choice(_SENTENCES)


def _near_matches(rule: SpanRule, rng: random.Random) -> Iterator[Specimen]:
    changes: list[tuple[str, Callable[[str, random.Random], str]]] = [
        ("a character off", _letter_off), ("cut short", _cut_short), ("a character missing", _letter_gone),
    ]  # fmt: skip
    if isinstance(rule, RegexRule) and rule.check is not None:
        changes.insert(0, ("checksum broken", _digit_off))
    while True:
        for form, change in changes:
            made = draw_match(rule, rng)
            if made is None:
                return
            text, branch = made
            yield form, embed(change(text, rng) or "-", branch, rng)
        made = draw_match(rule, rng)
        if made is not None and (made[1].left or made[1].right):
            text, branch = made
            before = "x" if branch.left and is_word(text[0]) else ""
            after = "x" if branch.right and is_word(text[-1]) else ""
            if before or after:
                yield "inside of a longer word", f"see {before}{text}{after} there"
        yield "ordinary", rng.choice(_SENTENCES)


def _spoken(rule: LanguageRule, rng: random.Random, *, allowed: bool) -> Iterator[Specimen]:
    """Yield texts of one language or script each, told by what they were written in."""
    latin = "latin" in rule.scripts
    known = [(name, texts, latin and name in rule.languages) for name, texts in SENTENCES.items()]
    known += [(name, texts, name in rule.scripts) for name, texts in SCRIPTS.items()]
    fitting = [(name, texts) for name, texts, fits in known if fits == allowed]
    while fitting:
        name, texts = rng.choice(fitting)
        chosen = [rng.choice(texts) for _ in range(rng.randint(1, 4))]
        yield f"in {name}", " ".join(chosen)


def _letter_off(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text))
    return text[:place] + rng.choice(string.ascii_letters + string.digits + "~!") + text[place + 1 :]


def _digit_off(text: str, rng: random.Random) -> str:
    places = [place for place, char in enumerate(text) if char.isdigit()]
    if not places:
        return _letter_off(text, rng)
    place = rng.choice(places)
    return text[:place] + rng.choice(string.digits.replace(text[place], "")) + text[place + 1 :]


def _letter_gone(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text))
    return text[:place] + text[place + 1 :]


def _cut_short(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text))]


def _misfits(rule: FormatRule, rng: random.Random) -> Iterator[Specimen]:
    """Yield texts that come close to a whole answer's pattern; those that fit after all are sorted out later."""
    while True:
        text = draw(rng.choice(rule.branches()).body, rng)
        yield "a character off", _letter_off(text, rng)
        yield "cut short", _cut_short(text, rng)
        yield "a character missing", _letter_gone(text, rng)
        yield "words around", f"The answer is {text}"
        yield "a line end", f"{text}\n"
        yield "two of them", f"{text} {text}"
        yield "prose", rng.choice(_SENTENCES)


def _other_choice(rule: ChoiceRule, rng: random.Random) -> Specimen:
    text = rng.choice(rule.choices)
    return rng.choice([
        ("in another case", text.swapcase()), ("words around", f"The answer is {text}"), ("a full stop", f"{text}."),
        ("two of them", text + rng.choice(rule.choices)), ("prose", rng.choice(_SENTENCES)), ("a space", f"{text} "),
    ])  # fmt: skip
