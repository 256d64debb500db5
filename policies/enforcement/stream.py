"""Exact hold-back: releases every character that no rule can still claim, and not one that a rule may.

A match of a rule is any substring in its language whose word edges and checksum hold, in the text as the rule's view or
coding reads it. Spans that share a character form one group, replaced as a whole. What is released for a stream equals
what is released for its whole text, however it is cut. The first match of a rule that stops or drops the text, by end,
then by start, takes effect before the group that it starts in.
"""

from __future__ import annotations

from msgspec import Struct

from policies.enforcement.closure import Accept
from policies.enforcement.codings import RunReader, Strand, UrlStrand
from policies.enforcement.judge import OVERFLOW, UNRULED, Entry, Judge, Stop
from policies.enforcement.normalize import clean
from policies.enforcement.scan import CompiledSide, Found, Lane
from policies.enforcement.spans import Hit, Span, Spans, hit_of, placeholder, replaced, replacement
from policies.enforcement.suppress import Drop, DropDecoded, DropMatch, DropRun

MOST_HELD = 262_144
"""Code points a stream may hold; a longer live match or group blocks with the rule id `held-text-limit`."""
FREE_STEPS = 48
WAIT_SHARE = 4
MOST_WAIT = 512
"""After a search for starts that took more than `FREE_STEPS`, a fourth as many characters come in before the next one,
`MOST_WAIT` at most: holding longer is always right, and so a character costs a bounded number of steps."""


class Piece(Struct):
    """What may be released, what was found in it, and the id of the blocking rule if nothing may follow it.

    `aborts`: the rule ends the answer there as if it were finished, with what was released.
    """

    text: str
    hits: tuple[Hit, ...]
    blocked: str | None
    aborts: bool = False


NOTHING = Piece("", (), None)


