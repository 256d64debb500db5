"""Exact matching on growing text: position automata of all rules of a view, run as lazily built tables.

Forward, a state says which positions of which patterns are reached by some start in the text: which matches end here,
and whether anything is still live. Backward from there, the same positions are walked to the left until none is left:
the last place that opens a pattern is the start of the longest match, or of the earliest live partial match (the walk
runs the prefix closure of every rule at once). Glushkov, "The abstract theory of automata", 1961.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from policies.normalize import FOLDS, is_word
from policies.pattern import Branch, Chars, Choice, Node, Ranges, Repeat, Series

MOST_EDGES = 200_000
"""Table entries kept before the tables are dropped and built anew: bounds memory against hostile texts."""

Accept = tuple[int, int, frozenset[int]]
"""(branch, characters of the last character's fold that belong to the match, accepting positions)."""
Places = frozenset[int]


class Forward(dict[str, "Forward"]):
    """A state after some character; `state[char]` is the next one. `accepts` are the matches that end here."""

    __slots__ = ("accepts", "automaton", "live", "places", "word")

    def __init__(self, automaton: Automaton, places: Places, word: bool, accepts: tuple[Accept, ...]) -> None:
        super().__init__()
        self.automaton, self.places, self.word, self.accepts = automaton, places, word, accepts
        self.live = bool(places)

    def __missing__(self, char: str) -> Forward:
        state = self.automaton.advance(self, char)
        self.automaton.count_edge()
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
        self.automaton.count_edge()
        self[char] = state
        return state


class Automaton:
    """The positions of all branches of one view. Reads original characters; folds them itself when `folded`."""

    def __init__(self, branches: Sequence[Branch], *, folded: bool) -> None:
        self.branches, self.folded = tuple(branches), folded
        self._kinds: list[int] = []  # position -> number of its character set
        self._owner: list[int] = []  # position -> branch
        self._follow: list[set[int]] = []
        self._before: list[set[int]] = []
        self._sets: dict[Ranges, int] = {}
        self._opens: list[set[int]] = [set(), set()]  # positions that start a branch: anywhere, at a word edge
        self._closes: set[int] = set()
        for number, branch in enumerate(self.branches):
            first, last, _ = self._place(branch.body, number)
            self._opens[branch.left] |= first
            self._closes |= last
        self._lookup = [(kind, [low for low, _ in ranges], ranges) for ranges, kind in self._sets.items()]
        self._forward: dict[tuple[Places, bool, tuple[Accept, ...]], Forward] = {}
        self._backward: dict[tuple[Places, bool, bool], Backward] = {}
        self._classes: dict[str, frozenset[int]] = {}
        self._openers: dict[tuple[str, bool], frozenset[int]] = {}
        self._edges = 0

    def enter(self, previous: str) -> Forward:
        """Return the state in which nothing is live, after the character `previous` (empty at the start of a text)."""
        return self._forward_state(frozenset(), is_word(previous), ())

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
        valid: Callable[[int], bool] | None = None,
    ) -> int | None:
        """Return the smallest start from which `places` is reached at `end`, or None; `valid` may refuse a start.

        `before` is the character before `text`, empty at the start. `part` counts the characters of the fold of
        `text[end - 1]` to read, when a match ends inside of it.
        """
        found: int | None = None
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
            if not state.places:
                break
        return found

    def advance(self, state: Forward, char: str) -> Forward:
        """Return the state after one more character: every place that continues, and every place that opens here."""
        word = is_word(char)
        places, accepts = state.places, []
        view = self.view(char)
        for count, seen in enumerate(view, 1):
            kinds = self._kinds_of(seen)
            places = self._opening(seen, word != state.word).union(
                after for place in places for after in self._follow[place] if self._kinds[after] in kinds
            )
            accepts += self._accepting(places, count)
        return self._forward_state(places, word, tuple(accepts))

    def retreat(self, places: Places, view: str) -> Backward:
        """Return the state one original character further left, which is `view` on this view."""
        plain = edge = False
        for seen in reversed(view):
            kinds = self._kinds_of(seen)
            matched = [place for place in places if self._kinds[place] in kinds]
            plain = plain or not self._opens[False].isdisjoint(matched)
            edge = edge or not self._opens[True].isdisjoint(matched)
            places = frozenset(earlier for place in matched for earlier in self._before[place])
        return self._backward_state(places, plain=plain, edge=edge)

    def count_edge(self) -> None:
        """Note one more table entry; past the limit, drop all of them. States that are in use stay right."""
        self._edges += 1
        if self._edges > MOST_EDGES:
            for forward in self._forward.values():
                forward.clear()
            for backward in self._backward.values():
                backward.clear()
            for table in (self._forward, self._backward, self._classes, self._openers):
                table.clear()
            self._edges = 0

    def _accepting(self, places: Places, count: int) -> list[Accept]:
        ending: dict[int, list[int]] = {}
        for place in places & self._closes:
            ending.setdefault(self._owner[place], []).append(place)
        return [(branch, count, frozenset(found)) for branch, found in sorted(ending.items())]

    def _forward_state(self, places: Places, word: bool, accepts: tuple[Accept, ...]) -> Forward:
        key = (places, word, accepts)
        state = self._forward.get(key)
        if state is None:
            state = self._forward[key] = Forward(self, places, word, accepts)
        return state

    def _backward_state(self, places: Places, *, plain: bool, edge: bool) -> Backward:
        key = (places, plain, edge)
        state = self._backward.get(key)
        if state is None:
            state = self._backward[key] = Backward(self, places, plain, edge)
        return state

    def _kinds_of(self, char: str) -> frozenset[int]:
        """Return the numbers of the character sets that hold a character."""
        found = self._classes.get(char)
        if found is None:
            code = ord(char)
            holding = []
            for kind, lows, ranges in self._lookup:
                place = bisect_right(lows, code) - 1
                if place >= 0 and code <= ranges[place][1]:
                    holding.append(kind)
            found = self._classes[char] = frozenset(holding)
        return found

    def _opening(self, char: str, at_edge: bool) -> frozenset[int]:
        """Return the first positions of branches that a character may open."""
        found = self._openers.get((char, at_edge))
        if found is None:
            kinds = self._kinds_of(char)
            candidates = self._opens[False] | self._opens[True] if at_edge else self._opens[False]
            found = self._openers[char, at_edge] = frozenset(p for p in candidates if self._kinds[p] in kinds)
        return found

    def _place(self, node: Node, branch: int) -> tuple[set[int], set[int], bool]:
        """Add the positions of a node; return its first and last ones and whether it may be empty."""
        if isinstance(node, Chars):
            place = len(self._kinds)
            self._kinds.append(self._sets.setdefault(node.ranges, len(self._sets)))
            self._owner.append(branch)
            self._follow.append(set())
            self._before.append(set())
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
        empty = stops_empty = True  # all parts so far may be empty; the chain may stop before its first character
        stops_empty = required == 0
        for number, (opening, closing, optional) in enumerate(parts, 1):
            for place in ends:
                self._follow[place] |= opening
            for place in opening:
                self._before[place] |= ends
            first |= opening if empty else set()
            ends = closing | ends if optional else closing
            empty = empty and optional
            if number >= required:
                last |= ends
                stops_empty = stops_empty or empty
        return first, last, stops_empty


__all__ = ["Accept", "Automaton", "Backward", "Forward", "Repeat"]
