"""What the tests of the enforcement core share: rules in, an enforcer out, and a slow model of what it must do.

The model is written from the definition alone: every substring of every reading of a text is tried against Python's
`re`. A reading is a list of characters with the part of the original text that each comes from: the text itself, what
an encoded run says at one alignment, or the text with its percent escapes read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from policies.enforcement.engine import Enforcer, Hit
from policies.enforcement.normalize import VIEWS, see
from policies.enforcement.rules import AnyRule, MaxLengthRule, RegexRule, SpanRule, TermsRule, TopicRule
from policies.enforcement.scan import CompiledBundle, compile_side

RULES = pydantic.TypeAdapter(list[AnyRule])


def rules_of(*rules: dict[str, Any]) -> list[AnyRule]:
    """Return rules from dicts; `id`, `side` and `type` may be left out."""
    filled = []
    for number, rule in enumerate(rules):
        start = {"id": f"r{number}", "side": "both"}
        if rule["kind"] in ("regex", "terms"):
            start["type"] = f"t{number}"
        filled.append({**start, **rule})
    return RULES.validate_python(filled)


def enforcer_of(*rules: dict[str, Any]) -> Enforcer:
    return enforcer_with(rules_of(*rules))


def enforcer_with(rules: Sequence[AnyRule]) -> Enforcer:
    entry = compile_side(rules, "input")
    return Enforcer(CompiledBundle("test:1", "sha256:test", Path(), entry, compile_side(rules, "output", like=entry)))


def streamed(enforcer: Enforcer, pieces: Sequence[str]) -> tuple[str, tuple[Hit, ...], str | None]:
    """Return text, hits and block of a text pushed in pieces."""
    stream = enforcer.stream()
    out = []
    for piece in pieces:
        out.append(stream.push(piece))
        if out[-1].blocked:
            break
    out.append(stream.finish())
    blocked = next((piece.blocked for piece in out if piece.blocked), None)
    return "".join(p.text for p in out), tuple(hit for p in out for hit in p.hits), blocked


Reading = list[tuple[str, int, int]]
"""(character or "" for a byte that is not text, start and end of where it comes from)."""
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def _said(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 or 9 <= byte <= 13 else ""


def base64_readings(text: str) -> list[Reading]:
    out = []
    for run in re.finditer(r"[A-Za-z0-9+/_-]+", text):
        for skipped in range(4):
            bits, reading = "", list[tuple[str, int, int]]()
            for place in range(run.start() + skipped, run.end()):
                bits += format(_DIGITS.index(text[place].translate({45: "+", 95: "/"})), "06b")
                if len(bits) >= 8 * (len(reading) + 1):
                    here = 8 * len(reading)
                    first = run.start() + skipped + here // 6
                    reading.append((_said(int(bits[here : here + 8], 2)), first, place + 1))
            out.append(reading)
    return out


def hex_readings(text: str) -> list[Reading]:
    return [
        [
            (_said(int(text[place : place + 2], 16)), place, place + 2)
            for place in range(run.start() + skipped, run.end() - 1, 2)
        ]
        for run in re.finditer("[0-9A-Fa-f]+", text)
        for skipped in (0, 1)
    ]


def url_readings(text: str) -> list[Reading]:
    return [
        [
            (_said(int(found[1], 16)) if found[1] else found[0], *found.span())
            for found in re.finditer("(?s)%([0-9A-Fa-f]{2})|.", text)
        ]
    ]


CODINGS: dict[str, Callable[[str], list[Reading]]] = {
    "base64": base64_readings,
    "hex": hex_readings,
    "url": url_readings,
}


@dataclass(frozen=True, order=True)
class Match:
    """A match in the original text; `coding` and the character before its end say in which reading."""

    end: int
    start: int
    term: str
    coding: str = ""
    last: str = ""


def is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def matches_in(
    reading: Reading, sources: list[tuple[str, bool, bool]], view: str, before: str, passes: Callable[[str], bool]
) -> list[Match]:
    """Return every match of patterns in a reading, by trying every part of it on its view."""
    seen = [VIEWS[view].see(char) if char else "\ud800" for char, _, _ in reading]
    text = "".join(seen)
    origin = [index for index, part in enumerate(seen) for _ in part]
    found = []
    for source, left, right in sources:
        compiled = re.compile(source, re.ASCII)
        for start in range(len(text)):
            for end in range(start + 1, len(text) + 1):
                if "\ud800" in text[start:end] or not compiled.fullmatch(text, start, end):
                    continue
                first, last = origin[start], origin[end - 1]
                ahead = reading[first - 1][0] if first else before
                behind = reading[last + 1][0] if last + 1 < len(reading) else ""
                if left and is_word(ahead) == is_word(reading[first][0]):
                    continue
                if right and is_word(behind) == is_word(reading[last][0]):
                    continue
                said = "".join(char for char, _, _ in reading[first : last + 1])
                if passes(see(said, view) if view == "lookalike" else said):
                    found.append(Match(reading[last][2], reading[first][1], source, "", reading[last][0]))
    return found


def model_matches(rule: SpanRule, text: str, before: str = "") -> list[Match]:
    """Return every match of a rule in every reading of a text that comes after the character `before`."""
    plain = [(char, place, place + 1) for place, char in enumerate(text)]
    passes = rule.passes if isinstance(rule, RegexRule) else lambda _: True
    found = matches_in(plain, _sources(rule), rule.view, before, passes)
    for coding in rule.decoded:
        for reading in CODINGS[coding](text):
            edge = before if coding == "url" else ""
            here = matches_in(reading, _sources(rule), rule.view, edge, passes)
            found += [Match(m.end, m.start, m.term, coding, m.last) for m in here]
    return found


def _pattern_source(pattern: str) -> tuple[str, bool, bool]:
    return pattern.removeprefix(r"\b").removesuffix(r"\b"), pattern.startswith(r"\b"), pattern.endswith(r"\b")


def _sources(rule: SpanRule) -> list[tuple[str, bool, bool]]:
    if isinstance(rule, RegexRule):
        return [_pattern_source(rule.pattern)]
    words = rule.terms if isinstance(rule, TermsRule) else rule.keywords if isinstance(rule, TopicRule) else []
    whole = not isinstance(rule, TermsRule) or rule.whole_words
    out = []
    for word in words:
        parts = see(word, rule.view).split()
        edges = whole and is_word(parts[0][0]), whole and is_word(parts[-1][-1])
        out.append((r"\s{1,8}".join(re.escape(part) for part in parts), *edges))
    return out


Spanned = tuple[int, int, int]
"""(start, end, number of the rule)."""


@dataclass
class Segment:
    """A text after `offset` characters, read as a new one: what stops it first, and the spans up to there."""

    text: str
    offset: int
    before: str
    spans: list[Spanned] = field(default_factory=list)
    stops: list[tuple[int, int, int, Match | None]] = field(default_factory=list)


def model(rules: Sequence[AnyRule], text: str) -> tuple[str, str | None]:
    """Return (released text, blocking rule) as the definition has it."""
    out, offset, before = "", 0, ""
    seen: dict[int, set[str]] = {}
    while True:
        part = Segment(text[offset:], offset, before)
        for number, rule in enumerate(rules):
            _look(part, number, rule, seen)
        if not part.stops:
            return out + _rendered(rules, part.text, part.spans), None
        end, start, number, match = min(part.stops, key=lambda stop: stop[:3])
        seen = {
            rule: {term for place, term in terms if place <= end + offset} for rule, terms in _ends(part, rules, seen)
        }
        spans = [span for span in part.spans if span[1] <= end]
        cut = max(cut for cut in range(start + 1) if not any(a < cut < b for a, b, _ in spans))
        out += _rendered(rules, part.text[:cut], [span for span in spans if span[1] <= cut])
        rule = rules[number]
        if not (isinstance(rule, RegexRule) and rule.until is not None):
            return out, rule.id
        assert match is not None
        redacting = [n for a, _, n in spans if a >= cut and rules[n].action == "redact"]
        out += f"[REDACTED:{rules[min([number, *redacting])].type}]"
        size = _dropped(rule, part.text, end, match)
        if size is None:
            return out, None
        offset, before = offset + size, part.text[size - 1]


def _look(part: Segment, number: int, rule: AnyRule, seen: dict[int, set[str]]) -> None:
    """Note what a rule finds in a segment."""
    text = part.text
    if isinstance(rule, MaxLengthRule):
        place = max(rule.characters, part.offset) - part.offset
        part.stops += [(place + 1, place, number, None)] if len(text) > place else []
    elif isinstance(rule, TopicRule):
        known = set(seen.get(number, set()))
        found = model_matches(rule, text, part.before)
        for end in sorted({match.end for match in found}):
            here = [match for match in found if match.end == end]
            known |= {match.term for match in here}
            if len(known) >= rule.at_least:
                part.stops.append((end, min(match.start for match in here), number, None))
    elif isinstance(rule, SpanRule):
        found = model_matches(rule, text, part.before)
        if rule.stops or (isinstance(rule, RegexRule) and rule.until is not None):
            order = ["", "base64", "hex", "url"]
            found.sort(key=lambda match: (match.end, match.start, order.index(match.coding)))
            part.stops += [(match.end, match.start, number, match) for match in found]
        else:
            part.spans += [(match.start, match.end, number) for match in found]


def _ends(
    part: Segment, rules: Sequence[AnyRule], seen: dict[int, set[str]]
) -> list[tuple[int, list[tuple[int, str]]]]:
    """Return, for each topic rule, its keywords seen before the segment and in it, with where they end."""
    return [
        (
            number,
            [(0, term) for term in seen.get(number, set())]
            + [(match.end + part.offset, match.term) for match in model_matches(rule, part.text, part.before)],
        )
        for number, rule in enumerate(rules)
        if isinstance(rule, TopicRule)
    ]


def _dropped(rule: RegexRule, text: str, end: int, match: Match) -> int | None:
    """Return where in a text what is dropped after `end` ends, or None for its end."""
    rest = text[end:]
    if match.coding in ("base64", "hex"):
        run = re.match("[A-Za-z0-9+/_-]*" if match.coding == "base64" else "[0-9A-Fa-f]*", rest)
        assert run is not None
        return end + run.end() if run.end() < len(rest) else None
    plain = [(char, place, place + 1) for place, char in enumerate(rest)]
    reading = url_readings(rest)[0] if match.coding == "url" else plain
    before = match.last if match.coding == "url" else text[end - 1]
    assert rule.until is not None
    found = matches_in(reading, [_pattern_source(rule.until)], rule.view, before, lambda _: True)
    return end + min(m.end for m in found) if found else None


def _rendered(rules: Sequence[AnyRule], text: str, spans: list[Spanned]) -> str:
    clusters: list[list[Spanned]] = []
    for span in sorted(spans):
        if clusters and span[0] < max(end for _, end, _ in clusters[-1]):
            clusters[-1].append(span)
        else:
            clusters.append([span])
    out, place = "", 0
    for cluster in clusters:
        start, end = cluster[0][0], max(span[1] for span in cluster)
        redacting = [number for _, _, number in cluster if rules[number].action == "redact"]
        out += text[place:start] + (f"[REDACTED:{rules[min(redacting)].type}]" if redacting else "*" * (end - start))
        place = end
    return out + text[place:]
