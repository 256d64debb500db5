"""Where the positions of patterns lie and which follows which: bit sets, made once for all patterns of an automaton."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from policies.enforcement.pattern import Branch, Chars, Choice, Node, Ranges, Series

Places = int
"""A set of positions: bit n is position n."""


class Layout:
    """The positions of branches. Position n + 1 mostly follows position n and nothing else: those are `_chained`.

    The others keep what they follow. Short branches lie first, so that the sets that come up most are short numbers.
    """

    def __init__(self, branches: Sequence[Branch]) -> None:
        self.owners: list[int] = []  # position -> branch
        self._sets: dict[Ranges, list[int]] = {}  # character set -> its positions
        self._sources: list[set[int]] = []  # position -> the positions it follows
        self.plain = self.edge = self.closes = 0
        plain, edge, closes = set[int](), set[int](), set[int]()
        for number in sorted(range(len(branches)), key=lambda number: branches[number].longest):
            branch = branches[number]
            first, last, _ = self._place(branch.body, number)
            (edge if branch.left else plain).update(first)
            closes |= last
        self.plain, self.edge, self.closes = _bits(plain), _bits(edge), _bits(closes)
        self._lookup = [([low for low, _ in ranges], ranges, _bits(where)) for ranges, where in self._sets.items()]
        self._chained = _bits(place for place, sources in enumerate(self._sources) if sources == {place - 1})
        self._joined = {place: _bits(s) for place, s in enumerate(self._sources) if s and s != {place - 1}}
        self._joins = _bits(self._joined)
        self._forks = self._follow()
        self._forking = _bits(self._forks)
        self._sources.clear()
        self._sets.clear()

    def of_branches(self, names: Sequence[str], name: str) -> Places:
        """Return the positions of the branches that `names` gives a name."""
        return _bits(place for place, owner in enumerate(self.owners) if names[owner] == name)

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

    def by_branch(self, places: Places, part: int | None) -> list[tuple[int, int | None, Places]]:
        """Return accepting positions as one (branch, `part`, positions) a branch."""
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
