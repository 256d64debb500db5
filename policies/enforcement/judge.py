"""Which of the matches that end in a text count: word edges, checksums, and the first that stops or drops the text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from policies.enforcement.closure import Accept
from policies.enforcement.codings import Strand
from policies.enforcement.normalize import is_word, see
from policies.enforcement.rules import RegexRule, SpanRule, TopicRule
from policies.enforcement.scan import CompiledSide, Lane
from policies.enforcement.scanner import NOBODY
from policies.enforcement.spans import Span

OVERFLOW = "held-text-limit"
WORK_LIMIT = "work-limit"
UNRULED = -1
MOST_REMEMBERED = 256
"""Texts whose checksum is remembered: hostile texts repeat themselves."""
FREE_WORK = 400_000
WORK_PER_CHARACTER = 300
"""Characters that checksums may read in a text of n code points: the first, plus n times the second. More blocks with
the id `work-limit`. It counts what is in the text and nothing else, so it is the same for every chunking."""


class Entry(NamedTuple):
    """Matches that end at a place of the original text: at `at` of the strand, or of the text itself."""

    place: int
    lane: Lane | None
    """None for the length limit."""
    strand: Strand | None
    at: int
    accepts: tuple[Accept, ...]


class Stop(NamedTuple):
    """What ends the text, or begins a part that is dropped. `rule` is `UNRULED` where no rule of the bundle does."""

    start: int
    order: int
    end: int
    rule: int
    name: str
    aborts: bool = False
    drops: bool = False
    lane: Lane | None = None
    strand: Strand | None = None
    at: int = 0


class Judge:
    """Decides matches in the order of their ends; remembers a text's topics and what its checksums have cost."""

    __slots__ = ("_active", "_judged", "_limit", "_seen", "_side", "_work")

    def __init__(self, side: CompiledSide, exempt: frozenset[str]) -> None:
        self._side = side
        self._limit = (side.limit(exempt) or (UNRULED, 0))[0]
        self._active = side.all_active if not exempt else tuple(rule.id not in exempt for rule in side.rules)
        self._seen: dict[int, set[int]] = {}  # topic rule -> its keywords seen so far
        self._judged: dict[tuple[str, str], bool] = {}  # what checksums said of the last texts
        self._work = 0

    def decide(self, ready: Sequence[Entry], text: str, base: int, before: str) -> tuple[Stop | None, list[Span], int]:
        """Return the first stop, the spans of the rules that redact or mask up to it, and the steps it took.

        `text` begins at `base` of the original, after the character `before`.
        """
        spans: list[Span] = []
        open_ends: dict[tuple[int, int], list[tuple[Entry, Accept]]] = {}
        reading = _Reading(text, base, before)
        for place, group in groupby(ready, key=lambda entry: entry.place):
            stops = []
            for entry in group:
                stops += self._entry(entry, reading, spans, open_ends)
            if self._work > FREE_WORK + WORK_PER_CHARACTER * place:
                starts = [reading.original(*found)[0] for found in self._ending(open_ends, place)]
                starts += [span.start for span in spans if span.end == place] + [stop.start for stop in stops]
                stops.append(Stop(min([place, *starts]), -1, place, UNRULED, WORK_LIMIT))
            if stops:
                stop = min(stops, key=lambda stop: (stop.start, stop.order))
                return stop, spans + self._cover(open_ends, reading), reading.steps
        return None, spans + self._cover(open_ends, reading), reading.steps

    def earliest(self, entry: Entry, text: str, base: int, before: str) -> tuple[int, int]:
        """Return the start of the longest match of an entry, and the steps it took to find."""
        reading = _Reading(text, base, before)
        starts = [reading.start(entry, accept) for accept in entry.accepts]
        return min(starts, default=entry.place - 1), reading.steps

    def _entry(
        self,
        entry: Entry,
        reading: _Reading,
        spans: list[Span],
        open_ends: dict[tuple[int, int], list[tuple[Entry, Accept]]],
    ) -> list[Stop]:
        """Sort the matches of one entry: into spans, into ends whose start is found later, and stops, returned."""
        lane, rules = entry.lane, self._side.rules
        if lane is None:
            number = self._limit
            return [Stop(entry.place - 1, number, entry.place, number, rules[number].id)]
        stops = []
        for accept in entry.accepts:
            number = lane.owners[accept[0]]
            if number == NOBODY or not self._active[number]:
                continue
            if lane.rights[accept[0]] and not reading.is_right_edge(entry):
                continue
            rule = rules[number]
            if isinstance(rule, TopicRule):
                stops += self._topic(entry, accept, number, rule, reading)
            elif isinstance(rule, RegexRule) and rule.check is not None:
                start = self._passing(entry, accept, rule, reading)
                if start is not None:
                    span = Span(*reading.span(entry, start), number)
                    stops += self._stop_or_span(entry, span, spans)
            elif self._ends_text(number):
                stops.append(self._stop(entry, number, reading.start(entry, accept)))
            else:
                open_ends.setdefault((id(entry.strand), accept[0]), []).append((entry, accept))
        return stops

    def _topic(self, entry: Entry, accept: Accept, number: int, rule: TopicRule, reading: _Reading) -> list[Stop]:
        """Note a keyword of a topic; return the stop if enough different ones were seen."""
        seen = self._seen.setdefault(number, set())
        seen.add(entry.lane.terms[accept[0]])  # type: ignore[union-attr]
        return [self._stop(entry, number, reading.start(entry, accept))] if len(seen) >= rule.at_least else []

    def _stop_or_span(self, entry: Entry, span: Span, spans: list[Span]) -> list[Stop]:
        """Return a match as a stop where its rule stops or drops the text, else keep it as a span."""
        if self._ends_text(span.rule):
            return [self._stop(entry, span.rule, span.start)]
        spans.append(span)
        return []

    def _ends_text(self, number: int) -> bool:
        rule = self._side.rules[number]
        return number in self._side.untils or (isinstance(rule, SpanRule) and rule.stops)

    def _stop(self, entry: Entry, number: int, start: int) -> Stop:
        rule = self._side.rules[number]
        drops, aborts = number in self._side.untils, getattr(rule, "action", "") == "abort"
        return Stop(start, number, entry.place, number, rule.id, aborts, drops, entry.lane, entry.strand, entry.at)

    def _passing(self, entry: Entry, accept: Accept, rule: RegexRule, reading: _Reading) -> int | None:
        """Return the smallest start, in what the rule reads, from which the checksum holds."""
        text, end, _ = reading.of(entry)
        starts = reading.starts(entry, accept)
        if not starts:
            return None
        first = starts[-1]
        # A text without an escape says what it spells: what is read of it again is not counted again.
        counted = entry.strand is None or entry.place - reading.span(entry, first)[0] > end - first
        passed, work = (first if self._passes(rule, text[first:end]) else None), end - first
        if passed is None:
            for start in starts[-2::-1]:
                work += end - start
                if self._passes(rule, text[start:end]):
                    passed = start
                    break
        self._work += work if counted else 0
        return passed

    def _passes(self, rule: RegexRule, text: str) -> bool:
        key = (rule.id, text)
        passed = self._judged.get(key)
        if passed is None:
            if len(self._judged) >= MOST_REMEMBERED:
                self._judged.clear()
            passed = rule.passes(see(text, "lookalike") if rule.view == "lookalike" else text)
            self._judged[key] = passed
        return passed

    def _cover(self, open_ends: dict[tuple[int, int], list[tuple[Entry, Accept]]], reading: _Reading) -> list[Span]:
        """Return the unions of the longest matches that end at each of the ends, branch by branch."""
        spans: list[Span] = []
        for (_, branch), found in open_ends.items():
            whole = [pair for pair in found if pair[1][1] is None]
            lane = found[0][0].lane
            number = lane.owners[branch]  # type: ignore[union-attr]
            spans += [Span(*reading.original(*pair), number) for pair in found if pair[1][1] is not None]
            spans += [Span(start, end, number) for start, end in reading.cover(whole)] if whole else []
        return spans

    @staticmethod
    def _ending(
        open_ends: dict[tuple[int, int], list[tuple[Entry, Accept]]], place: int
    ) -> Iterable[tuple[Entry, Accept]]:
        return [pair for found in open_ends.values() for pair in found if pair[0].place == place]


