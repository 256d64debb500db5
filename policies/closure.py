"""Exact matching on growing text: position automata of all rules of a view, run as lazily built tables.

Forward, a state says which positions of which patterns are reached by some start in the text: which matches end here,
and whether anything is still live. Backward from there, the same positions are walked to the left until none is left:
the last place that opens a pattern is the start of the longest match, or of the earliest live partial match (the walk
runs the prefix closure of every rule at once). Sets of positions are the bits of an integer, so a chain of positions
moves by one shift. Glushkov, "The abstract theory of automata", 1961; Navarro and Raffinot, "Flexible Pattern Matching
in Strings", 2002, ch. 5.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence

from policies.normalize import FOLDS, is_word
from policies.pattern import Branch, Chars, Choice, Node, Ranges, Series

MOST_KEPT = 300_000
"""Size of the tables, in units of about 100 bytes, at which they are dropped and built anew: bounds memory."""
NOTED_STEPS = 2
LONGEST_TRAIL = 8192

Places = int
"""A set of positions: bit n is position n."""
Accept = tuple[int, int | None, Places]
"""(branch, how much of the last character's fold belongs to the match or None for all of it, accepting positions)."""


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

    __slots__ = ("automaton", "edge", "places", "plain")

    def __init__(self, automaton: Automaton, places: Places, plain: bool, edge: bool) -> None:
        super().__init__()
        self.automaton, self.places, self.plain, self.edge = automaton, places, plain, edge

    def __missing__(self, char: str) -> Backward:
        state = self.automaton.retreat(self.places, self.automaton.view(char))
        self[char] = state
        return state


class Trail(dict[int, tuple[Backward, int | None]]):
    """The first steps of earlier walks over a text: place -> (state, smallest start the walk found).

    A walk that comes to the same state at the same place would find the same from there on, so it ends. Without this, a
    long match whose end may lie anywhere would cost the square of its length. Places count from the stream's start.
    """

    __slots__ = ("shift",)

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift

    def note(self, steps: list[tuple[int, Backward]], found: int | None) -> None:
        """Keep the first steps of a walk."""
        if len(self) > LONGEST_TRAIL:
            self.clear()
        for place, state in steps:
            self[place + self.shift] = state, None if found is None else found + self.shift


class Automaton:
    """The positions of all branches of one view. Reads original characters; folds them itself when `folded`."""

    def __init__(self, branches: Sequence[Branch], *, folded: bool) -> None:
        self.branches, self.folded = tuple(branches), folded
        self._layout = _Layout(self.branches)
        self._forward: dict[tuple[Places, bool, tuple[Accept, ...]], Forward] = {}
        self._backward: dict[tuple[Places, bool, bool], Backward] = {}
        self._holding: dict[str, Places] = {}
        self._kept = 0

    @property
    def size(self) -> int:
        """How many positions there are."""
        return len(self._layout.owners)

    def enter(self, previous: str) -> Forward:
        """Return the state in which nothing is live, after the character `previous` (empty at the start of a text)."""
        return self._forward_state(0, is_word(previous), ())

    def view(self, char: str) -> str:
        """Return what a character is on this view."""
        return FOLDS[ord(char)] if self.folded else char

    def leftmost(
        self,
        text: str,
        end: int,
        before: str,
        places: Places,
        part: int | None = None,
        judge: Callable[[int], bool] | Trail | None = None,
    ) -> int | None:
        """Return the smallest start from which `places` is reached at `end`, or None.

        `before` is the character before `text`, empty at the start. `part` counts the characters of the fold of
        `text[end - 1]` to read, when a match ends inside of it. `judge` is a function that may refuse a start, or the
        trail of earlier walks over this text.
        """
        trail = judge if isinstance(judge, Trail) else None
        valid = None if isinstance(judge, Trail) else judge
        found: int | None = None
        noted: list[tuple[int, Backward]] = []
        state = self._backward_state(places, plain=False, edge=False)
        while end > 0:
            end -= 1
            char = text[end]
            state = state[char] if part is None else self.retreat(places, self.view(char)[:part])
            part = None
            if (state.plain or (state.edge and is_word(text[end - 1] if end else before) != is_word(char))) and (
                valid is None or valid(end)
            ):
                found = end
            if trail is not None:
                known = trail.get(end + trail.shift)
                if known is not None and known[0] is state:
                    found = found if known[1] is None or known[1] - trail.shift > end else known[1] - trail.shift
                    break
                if len(noted) < NOTED_STEPS:
                    noted.append((end, state))
            if not state.places:
                break
        if trail is not None:
            trail.note(noted, found)
        return found

    def advance(self, state: Forward, char: str) -> Forward:
        """Return the state after one more character: every place that continues, and every place that opens here."""
        self._keep(1)
        layout, word, view = self._layout, is_word(char), self.view(char)
        opening = layout.plain | layout.edge if word != state.word else layout.plain
        places: Places = state.places
        accepts: list[Accept] = []
        for count, seen in enumerate(view, 1):
            places = (layout.after(places) | opening) & self._holders(seen)
            if ending := places & layout.closes:
                accepts += layout.by_branch(ending, count if count < len(view) else None)
        return self._forward_state(places, word, tuple(accepts))

    def retreat(self, places: Places, view: str) -> Backward:
        """Return the state one original character further left, which is `view` on this view."""
        self._keep(1)
        layout, plain, edge = self._layout, False, False
        for seen in reversed(view):
            matched = places & self._holders(seen)
            plain = plain or bool(matched & layout.plain)
            edge = edge or bool(matched & layout.edge)
            places = layout.ahead_of(matched)
        return self._backward_state(places, plain=plain, edge=edge)

    def _keep(self, size: int) -> None:
        """Note what is kept in the tables; past the limit, drop it all. States that are in use stay right."""
        self._kept += size
        if self._kept > MOST_KEPT:
            for forward in self._forward.values():
                forward.clear()
            for backward in self._backward.values():
                backward.clear()
            self._forward.clear()
            self._backward.clear()
            self._holding.clear()
            self._kept = 0

    def _forward_state(self, places: Places, word: bool, accepts: tuple[Accept, ...]) -> Forward:
        key = (places, word, accepts)
        state = self._forward.get(key)
        if state is None:
            self._keep(2 + places.bit_length() // 800)
            state = self._forward[key] = Forward(self, places, word, accepts)
        return state

    def _backward_state(self, places: Places, *, plain: bool, edge: bool) -> Backward:
        key = (places, plain, edge)
        state = self._backward.get(key)
        if state is None:
            self._keep(2 + places.bit_length() // 800)
            state = self._backward[key] = Backward(self, places, plain, edge)
        return state

    def _holders(self, char: str) -> Places:
        """Return the positions whose character set holds a character."""
        found = self._holding.get(char)
        if found is None:
            self._keep(1 + self.size // 800)
            found = self._holding[char] = self._layout.holders(ord(char))
        return found


class _Layout:
    """Where the positions of the branches lie and which follows which: bit sets, made once.

    Position n + 1 mostly follows position n and nothing else: those are `_chained`. The others keep what they follow.
    """

    def __init__(self, branches: Sequence[Branch]) -> None:
        self.owners: list[int] = []  # position -> branch
        self._sets: dict[Ranges, list[int]] = {}  # character set -> its positions
        self._sources: list[set[int]] = []  # position -> the positions it follows
        self.plain = self.edge = self.closes = 0
        for number, branch in enumerate(branches):
            first, last, _ = self._place(branch.body, number)
            if branch.left:
                self.edge |= _bits(first)
            else:
                self.plain |= _bits(first)
            self.closes |= _bits(last)
        self._lookup = [([low for low, _ in ranges], ranges, _bits(where)) for ranges, where in self._sets.items()]
        self._chained = _bits(place for place, sources in enumerate(self._sources) if sources == {place - 1})
        self._joined = {place: _bits(s) for place, s in enumerate(self._sources) if s and s != {place - 1}}
        self._joins = _bits(self._joined)
        self._forks = self._follow()
        self._forking = _bits(self._forks)
        self._sources.clear()

    def _follow(self) -> dict[int, Places]:
        """Return the joining positions that follow each position; thousands share the same ones, and one number."""
        joining: dict[int, list[int]] = {}
        for place in self._joined:
            for source in self._sources[place]:
                joining.setdefault(source, []).append(place)
        shared = {places: _bits(places) for places in map(tuple, joining.values())}
        return {source: shared[tuple(places)] for source, places in joining.items()}

    def after(self, places: Places) -> Places:
        """Return every position that follows one of `places`."""
        out = (places << 1) & self._chained
        for place in _each(places & self._forking):
            out |= self._forks[place]
        return out

    def ahead_of(self, places: Places) -> Places:
        """Return every position that one of `places` follows."""
        out = (places & self._chained) >> 1
        for place in _each(places & self._joins):
            out |= self._joined[place]
        return out

    def holders(self, code: int) -> Places:
        """Return the positions whose character set holds a code point."""
        out = 0
        for lows, ranges, where in self._lookup:
            place = bisect_right(lows, code) - 1
            if place >= 0 and code <= ranges[place][1]:
                out |= where
        return out

    def by_branch(self, places: Places, part: int | None) -> list[Accept]:
        """Return accepting positions as one accept a branch."""
        ending: dict[int, Places] = {}
        for place in _each(places):
            branch = self.owners[place]
            ending[branch] = ending.get(branch, 0) | 1 << place
        return [(branch, part, found) for branch, found in ending.items()]

    def _place(self, node: Node, branch: int) -> tuple[set[int], set[int], bool]:
        """Add the positions of a node; return its first and last ones and whether it may be empty."""
        if isinstance(node, Chars):
            place = len(self.owners)
            self._sets.setdefault(node.ranges, []).append(place)
            self.owners.append(branch)
            self._sources.append(set())
            return {place}, {place}, False
        if isinstance(node, Choice):
            parts = [self._place(option, branch) for option in node.options]
            return set().union(*(p[0] for p in parts)), set().union(*(p[1] for p in parts)), any(p[2] for p in parts)
        if isinstance(node, Series):
            return self._chain((self._place(item, branch) for item in node.items), len(node.items))
        return self._chain((self._place(node.item, branch) for _ in range(node.high)), node.low)

    def _chain(
        self, parts: Iterable[tuple[set[int], set[int], bool]], required: int
    ) -> tuple[set[int], set[int], bool]:
        """Link parts one after another; the chain may stop after `required` of them."""
        first: set[int] = set()
        ends: set[int] = set()  # from where the next part follows
        last: set[int] = set()
        empty, may_be_empty = True, required == 0  # every part so far may be empty; so may the whole chain
        for number, (opening, closing, optional) in enumerate(parts, 1):
            for place in opening:
                self._sources[place] |= ends
            first |= opening if empty else set()
            ends = closing | ends if optional else closing
            empty = empty and optional
            if number >= required:
                last |= ends
                may_be_empty = may_be_empty or empty
        return first, last, may_be_empty


def _bits(places: Iterable[int]) -> Places:
    """Return positions as a set of bits."""
    found = sorted(places)
    if not found:
        return 0
    data = bytearray(found[-1] // 8 + 1)
    for place in found:
        data[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(data, "little")


def _each(places: Places) -> Iterator[int]:
    """Iterate over the positions of a set."""
    while places:
        lowest = places & -places
        yield lowest.bit_length() - 1
        places ^= lowest
