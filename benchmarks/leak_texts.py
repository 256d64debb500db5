"""Texts for `leak.py`: prose with matches of a bundle's rules planted in it, written in every way that a rule reads."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from policies.authoring.samples import draw, draw_match, embed, encode, spell, spellings
from policies.enforcement.normalize import see
from policies.enforcement.pattern import parse
from policies.enforcement.rules import AnyRule, RegexRule

VIEWS = ("exact", "plain", "folded", "lookalike")
BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n"


@dataclass(frozen=True)
class Text:
    """A text, and where the planted matches lie in it."""

    text: str
    places: tuple[tuple[int, int], ...]


@cache
def prose() -> str:
    """Return some 450,000 characters of the standard library's documentation."""
    import pydoc_data.topics

    return re.sub(r"\s+", " ", " ".join(pydoc_data.topics.topics.values()))


def with_views(rules: Sequence[AnyRule]) -> list[AnyRule]:
    """Return rules with every view and coding dealt out over those that are patterns, and some masked or aborting."""
    out: list[AnyRule] = []
    for number, rule in enumerate(rules):
        if isinstance(rule, RegexRule) and rule.action == "redact":
            change: dict[str, object] = {"view": VIEWS[number % 4], "decoded": ["base64", "hex", "url"]}
            if rule.until is None:
                change["action"] = ("redact", "redact", "mask")[number % 3]
            if rule.check is not None and change["view"] in ("folded", "lookalike"):
                change["view"] = "plain"
            out.append(rule.model_copy(update=change))
        else:
            out.append(rule)
    return out


def plantable(rules: Sequence[AnyRule]) -> list[RegexRule]:
    """Return the rules whose matches are planted: patterns that leave the rest of the text as it is."""
    return [rule for rule in rules if isinstance(rule, RegexRule) and not rule.stops]


def plant(rule: RegexRule, rng: random.Random, *, plain: bool) -> tuple[str, int, int] | None:
    """Return a match of a rule in some context and where it lies there; `plain`: as it is spelled, not encoded."""
    drawn = draw_match(rule, rng)
    if drawn is None:
        return None
    found, branch = drawn
    way = rng.random()
    codings = [] if plain or rule.until is not None else list(rule.decoded)
    if codings and way < 0.4:
        said = embed(found, branch, rng)
        if not said.isascii():
            return None
        return _encoded(said, said.index(found), len(found), rng.choice(codings))
    if not plain and way < 0.7 and rule.check is None and spellings(rule.view):
        found = spell(found, rng.choice(spellings(rule.view)), rng, lambda text: see(text, rule.view))
    text = embed(found, branch, rng)
    start = text.index(found)
    if rule.until is None:
        return text, start, start + len(found)
    end = draw(rng.choice(parse(rule.until)).body, rng)
    block = "\n" + BODY * rng.randint(0, 6) + end
    first_end = re.compile(rule.until)  # what is dropped ends with the first match, however long others may be
    block = next(block[:size] for size in range(len(block) + 1) if first_end.search(block, 0, size))
    return text[: start + len(found)] + block + "\n", start, start + len(found) + len(block)


def _encoded(said: str, start: int, size: int, coding: str) -> tuple[str, int, int]:
    text = encode(said, coding)
    if coding == "base64":
        return f"={text} ", 1 + start * 8 // 6, 1 + -(-(start + size) * 8 // 6)
    width = 2 if coding == "hex" else 3
    return f"={text} ", 1 + start * width, 1 + (start + size) * width


def compose(
    rules: Sequence[RegexRule], rng: random.Random, secrets: int, *, plain: bool = False, most: int = 200
) -> Text:
    """Return prose of up to `most` characters a part with so many matches planted in it."""
    source, text = prose(), ""
    places: list[tuple[int, int]] = []
    for _ in range(secrets + 1):
        start = rng.randrange(len(source) - most)
        text += source[start : start + rng.randint(10, most)]
        planted = plant(rng.choice(rules), rng, plain=plain) if len(places) < secrets else None
        if planted is None:
            continue
        said, first, last = planted
        text += " "
        places.append((len(text) + first, len(text) + last))
        text += said + " "
    return Text(text, tuple(places))


def cut(text: str, rng: random.Random) -> list[str]:
    """Return a text in random pieces: single characters, tokens of a few, large ones, or a mixture."""
    most = rng.choice([1, 4, 8, 8, 40, 200])
    pieces, place = [], 0
    while place < len(text):
        size = rng.randint(1, most)
        pieces.append(text[place : place + size])
        place += size
    return pieces


ATOMS = ("a", "b", "A", "1", "[ab]", "[^a]", ".", r"\d", r"\w", "[a-c1]", "-", "[^b1 ]", r"\s")


def small_rule(rng: random.Random, number: int) -> dict[str, object]:
    """Return a random rule over a few letters: small enough that everything collides with everything."""
    view = rng.choice(VIEWS)
    edge = lambda: rng.choice(["", "", r"\b"])  # noqa: E731
    action = rng.choice(["redact", "redact", "redact", "mask", "block", "abort"])
    until = edge().join([_small(rng, 1), ""]) if action == "redact" and rng.random() < 0.25 else None
    return {
        "id": f"r{number}", "kind": "regex", "side": "both", "type": f"t{number}", "view": view, "action": action,
        "pattern": edge() + _small(rng, 2) + edge(), "until": until,
        "check": rng.choice([None, None, None, "entropy"]),
        "decoded": rng.choice([[], [], ["base64"], ["hex"], ["url"], ["base64", "hex", "url"]]),
    }  # fmt: skip


def _small(rng: random.Random, depth: int) -> str:
    kind = rng.choice(["atom", "repeat", "series", "choice"]) if depth else "atom"
    if kind == "atom":
        return rng.choice(ATOMS)
    if kind == "repeat":
        low = rng.randint(1, 3)
        return f"(?:{_small(rng, depth - 1)}){{{low},{low + rng.randint(0, 6)}}}"
    parts = [_small(rng, depth - 1) for _ in range(rng.randint(2, 3))]
    return "(?:" + "|".join(parts) + ")" if kind == "choice" else "".join(parts)


def small_text(rng: random.Random) -> str:
    """Return a text over the same few letters, parts of it encoded."""
    parts = []
    for _ in range(rng.randint(1, 5)):
        letters = "".join(rng.choice("abAB1 _-") for _ in range(rng.randint(0, 9)))
        kind = rng.choice(["", "", "foreign", "base64", "hex", "url"])
        if kind == "foreign":
            letters += rng.choice(["\u00e9", "\u200b", "\ufb01", "\uff41", "\n", "\u0301", "\u0430", "%", "%4"])
        parts.append(encode(letters, kind) if kind in ("base64", "hex", "url") else letters)
    return "".join(parts)