class HoldBack:
    """The state of one text channel. `push` pieces in order, then `finish`; after a block nothing more is released."""

    __slots__ = (
        "_asleep", "_base", "_before", "_closed", "_drop", "_end", "_judge", "_later", "_limit", "_limited", "_pending",
        "_runs", "_side", "_spans", "_state", "_text", "_url",
    )  # fmt: skip

    def __init__(self, side: CompiledSide, exempt: frozenset[str] = frozenset()) -> None:
        self._side = side
        self._judge = Judge(side, exempt)
        limit = side.limit(exempt)
        self._limit = limit[1] if limit else None
        self._spans = Spans()
        self._drop: Drop | None = None
        self._later = 0  # no search for starts before the text ends there
        self._closed = False
        self._open(0, "")

    def _open(self, place: int, before: str) -> None:
        """Begin to read at a place, after the character `before`."""
        side = self._side
        self._base = self._end = self._asleep = place  # offsets of the held text, of its end, of where `_url` stopped
        self._text, self._before, self._limited = "", before, False
        self._state = side.lane.automaton.enter(before) if side.lane is not None else None
        self._runs = RunReader(side.watch) if side.watch is not None else None
        self._url: UrlStrand | None = None
        self._pending: list[Entry] = []

    @property
    def held(self) -> int:
        """Code points taken in and not yet released; what is being dropped is not held."""
        return len(self._text)

    def push(self, delta: str) -> Piece:
        """Take in more text; return what may be released now."""
        if self._closed or not delta:
            return NOTHING
        delta = clean(delta)
        if self._drop is not None:
            return self._go_on(delta, final=False)
        self._take_in(delta)
        if self._end < self._later:
            return NOTHING
        if self._pending or self._spans:
            return self._settled(final=False)
        cut = self._earliest()
        return self._take(cut) if self._end - cut <= MOST_HELD else self._overflow(cut)

    def finish(self) -> Piece:
        """Return the rest: nothing can follow."""
        if self._closed:
            return NOTHING
        piece = self._go_on("", final=True) if self._drop is not None else self._settled(final=True)
        self.close()
        return piece

    def close(self) -> None:
        """Take in and release nothing more."""
        self._closed, self._text, self._spans, self._drop, self._pending = True, "", Spans(), None, []

    def whole(self, text: str, found: Found) -> Piece:
        """Return what may be released of a whole text; only what was `found` in it can hold a match. For a new one."""
        self._text, self._end = text, len(text)
        lane = self._side.lane
        for start, end in found.regions:
            state = lane.automaton.enter(text[start - 1] if start else "")  # type: ignore[union-attr]
            for place in range(start, end):
                state = state[text[place]]
                if state.accepts:
                    self._pending.append(Entry(place + 1, lane, None, place + 1, state.accepts))
        for number, start, run in found.runs:
            coded = self._side.coded[number]
            for strand, entries in coded.runs.strands(start, run):  # type: ignore[union-attr]
                strand.ended = True
                self._note(coded, strand, entries)
        if found.escaped and self._side.url is not None:
            self._url = UrlStrand(self._side.url.automaton, 0, "")
            self._note(self._side.url, self._url, self._url.feed(text))
        if self._limit is not None and self._limit < self._end:
            self._pass_limit(self._limit, 0)
        return self.finish()

    def _take_in(self, delta: str) -> None:
        """Run everything that reads over new text."""
        start = place = self._end
        self._end, side = place + len(delta), self._side
        state = self._state
        if state is not None:
            for char in delta:
                place += 1
                state = state[char]
                if state.accepts:
                    self._pending.append(Entry(place, side.lane, None, place, state.accepts))
            self._state = state
        if self._runs is not None:
            for number, strand, entries in self._runs.take(delta, start):
                self._note(side.coded[number], strand, entries)
        if side.url is not None and (self._url is not None or "%" in delta):
            self._take_escaped(side.url, delta, start)
        self._text += delta
        if self._limit is not None and self._limit < self._end:
            self._pass_limit(self._limit, start)

    def _pass_limit(self, limit: int, start: int) -> None:
        """Note the first character past the limit; one in a dropped part counts with the first after it."""
        if start < self._end and not self._limited:
            self._limited, place = True, max(limit, start) + 1
            self._pending.append(Entry(place, None, None, place, ()))

    def _take_escaped(self, lane: Lane, delta: str, place: int) -> None:
        """Read percent escapes. Without one in it a text says what it spells, so this begins with the first `%`."""
        if self._url is None:
            begin = max(self._asleep, self._base)
            at = begin - self._base
            self._url = UrlStrand(lane.automaton, begin, self._text[at - 1] if at else self._before)
            delta = self._text[at:] + delta
        self._note(lane, self._url, self._url.feed(delta))

    def _note(self, lane: Lane, strand: Strand, entries: list[tuple[int, tuple[Accept, ...]]]) -> None:
        for place, accepts in entries:
            self._pending.append(Entry(strand.source_end(place), lane, strand, place, accepts))

    def _go_on(self, delta: str, *, final: bool) -> Piece:
        """Take in more text while dropping; what follows the dropped part is read as a new text."""
        pieces: list[Piece] = []
        while True:
            drop = self._drop
            if drop is not None:
                rest = drop.feed(delta, final=final)
                if rest is None:
                    break
                pieces.append(self._dropped(drop))
                self._open(drop.place, drop.last)
                delta = rest
            self._take_in(delta)
            piece, rest = self._settle(final=final)
            pieces.append(piece)
            if rest is None:
                return _join(pieces)
            delta = rest
        if final:
            pieces.append(self._dropped(drop))
        return _join(pieces)

    def _dropped(self, drop: Drop) -> Piece:
        """Report a dropped part, now that its end is known."""
        self._drop = None
        return Piece("", (hit_of(Span(drop.start, drop.place, drop.rule), self._side.rules),), None)

    def _settled(self, *, final: bool) -> Piece:
        piece, rest = self._settle(final=final)
        return piece if rest is None else _join([piece, self._go_on(rest, final=final)])

    def _settle(self, *, final: bool) -> tuple[Piece, str | None]:
        """Decide what can be, release what may be; return with it the text that follows where dropping began."""
        if final:
            if self._runs is not None:
                self._runs.finish()
            if self._url is not None and self._side.url is not None:
                self._note(self._side.url, self._url, self._url.finish())
        ready = self._ready(final)
        stop, spans, steps = self._judge.decide(ready, self._text, self._base, self._before)
        self._spans.add(spans)
        if stop is not None:
            return self._stop(stop)
        self._waits(steps + self._spans.count)
        cut = self._end if final else self._earliest()
        if self._end - cut > MOST_HELD:
            return self._overflow(cut), None
        return self._take(cut), None

    def _ready(self, final: bool) -> list[Entry]:
        """Take out the pending matches whose right neighbour is known and that no earlier one can join any more."""
        if final:
            ready, self._pending = self._pending, []
            return sorted(ready, key=lambda entry: entry.place)
        horizon = end = self._end
        if self._url is not None and self._url.tail:
            horizon = end - len(self._url.tail) + 1
        for entry in self._pending:
            strand = entry.strand
            if entry.place >= end if strand is None else not strand.ended and entry.at >= strand.size:
                horizon = min(horizon, entry.place)
        ready = [entry for entry in self._pending if entry.place < horizon]
        self._pending = [entry for entry in self._pending if entry.place >= horizon]
        return sorted(ready, key=lambda entry: entry.place)

    def _earliest(self) -> int:
        """Return the start of the earliest match that may still come to be, or the end of the text."""
        end = cut = self._end
        base, text, taken = self._base, self._text, 0
        state = self._state
        if state is not None and state.live:
            start, taken = state.automaton.leftmost(text, len(text), self._before, state.places)
            cut = cut if start is None else base + start
        if self._runs is not None and (held := self._runs.held()):
            cut = min(cut, end - held)
            for strand in self._runs.strands():
                start, steps = strand.earliest()
                cut, taken = cut if start is None else min(cut, start), taken + steps
        if self._url is not None:
            cut, steps = self._earliest_escaped(self._url, cut)
            taken += steps
        for entry in self._pending:
            start, steps = self._judge.earliest(entry, text, base, self._before)
            cut, taken = min(cut, start), taken + steps
        if taken:
            self._waits(taken)
        return cut

    def _earliest_escaped(self, url: UrlStrand, cut: int) -> tuple[int, int]:
        """Return the earliest of a place and what percent escapes may make a match of; go to sleep where nothing is."""
        if not url.tail and not url.state.live and not url.state.accepts and url.literal:
            self._url, self._asleep = None, self._end
            return cut, 0
        start, steps = url.earliest()
        return min(cut, self._end - len(url.tail), cut if start is None else start), steps

    def _waits(self, steps: int) -> None:
        """After a long search, let some text come in before the next one."""
        if steps > FREE_STEPS:
            self._later = max(self._later, self._end + min(steps // WAIT_SHARE, MOST_WAIT))

    def _take(self, cut: int) -> Piece:
        """Release what lies before a place, with its groups replaced; a group that crosses it is kept back whole."""
        groups: list[list[Span]] = []
        if self._spans:
            cut, groups = self._spans.take_before(cut)
        text, base, rules = self._text, self._base, self._side.rules
        size = cut - base
        if size == 0:
            return NOTHING
        released = text[:size]
        self._base, self._text, self._before = cut, text[size:], text[size - 1]
        if self._runs is not None:
            for strand in self._runs.strands():
                strand.forget(cut)
        if self._url is not None:
            self._url.forget(cut)
        if not groups:
            return Piece(released, (), None)
        hits = tuple([hit_of(span, rules) for group in groups for span in group])
        return Piece(replaced(released, base, groups, rules), hits, None)

    def _stop(self, stop: Stop) -> tuple[Piece, str | None]:
        """End the text before a match that stops it, or begin to drop at one that drops."""
        piece, rules = self._take(stop.start), self._side.rules
        if stop.drops:
            return self._begin_drop(stop, piece)
        self.close()
        hits = piece.hits
        if stop.rule != UNRULED:
            hits = (*hits, hit_of(Span(stop.start, stop.end, stop.rule), rules))
        return Piece(piece.text, hits, stop.name, stop.aborts), None

    def _begin_drop(self, stop: Stop, piece: Piece) -> tuple[Piece, str]:
        """Put one placeholder for the match that drops, the spans that it touches, and what will be dropped."""
        group, rules = self._spans.take_all(), self._side.rules
        text = piece.text + replacement([*group, Span(stop.start, stop.end, stop.rule)], rules, 0)
        at = stop.end - self._base
        last, rest = self._text[at - 1], self._text[at:]
        automaton = self._side.untils[stop.rule]
        if stop.lane is self._side.url and isinstance(stop.strand, UrlStrand):
            inner = stop.strand.text[stop.at - stop.strand.shift - 1]
            strand = UrlStrand(automaton, stop.end, inner)
            self._drop = DropDecoded(stop.rule, stop.start, stop.end, last, strand)
        elif stop.lane is not None and stop.lane.runs is not None:
            self._drop = DropRun(stop.rule, stop.start, stop.end, last, stop.lane.runs.alphabet)
        else:
            self._drop = DropMatch(stop.rule, stop.start, stop.end, last, automaton)
        self._text, self._pending, self._later = "", [], 0
        return Piece(text, (*piece.hits, *(hit_of(span, rules) for span in group)), None), rest

    def _overflow(self, cut: int) -> Piece:
        piece = self._take(cut)
        self.close()
        return Piece(piece.text, piece.hits, OVERFLOW)


def _join(pieces: list[Piece]) -> Piece:
    """Return pieces that follow one another as one."""
    hits = tuple([hit for piece in pieces for hit in piece.hits])
    last = pieces[-1] if pieces else NOTHING
    return Piece("".join([piece.text for piece in pieces]), hits, last.blocked, last.aborts)


__all__ = ["MOST_HELD", "NOTHING", "OVERFLOW", "Hit", "HoldBack", "Piece", "placeholder"]
