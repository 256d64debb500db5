"""Compiled bundles: the rules of each side, ready to enforce."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from policies.enforcement.closure import Automaton
from policies.enforcement.codings import Runs, RunWatch, as_ascii
from policies.enforcement.compiled import CompiledCache
from policies.enforcement.normalize import VIEWS
from policies.enforcement.pattern import Branch
from policies.enforcement.rules import (
    AnyRule,
    GuardrailsRule,
    MaxLengthRule,
    PythonRule,
    RegexRule,
    SpanRule,
    WholeRule,
)
from policies.enforcement.scanner import NOBODY, Found, Lane, Scanner


@dataclass(frozen=True, slots=True)
class CompiledSide:
    """What is enforced on one side: span rules by lanes, length limits, and rules on the whole text."""

    rules: tuple[AnyRule, ...]
    lane: Lane | None
    """What reads the text itself, on every view."""
    coded: tuple[Lane, ...]
    url: Lane | None
    watch: RunWatch | None
    untils: Mapping[int, Automaton]
    """Rule number -> what ends the part that it drops."""
    scanner: Scanner | None
    limits: tuple[tuple[int, int], ...]
    """(rule number, code points), the shortest first."""
    whole: tuple[WholeRule, ...]
    guards: tuple[GuardrailsRule | PythonRule, ...]
    all_active: tuple[bool, ...]

    def look(self, text: str) -> Found | None:
        """Return what of a text can hold a match of a span rule or of the length limit; None where nothing can."""
        found = self.scanner.look(text) if self.scanner is not None else None
        if found is None and self.limits and len(text) > self.limits[0][1]:
            return Found([], [], False)
        return found

    def limit(self, exempt: frozenset[str]) -> tuple[int, int] | None:
        """Return the shortest length limit that is not exempt: (rule number, code points)."""
        return next((limit for limit in self.limits if self.rules[limit[0]].id not in exempt), None)


@dataclass(frozen=True, slots=True)
class CompiledBundle:
    """A bundle ready to enforce. `folder` is where its own files lie, `digest` names it in decisions."""

    name: str
    digest: str
    folder: Path
    input: CompiledSide
    output: CompiledSide


def compile_side(
    rules: Iterable[AnyRule], side: str, cache: CompiledCache | None = None, like: CompiledSide | None = None
) -> CompiledSide:
    """Return the rules of one side, `input` or `output`, ready to enforce.

    What the side has in common with the side it is `like` is shared with it: compiled once and kept once.
    """
    here = tuple(rule for rule in rules if rule.applies_to(side))
    limits = [(rule.characters, number) for number, rule in enumerate(here) if isinstance(rule, MaxLengthRule)]
    compiled = CompiledSide(
        rules=here,
        lane=None,
        coded=(),
        url=None,
        watch=None,
        untils={},
        scanner=None,
        limits=tuple((number, characters) for characters, number in sorted(limits)),
        whole=tuple(rule for rule in here if isinstance(rule, WholeRule)),
        guards=tuple(rule for rule in here if isinstance(rule, GuardrailsRule | PythonRule)),
        all_active=(True,) * len(here),
    )
    spans = [(number, rule) for number, rule in enumerate(here) if isinstance(rule, SpanRule)]
    if not spans:
        return compiled
    if like is not None and [rule for _, rule in spans] == [rule for rule in like.rules if isinstance(rule, SpanRule)]:
        return _sharing(compiled, like, [number for number, _ in spans])
    return _with_lanes(compiled, spans, cache)


def _sharing(side: CompiledSide, like: CompiledSide, numbers: Sequence[int]) -> CompiledSide:
    """Return a side with the lanes of another that has the same span rules, under this side's numbers."""
    theirs = [number for number, rule in enumerate(like.rules) if isinstance(rule, SpanRule)]
    known = {NOBODY: NOBODY, **dict(zip(theirs, numbers, strict=True))}

    def mine(lane: Lane) -> Lane:
        return replace(lane, owners=tuple(known[number] for number in lane.owners))

    return replace(
        side,
        lane=mine(like.lane) if like.lane is not None else None,
        coded=tuple(mine(lane) for lane in like.coded),
        url=mine(like.url) if like.url is not None else None,
        watch=like.watch,
        untils={known[number]: automaton for number, automaton in like.untils.items()},
        scanner=like.scanner,
    )


def _with_lanes(side: CompiledSide, spans: Sequence[tuple[int, SpanRule]], cache: CompiledCache | None) -> CompiledSide:
    rows = [(branch, number, term, rule) for number, rule in spans for term, branch in enumerate(rule.branches())]
    views = [rule.view for *_, rule in rows]
    lane = _lane([row[:3] for row in rows], views)
    url = None
    if any("url" in rule.decoded for *_, rule in rows):
        # The same automaton as the text's own, whatever it finds for a rule that does not read escapes is left out.
        url = replace(lane, owners=tuple(n if "url" in rule.decoded else NOBODY for _, n, _, rule in rows))
    coded: list[Lane] = []
    for coding in ("base64", "hex"):
        ascii_rows = [
            (as_ascii(branch, lowers=VIEWS[rule.view].lowers), number, term)
            for branch, number, term, rule in rows
            if coding in rule.decoded
        ]
        if ascii_rows:
            same = next(
                (other for other in coded if list(other.automaton.branches) == [r[0] for r in ascii_rows]), None
            )
            made = replace(same, runs=None) if same is not None else _lane(ascii_rows, ["exact"] * len(ascii_rows))
            coded.append(replace(made, runs=Runs(coding, made.automaton)))
    untils = {
        number: Automaton(rule.until_branches(), [rule.view] * len(rule.until_branches()))
        for number, rule in spans
        if isinstance(rule, RegexRule) and rule.until is not None
    }
    scanner = Scanner(lane, coded, url, views, cache)
    watch = RunWatch([each.runs for each in coded if each.runs is not None]) if coded else None
    return replace(side, lane=lane, coded=tuple(coded), url=url, watch=watch, untils=untils, scanner=scanner)


def _lane(rows: Sequence[tuple[Branch, int, int]], views: Sequence[str]) -> Lane:
    branches = tuple(branch for branch, _, _ in rows)
    return Lane(
        automaton=Automaton(branches, views),
        owners=tuple(number for _, number, _ in rows),
        terms=tuple(term for _, _, term in rows),
        rights=tuple(branch.right for branch in branches),
    )


__all__ = ["CompiledBundle", "CompiledSide", "Found", "Lane", "compile_side"]
