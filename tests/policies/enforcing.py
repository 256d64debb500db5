"""What the tests of the enforcement core share: rules in, an enforcer out, and a slow model of what it must do.

The model is written from the definition alone: every substring is tried against Python's `re`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic

from policies.engine import Enforcer, Hit
from policies.normalize import fold
from policies.rules import AnyRule, MaxLengthRule, RegexRule, SpanRule, TermsRule, TopicRule
from policies.scan import CompiledBundle, compile_side

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
    both = compile_side(rules, "input"), compile_side(rules, "output")
    return Enforcer(CompiledBundle("test:1", "sha256:test", Path(), *both))


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


def is_edge(text: str, place: int) -> bool:
    left = place > 0 and (text[place - 1].isalnum() or text[place - 1] == "_")
    right = place < len(text) and (text[place].isalnum() or text[place] == "_")
    return left != right


def model_matches(rule: SpanRule, text: str) -> list[tuple[int, int, str]]:
    """Return (start, end, term) of every match of a rule, by trying every part of its view."""
    views = [fold(char) if rule.folded else char for char in text]
    view = "".join(views)
    origin = [index for index, folded in enumerate(views) for _ in folded]
    found = []
    for source, left, right in _sources(rule):
        compiled = re.compile(source, re.ASCII)
        for start in range(len(view)):
            for end in range(start + 1, len(view) + 1):
                if not compiled.fullmatch(view, start, end):
                    continue
                span = origin[start], origin[end - 1] + 1
                if (left and not is_edge(text, span[0])) or (right and not is_edge(text, span[1])):
                    continue
                if isinstance(rule, RegexRule) and not rule.passes(text[slice(*span)]):
                    continue
                found.append((*span, source))
    return found


def _sources(rule: SpanRule) -> list[tuple[str, bool, bool]]:
    if isinstance(rule, RegexRule):
        pattern = rule.pattern
        left, right = pattern.startswith(r"\b"), pattern.endswith(r"\b")
        return [(pattern.removeprefix(r"\b").removesuffix(r"\b"), left, right)]
    words = rule.terms if isinstance(rule, TermsRule) else rule.keywords if isinstance(rule, TopicRule) else []
    whole = not isinstance(rule, TermsRule) or rule.whole_words
    out = []
    for word in words:
        parts = (fold(word) if rule.folded else word).split()
        edges = (
            (whole and (parts[0][0].isalnum() or parts[0][0] == "_")),
            (whole and (parts[-1][-1].isalnum() or parts[-1][-1] == "_")),
        )
        out.append((r"\s{1,8}".join(re.escape(part) for part in parts), *edges))
    return out


def model(rules: Sequence[AnyRule], text: str) -> tuple[str, str | None]:
    """Return (released text, blocking rule) as the definition has it."""
    spans: list[tuple[int, int, int]] = []
    blocks: list[tuple[int, int, int]] = []  # end, start, rule
    for number, rule in enumerate(rules):
        if isinstance(rule, MaxLengthRule):
            blocks += [(rule.characters + 1, rule.characters, number)] if len(text) > rule.characters else []
        elif isinstance(rule, TopicRule):
            blocks += _topic_blocks(rule, number, text)
        elif rule.action == "block":
            blocks += [(end, start, number) for start, end, _ in model_matches(rule, text)]
        else:
            spans += [(start, end, number) for start, end, _ in model_matches(rule, text)]
    stop, blocked = len(text), None
    if blocks:
        end, start, number = min(blocks)
        blocked = rules[number].id
        spans = [span for span in spans if span[1] <= end]
        stop = max(cut for cut in range(start + 1) if not any(a < cut < b for a, b, _ in spans))
    return _rendered(rules, text[:stop], [span for span in spans if span[1] <= stop]), blocked


def _topic_blocks(rule: TopicRule, number: int, text: str) -> list[tuple[int, int, int]]:
    blocks, seen = [], set()
    matches = model_matches(rule, text)
    for end in sorted({end for _, end, _ in matches}):
        here = [match for match in matches if match[1] == end]
        seen |= {term for _, _, term in here}
        if len(seen) >= rule.at_least:
            blocks.append((end, min(start for start, _, _ in here), number))
    return blocks


def _rendered(rules: Sequence[AnyRule], text: str, spans: list[tuple[int, int, int]]) -> str:
    clusters: list[list[tuple[int, int, int]]] = []
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