class _Reading:
    """The texts that entries speak of, with where they came from; counts the steps of walks over them."""

    __slots__ = ("base", "before", "steps", "text")

    def __init__(self, text: str, base: int, before: str) -> None:
        self.text, self.base, self.before, self.steps = text, base, before, 0

    def of(self, entry: Entry) -> tuple[str, int, str]:
        """Return the text an entry is of, where in it the entry is, and the character before it."""
        strand = entry.strand
        if strand is None:
            return self.text, entry.place - self.base, self.before
        return strand.text, entry.at - strand.shift, strand.before

    def is_right_edge(self, entry: Entry) -> bool:
        """Say whether there is a word edge after an entry."""
        text, end, _ = self.of(entry)
        return is_word(text[end - 1]) != is_word(text[end : end + 1])

    def local_start(self, entry: Entry, accept: Accept) -> int | None:
        """Return the start of the longest match, in its own text."""
        text, end, before = self.of(entry)
        _, part, places = accept
        start, steps = entry.lane.automaton.leftmost(text, end, before, places, part)  # type: ignore[union-attr]
        self.steps += steps
        return start

    def starts(self, entry: Entry, accept: Accept) -> list[int]:
        """Return every start of a match, in its own text, the nearest first; these steps are never taken again."""
        text, end, before = self.of(entry)
        _, part, places = accept
        return entry.lane.automaton.starts(text, end, before, places, part)[0]  # type: ignore[union-attr]

    def span(self, entry: Entry, start: int) -> tuple[int, int]:
        """Return a match in its own text as a span of the original."""
        strand = entry.strand
        return (self.base + start if strand is None else strand.source(strand.shift + start)), entry.place

    def original(self, entry: Entry, accept: Accept) -> tuple[int, int]:
        """Return the longest match as a span of the original."""
        start = self.local_start(entry, accept)
        return (entry.place, entry.place) if start is None else self.span(entry, start)

    def start(self, entry: Entry, accept: Accept) -> int:
        """Return where the longest match starts in the original."""
        return self.original(entry, accept)[0]

    def cover(self, found: Sequence[tuple[Entry, Accept]]) -> list[tuple[int, int]]:
        """Return the union of the longest matches of a branch in one text, as spans of the original."""
        first = found[0][0]
        text, _, before = self.of(first)
        ends = [(self.of(entry)[1], accept[2]) for entry, accept in found]
        strand = first.strand
        spans, steps = first.lane.automaton.cover(text, before, ends)  # type: ignore[union-attr]
        self.steps += steps
        if strand is None:
            return [(self.base + start, self.base + end) for start, end in spans]
        return [(strand.source(strand.shift + start), strand.source_end(strand.shift + end)) for start, end in spans]
