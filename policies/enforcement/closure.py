"""Exact matching on growing text: position automata of all rules, on every view at once, run as lazily built tables.

Forward, a state says which positions of which patterns are reached by some start in the text: which matches end here,
and whether anything is still live. Backward from there, the same positions are walked to the left until none is left:
the last place that opens a pattern is the start of the longest match, or of the earliest live partial match (the walk
runs the prefix closure of every rule at once). Sets of positions are the bits of an integer, so a chain of positions
moves by one shift. Glushkov, "The abstract theory of automata", 1961; Navarro and Raffinot, "Flexible Pattern Matching
in Strings", 2002, ch. 5.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.enforcement.layout import Layout, Places
from policies.enforcement.normalize import VIEWS, is_word
from policies.enforcement.pattern import Branch

MOST_KEPT = 160_000
"""Size of the tables, in units of about 100 bytes, at which they are dropped and built anew: bounds memory."""

Accept = tuple[int, int | None, Places]
"""(branch, how much of the last character, as its view reads it, the match has or None for all, positions)."""
Readings = list[tuple[Places, list[Places]]]
"""For each view: its positions, and those that hold each of the characters that one character is on the view."""


class Forward(dict[str, "Forward"]):
    """A state after some character; `state[char]` is the next one. `accepts` are the matches that end here."""

    __slots__ = ("accepts", "automaton", "live", "places", "word")

    def __init__(self, automaton: Automaton, places: Places, word: bool, accepts: tuple[Accept, ...]) -> None:
        super().__init__()
        self.automaton, self.places, self.word, self.accepts = automaton, places, word, accepts
        self.live = bool(places)

    def __missing__(self, char: str) -> Forward:
        state = self.automaton.advance(self, char)
        self[char] = state
        return state


class Backward(dict[str, "Backward"]):
    """A state before some character. `plain`: a match may start there; `edge`: it may if there is a word edge."""

    __slots__ = ("automaton", "edge", "joined", "places", "plain")

    def __init__(self, automaton: Automaton, places: Places, plain: bool, edge: bool) -> None:
        super().__init__()
        self.automaton, self.places, self.plain, self.edge = automaton, places, plain, edge
        self.joined: dict[Places, Backward] = {}

    def __missing__(self, char: str) -> Backward:
        state = self.automaton.retreat(self.places, char)
        self[char] = state
        return state

    def join(self, places: Places) -> Backward:
        """Return the state that also goes on from more places; where it opens is not repeated."""
        state = self.joined.get(places)
        if state is None:
            state = self.joined[places] = self.automaton.before(self.places | places)
        return state


class Automaton:
    """The positions of all branches; `views` names the view of each, `exact` where it is left out.

    Reads original characters and takes them to the views itself.
    """

    def __init__(self, branches: Sequence[Branch], views: Sequence[str] = ()) -> None:
        names = list(views) or ["exact"] * len(branches)
        self.branches = tuple(branches)
        self._layout = Layout(self.branches)
        self._groups = [(VIEWS[name], self._layout.of_branches(names, name)) for name in dict.fromkeys(names)]
        self._forward: dict[tuple[Places, bool, tuple[Accept, ...]], Forward] = {}
        self._backward: dict[tuple[Places, bool, bool], Backward] = {}
        self._readings: dict[str, Places | Readings] = {}
        self._kept = 0

    @property
    def size(self) -> int:
        """How many positions there are."""
        return len(self._layout.owners)

    def enter(self, previous: str) -> Forward:
        """Return the state in which nothing is live, after the character `previous` (empty at the start of a text)."""
        return self._forward_state(0, is_word(previous), ())

    def before(self, places: Places) -> Backward:
        """Return the state from which a walk back from `places` begins."""
        return self._backward_state(places, plain=False, edge=False)

    def leftmost(
        self, text: str, end: int, before: str, places: Places, part: int | None = None
    ) -> tuple[int | None, int]:
        """Return the smallest start from which `places` is reached at `end`, or None, and how many steps it took.

        `before` is the character before `text`, empty at the start. `part` counts the characters that `text[end - 1]`
        is on the view to read, when a match ends inside of it.
        """
        found: int | None = None
        state, place = self.before(places), end
        if part is not None:
            place -= 1
            char = text[place]
            state = self.retreat(places, char, part)
            if state.plain or (state.edge and is_word(text[place - 1] if place else before) != is_word(char)):
                found = place
        while place > 0 and state.places:
            place -= 1
            state = state[text[place]]
            if state.plain or (state.edge and is_word(text[place - 1] if place else before) != is_word(text[place])):
                found = place
        return found, end - place

    def starts(
        self, text: str, end: int, before: str, places: Places, part: int | None = None
    ) -> tuple[list[int], int]:
        """Return every start from which `places` is reached at `end`, the nearest first, and how many steps it took."""
        found: list[int] = []
        state, place = self.before(places), end
        while place > 0:
            place -= 1
            char = text[place]
            state = state[char] if part is None else self.retreat(places, char, part)
            part = None
            if state.plain or (state.edge and is_word(text[place - 1] if place else before) != is_word(char)):
                found.append(place)
            if not state.places:
                break
        return found, end - place

    def cover(self, text: str, before: str, ends: list[tuple[int, Places]]) -> tuple[list[tuple[int, int]], int]:
        """Return the union of the longest matches of a branch that end at `ends`, and the steps it took.

        One walk serves many ends. From the last end on, an end that is passed before any start is found lies inside of
        the match, so the walk goes on from both. Ends passed later are set aside until the walk is over: those that
        its start lies before are walked from next.
        """
        out: list[tuple[int, int]] = []
        waiting, steps = list(ends), 0
        while waiting:
            joined = [waiting.pop()]
            last, start = joined[0][0], None
            while joined:
                aside, least, count = self._round(text, before, joined, waiting, start is None)
                steps += count
                start = least if start is None or (least is not None and least < start) else start
                edge = last if start is None else start
                joined = [end for end in aside if end[0] > edge]
                waiting += [end for end in reversed(aside) if end[0] <= edge]
            if start is not None:
                out.append((start, last))
        out.reverse()
        return out, steps

    def _round(
        self, text: str, before: str, joined: list[tuple[int, Places]], waiting: list[tuple[int, Places]], first: bool
    ) -> tuple[list[tuple[int, Places]], int | None, int]:
        """Walk back from ends that belong together; return the ends set aside, the smallest start and the steps.

        `joined` is in falling order. In the `first` round ends of `waiting` join until a start is found.
        """
        aside: list[tuple[int, Places]] = []
        least: int | None = None
        sources = joined[::-1]
        place, places = sources.pop()
        begun, state = place, self.before(places)
        while place > 0:
            place -= 1
            char = text[place]
            state = state[char]
            if state.plain or (state.edge and is_word(text[place - 1] if place else before) != is_word(char)):
                least = place
            if sources and sources[-1][0] == place:
                state = state.join(sources.pop()[1])
            elif waiting and waiting[-1][0] == place:
                if first and least is None:
                    state = state.join(waiting.pop()[1])
                else:
                    aside.append(waiting.pop())
            if not state.places:
                if not sources:
                    break
                place, places = sources.pop()
                while waiting and waiting[-1][0] >= place:
                    aside.append(waiting.pop())
                state = self.before(places)
        return aside, least, begun - place

    def advance(self, state: Forward, char: str) -> Forward:
        """Return the state after one more character: every place that continues, and every place that opens here."""
        self._keep(1)
        layout, word = self._layout, is_word(char)
        opening = layout.plain | layout.edge if word != state.word else layout.plain
        reading = self._reading(char)
        accepts: list[Accept] = []
        if isinstance(reading, int):
            places = (layout.after(state.places) | opening) & reading
            if ending := places & layout.closes:
                accepts += layout.by_branch(ending, None)
            return self._forward_state(places, word, tuple(accepts))
        out: Places = 0
        for mask, steps in reading:
            places, opens = state.places & mask, opening & mask
            for count, holders in enumerate(steps, 1):
                places = (layout.after(places) | opens) & holders
                if ending := places & layout.closes:
                    accepts += layout.by_branch(ending, count if count < len(steps) else None)
            out |= places
        return self._forward_state(out, word, tuple(accepts))

    def retreat(self, places: Places, char: str, part: int | None = None) -> Backward:
        """Return the state one original character further left; of what it is on a view, only `part` is read."""
        self._keep(1)
        layout, reading = self._layout, self._reading(char)
        if isinstance(reading, int):
            matched = places & reading
            plain, edge = bool(matched & layout.plain), bool(matched & layout.edge)
            return self._backward_state(layout.ahead_of(matched), plain=plain, edge=edge)
        plain = edge = False
        out: Places = 0
        for mask, steps in reading:
            left = places & mask
            for holders in reversed(steps[:part]):
                matched = left & holders
                plain, edge = plain or bool(matched & layout.plain), edge or bool(matched & layout.edge)
                left = layout.ahead_of(matched)
            out |= left
        return self._backward_state(out, plain=plain, edge=edge)

    def _keep(self, size: int) -> None:
        """Note what is kept in the tables; past the limit, drop it all. States that are in use stay right."""
        self._kept += size
        if self._kept > MOST_KEPT:
            for forward in self._forward.values():
                forward.clear()
            for backward in self._backward.values():
                backward.clear()
                backward.joined.clear()
            self._forward.clear()
            self._backward.clear()
            self._readings.clear()
            self._kept = 0

    def _forward_state(self, places: Places, word: bool, accepts: tuple[Accept, ...]) -> Forward:
        key = (places, word, accepts)
        state = self._forward.get(key)
        if state is None:
            self._keep(3 + places.bit_length() // 800)
            state = self._forward[key] = Forward(self, places, word, accepts)
        return state

    def _backward_state(self, places: Places, *, plain: bool, edge: bool) -> Backward:
        key = (places, plain, edge)
        state = self._backward.get(key)
        if state is None:
            self._keep(4 + places.bit_length() // 800)
            state = self._backward[key] = Backward(self, places, plain, edge)
        return state

    def _reading(self, char: str) -> Places | Readings:
        """Return the positions that hold a character, where it is one character on every view; else view by view."""
        found = self._readings.get(char)
        if found is None:
            self._keep(1 + len(self._groups) * self.size // 800)
            code, layout = ord(char), self._layout
            views = [(mask, [layout.holders(ord(c)) & mask for c in view[code]]) for view, mask in self._groups]
            found = views
            if all(len(steps) == 1 for _, steps in views):
                found = 0
                for _, steps in views:
                    found |= steps[0]
            self._readings[char] = found
        return found
