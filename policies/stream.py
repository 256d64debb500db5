"""Exact hold-back: releases every character that no rule can still claim, and not one that a rule may.

A match of a rule is any substring in its language whose word edges and checksum hold. Spans that share a character form
one cluster, replaced as a whole. What is released for a stream equals what is released for its whole text, however it
is cut. The first match of a blocking rule, by end, then by start, ends the text before the cluster that it starts in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, groupby

from policies.closure import Accept, Forward, Trail
from policies.normalize import clean, is_word
from policies.rules import RegexRule, TopicRule
from policies.scan import CompiledSide, Region

MOST_HELD = 262_144
"""Code points a stream may hold; a longer live match or cluster blocks with the rule id below."""
OVERFLOW = "held-text-limit"
_LIMIT = -1  # the lane of a pending length limit


@dataclass(frozen=True, slots=True)
class Hit:
    """What one rule found: code points of the original text; matches of a rule that overlap are one hit."""

    rule: str
    type: str
    action: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What may be released, what was found in it, and the id of the blocking rule if nothing may follow it."""

    text: str
    hits: tuple[Hit, ...]
    blocked: str | None


NOTHING = Piece("", (), None)


@dataclass(slots=True)
class _Span:
    start: int
    end: int
    rule: int


class HoldBack:
    """The state of one text channel. `push` pieces in order, then `finish`; after a block nothing more is released."""

    def __init__(self, side: CompiledSide, exempt: frozenset[str] = frozenset()) -> None:
        self._side = side
        self._active = tuple(rule.id not in exempt for rule in side.rules)
        self._limit = side.limit[1] if side.limit and self._active[side.limit[0]] else None
        self._base, self._text, self._before = 0, "", ""  # offset of the held text, the text, the character before it
        self._states: list[Forward] = [lane.automaton.enter("") for lane in side.lanes]
        self._pending: list[tuple[int, int, tuple[Accept, ...]]] = []  # (end, lane, accepts), word edge not yet known
        self._spans: dict[int, list[_Span]] = {}  # rule -> what it found in the held text, in order
        self._seen: dict[int, set[int]] = {}  # topic rule -> its keywords seen so far
        self._trails: dict[tuple[int, int], Trail] = {}  # (lane, branch or -1) -> where walks went
        self._closed = False

    @property
    def held(self) -> int:
        """Code points taken in and not yet released."""
        return len(self._text)

    def push(self, delta: str) -> Piece:
        """Take in more text; return what may be released now."""
        if self._closed or not delta:
            return NOTHING
        delta = clean(delta)
        end = self._base + len(self._text)
        self._text += delta
        live = self._step(delta, end)
        if self._pending or self._spans:
            return self._settle(final=False)
        end += len(delta)
        cut = self._earliest(end) if live else end
        return self._take(cut, []) if end - cut <= MOST_HELD else self._overflow(cut)

    def finish(self) -> Piece:
        """Return the rest: nothing can follow."""
        if self._closed:
            return NOTHING
        piece = self._settle(final=True)
        self._closed = True
        return piece

    def close(self) -> None:
        """Take in and release nothing more."""
        self._closed, self._text, self._spans = True, "", {}

    def whole(self, text: str, regions: Iterable[tuple[int, Region]]) -> Piece:
        """Return what may be released of a whole text; only `regions` of it can hold a match. For a new instance."""
        self._text = text
        for lane, (start, end) in regions:
            state = self._side.lanes[lane].automaton.enter(text[start - 1] if start else "")
            for place in range(start, end):
                state = state[text[place]]
                if state.accepts:
                    self._pending.append((place + 1, lane, state.accepts))
        if self._limit is not None and len(text) > self._limit:
            self._pending.append((self._limit + 1, _LIMIT, ()))
        return self.finish()

    def _step(self, delta: str, end: int) -> bool:
        """Run every lane over new text; return whether any partial match is live."""
        live, pending = False, self._pending
        for lane, state in enumerate(self._states):
            place = end
            for char in delta:
                place += 1
                state = state[char]
                if state.accepts:
                    pending.append((place, lane, state.accepts))
            self._states[lane] = state
            live = live or state.live
        if self._limit is not None and end <= self._limit < end + len(delta):
            pending.append((self._limit + 1, _LIMIT, ()))
        return live

    def _settle(self, *, final: bool) -> Piece:
        """Decide the matches whose right neighbour is known, then release up to the earliest live partial match."""
        end = self._base + len(self._text)
        ready = sorted((entry for entry in self._pending if final or entry[0] < end), key=lambda entry: entry[0])
        self._pending = [] if final else [entry for entry in self._pending if entry[0] >= end]
        for place, group in groupby(ready, key=lambda entry: entry[0]):
            blocking = self._decide(place, [(lane, accepts) for _, lane, accepts in group])
            if blocking is not None:
                return self._block(blocking)
        cut = end if final else self._earliest(end)
        if end - cut > MOST_HELD:
            return self._overflow(cut)
        return self._release(cut)

    def _decide(self, place: int, found: list[tuple[int, tuple[Accept, ...]]]) -> _Span | None:
        """Note all matches that end at a place; return the one that blocks, if any."""
        blocking = []
        for lane, accepts in found:
            if lane == _LIMIT and self._side.limit is not None:
                blocking.append(_Span(place - 1, place, self._side.limit[0]))
            for branch, part, places in accepts:
                span = self._match(place, lane, branch, part, places)
                if span is None:
                    continue
                rule = self._side.rules[span.rule]
                if isinstance(rule, TopicRule):
                    self._seen.setdefault(span.rule, set()).add(branch)
                    blocking.append(span)
                elif rule.action == "block":
                    blocking.append(span)
                else:
                    self._note(span)
        blocking = [span for span in blocking if self._is_due(span)]
        return min(blocking, key=lambda span: (span.start, span.rule)) if blocking else None

    def _is_due(self, span: _Span) -> bool:
        rule = self._side.rules[span.rule]
        return not isinstance(rule, TopicRule) or len(self._seen[span.rule]) >= rule.at_least

    def _match(self, place: int, lane: int, branch: int, part: int | None, places: int) -> _Span | None:
        """Return the longest match of a branch that ends at a place, or None if its edges or checksum do not hold."""
        track = self._side.lanes[lane]
        number, end = track.owners[branch], place - self._base
        if not self._active[number]:
            return None
        if track.branches[branch].right and is_word(self._text[end - 1]) == is_word(self._text[end : end + 1]):
            return None
        rule, text = self._side.rules[number], self._text
        judge: Callable[[int], bool] | Trail = self._trail(lane, branch)
        if isinstance(rule, RegexRule) and rule.check is not None:
            judge = lambda start: rule.passes(text[start:end])  # noqa: E731
        start = track.automaton.leftmost(text, end, self._before, places, part, judge)
        return None if start is None else _Span(self._base + start, place, number)

    def _note(self, span: _Span) -> None:
        """Keep a span, joined with those of its rule that it overlaps. Spans come in the order of their ends."""
        spans = self._spans.setdefault(span.rule, [])
        while spans and spans[-1].end > span.start:
            span = _Span(min(span.start, spans.pop().start), span.end, span.rule)
        spans.append(span)

    def _earliest(self, end: int) -> int:
        """Return the start of the earliest match that may still come to be, or the end of the text."""
        cut = end
        for lane, state in enumerate(self._states):
            if state.live:
                automaton, trail = self._side.lanes[lane].automaton, self._trail(lane, -1)
                start = automaton.leftmost(self._text, len(self._text), self._before, state.places, None, trail)
                cut = cut if start is None else min(cut, self._base + start)
        for place, lane, accepts in self._pending:
            if lane == _LIMIT:
                cut = min(cut, place - 1)
            for _, part, places in accepts:
                track = self._side.lanes[lane]
                start = track.automaton.leftmost(self._text, place - self._base, self._before, places, part)
                cut = cut if start is None else min(cut, self._base + start)
        return cut

    def _trail(self, lane: int, branch: int) -> Trail:
        """Return where walks for a branch, or for all live places of a lane (-1), went."""
        trail = self._trails.get((lane, branch))
        if trail is None:
            trail = self._trails[lane, branch] = Trail(self._base)
        trail.shift = self._base
        return trail

    def _clusters(self) -> list[list[_Span]]:
        """Return the spans in groups that share characters, in order."""
        groups: list[list[_Span]] = []
        reach = -1
        for span in sorted(
            chain.from_iterable(self._spans.values()), key=lambda span: (span.start, span.end, span.rule)
        ):
            if span.start < reach:
                groups[-1].append(span)
            else:
                groups.append([span])
            reach = max(reach, span.end)
        return groups

    def _release(self, cut: int) -> Piece:
        """Release what lies before a place; a cluster that crosses it is kept back whole."""
        clusters = self._clusters() if self._spans else []
        for cluster in clusters:
            start, end = cluster[0].start, max(span.end for span in cluster)
            if start < cut < end:
                cut = start
        done = [cluster for cluster in clusters if cluster[0].start < cut]
        self._spans = {}
        for span in sorted(chain.from_iterable(clusters[len(done) :]), key=lambda span: span.end):
            self._spans.setdefault(span.rule, []).append(span)
        return self._take(cut, done)

    def _take(self, cut: int, clusters: list[list[_Span]]) -> Piece:
        """Return the text up to a place with its clusters replaced, and forget it."""
        text, base = self._text, self._base
        size = cut - base
        if size == 0:
            return NOTHING
        released, hits = text[:size], tuple(hit for cluster in clusters for hit in map(self._hit, cluster))
        if clusters:
            parts, place = [], 0
            for cluster in clusters:
                start, end = cluster[0].start - base, max(span.end for span in cluster) - base
                parts += [text[place:start], self._replacement(cluster, end - start)]
                place = end
            released = "".join([*parts, text[place:size]])
        self._base, self._text, self._before = cut, text[size:], text[size - 1]
        return Piece(released, hits, None)

    def _replacement(self, cluster: list[_Span], size: int) -> str:
        """Return the placeholder of the first rule that redacts, else one star a character."""
        redacting = [span.rule for span in cluster if self._side.rules[span.rule].action == "redact"]
        return placeholder(self._side.rules[min(redacting)].type) if redacting else "*" * size

    def _hit(self, span: _Span) -> Hit:
        rule = self._side.rules[span.rule]
        return Hit(rule.id, rule.type, rule.action, span.start, span.end)

    def _block(self, span: _Span) -> Piece:
        piece = self._release(span.start)
        self.close()
        rule = self._side.rules[span.rule]
        return Piece(piece.text, (*piece.hits, self._hit(span)), rule.id)

    def _overflow(self, cut: int) -> Piece:
        piece = self._release(cut)
        self.close()
        return Piece(piece.text, piece.hits, OVERFLOW)


def placeholder(kind: str) -> str:
    """Return what stands in the place of a redacted span."""
    return f"[REDACTED:{kind}]"
