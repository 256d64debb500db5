"""Where a dropped part of a text ends: at the first match of `until`, at the end of an encoded run, or not at all.

Only automaton states are kept, and the last few characters: what is dropped costs no memory.
"""

from __future__ import annotations

from policies.enforcement.closure import Automaton
from policies.enforcement.codings import UrlStrand
from policies.enforcement.normalize import is_word

_MOST_RECENT = 8
"""Characters that may have been read past the end: at most an escape that was not one, and its right neighbour."""


class Drop:
    """What is being dropped for a rule, from `start` on. `feed` it until it says where that ends."""

    __slots__ = ("last", "place", "rule", "start")

    def __init__(self, rule: int, start: int, place: int, last: str) -> None:
        self.rule, self.start, self.place, self.last = rule, start, place, last

    def feed(self, delta: str, *, final: bool) -> str | None:
        """Drop more text; return what of it follows the end, once that is found, with `place` and `last` before it."""
        at = self.find(delta)
        size = len(delta) if at is None else at
        self.place += size
        self.last = delta[size - 1] if size else self.last
        return None if at is None else delta[size:]

    def find(self, delta: str) -> int | None:
        """Return how much of a text is still dropped, or None for all of it and more."""
        raise NotImplementedError


class DropMatch(Drop):
    """Drops up to the end of the first match of an automaton, as far as its right word edge holds."""

    __slots__ = ("_edged", "_state")

    def __init__(self, rule: int, start: int, place: int, last: str, automaton: Automaton) -> None:
        super().__init__(rule, start, place, last)
        self._state, self._edged = automaton.enter(last), False

    def find(self, delta: str) -> int | None:
        """Return where the first match ends."""
        state, last = self._state, self.last
        for at, char in enumerate(delta):
            if self._edged and is_word(last) != is_word(char):
                return at
            state, last = state[char], char
            self._edged = False
            if state.accepts:
                rights = [state.automaton.branches[branch].right for branch, _, _ in state.accepts]
                if not all(rights):
                    return at + 1
                self._edged = True
        self._state = state
        return None


class DropRun(Drop):
    """Drops the rest of an encoded run: what was found in what it decodes to goes on in it."""

    __slots__ = ("_alphabet",)

    def __init__(self, rule: int, start: int, place: int, last: str, alphabet: str) -> None:
        super().__init__(rule, start, place, last)
        self._alphabet = alphabet

    def find(self, delta: str) -> int | None:
        """Return where the run ends."""
        rest = delta.lstrip(self._alphabet)
        return len(delta) - len(rest) if rest else None


class DropDecoded(Drop):
    """Drops up to the end of the first match in a text whose percent escapes are read."""

    __slots__ = ("_ends", "_recent", "_strand")

    def __init__(self, rule: int, start: int, place: int, last: str, strand: UrlStrand) -> None:
        super().__init__(rule, start, place, last)
        self._strand, self._recent, self._ends = strand, last, list[tuple[int, int, bool]]()

    def feed(self, delta: str, *, final: bool) -> str | None:
        """Drop more text; return what follows the end, once that is found."""
        for at, char in enumerate(delta):
            self.place += 1
            self._recent = (self._recent + char)[-_MOST_RECENT:]
            if self._note(self._strand.feed(char), final=False):
                return self._after() + delta[at + 1 :]
        self.last = delta[-1:] or self.last
        if final and self._note(self._strand.finish(), final=True):
            return self._after()
        return None

    def _note(self, entries: list[tuple[int, tuple[tuple[int, int | None, int], ...]]], *, final: bool) -> bool:
        """Take matches that end; say whether the first end is decided. It is then the only one kept."""
        strand, branches = self._strand, self._strand.automaton.branches
        for end, accepts in entries:
            edged = all(branches[branch].right for branch, _, _ in accepts)
            self._ends.append((end, strand.source_end(end), edged))
        while self._ends:
            end, _, edged = self._ends[0]
            if edged and end >= strand.size and not final:
                return False
            at = end - strand.shift
            if not edged or is_word(strand.text[at - 1]) != is_word(strand.text[at : at + 1]):
                return True
            self._ends.pop(0)
        strand.forget(self.place - _MOST_RECENT)
        return False

    def _after(self) -> str:
        """Return what was read past the end, and go back to it."""
        past = self.place - self._ends[0][1]
        size = len(self._recent) - past
        self.place, self.last = self.place - past, self._recent[size - 1]
        return self._recent[size:]
