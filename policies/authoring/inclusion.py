"""Whether one pattern's language lies inside of another's: both are finite, so a walk over pairs of states decides.

States are what is left of a pattern after some text (V. Antimirov, "Partial derivatives of regular expressions and
finite automaton constructions", 1996). A walk that grows past `MOST_STEPS` ends with "not decided".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from policies.enforcement.normalize import is_word
from policies.enforcement.pattern import Branch, Chars, Choice, Node, Ranges, Repeat, Series

MOST_STEPS = 60_000
_WORD_BOUNDS = (0x30, 0x3A, 0x41, 0x5B, 0x5F, 0x60, 0x61, 0x7B, 0x80)

Rest = tuple[Node, ...]
"""What is still to be matched, one node after another; empty: the match may end here."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a walk is: what is left of the weak branch, and of every strong one that is under way, by its number."""

    weak: Rest
    strong: frozenset[tuple[int, Rest]]
    last: int
    """Code of the character before; -1 at the start, -2 where it is not known whether it is a letter."""


def covers(strong: Sequence[Branch], weak: Sequence[Branch], *, inside: bool = False) -> bool | None:
    """Say whether every match of `weak` is one of `strong`, word edges included; None where it was not decided.

    With `inside`, whether every match of `weak` holds a match of `strong`, at any place in it.
    """
    answers = [_covers(strong, branch, inside) for branch in weak]
    if False in answers:
        return False
    return None if None in answers else True


def nullable(rest: Rest) -> bool:
    """Say whether nothing may follow."""
    return all(_empty(node) for node in rest)


def derivatives(rest: Rest, code: int) -> set[Rest]:
    """Return what may be left after one more character."""
    if not rest:
        return set()
    head, tail = rest[0], rest[1:]
    found = {part + tail for part in _derive(head, code)}
    return found | derivatives(tail, code) if _empty(head) else found


def _covers(strong: Sequence[Branch], weak: Branch, inside: bool) -> bool | None:
    usable = [
        (number, branch)
        for number, branch in enumerate(strong)
        if inside or ((weak.left or not branch.left) and (weak.right or not branch.right))
    ]
    if not usable:
        return False
    if any(branch.body == weak.body for _, branch in usable if not inside or branch == weak):
        return True
    letters = _letters([weak.body, *(branch.body for _, branch in usable)])
    walk = _Walk(dict(usable), weak, letters, inside)
    return walk.run()


class _Walk:
    def __init__(self, strong: dict[int, Branch], weak: Branch, letters: list[tuple[int, bool]], inside: bool) -> None:
        self.strong, self.weak, self.letters, self.inside = strong, weak, letters, inside
        self.steps = 0

    def run(self) -> bool | None:
        opening = frozenset(
            (number, (branch.body,)) for number, branch in self.strong.items() if self.weak.left or not branch.left
        )
        waiting = [_Place((self.weak.body,), opening, -1)]
        seen = set(waiting)
        while waiting:
            place = waiting.pop()
            if nullable(place.weak) and not self._ended(place):
                return False
            for after in self._next(place):
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
            if self.steps > MOST_STEPS:
                return None
        return True

    def _ended(self, place: _Place) -> bool:
        """Say whether a strong match ends where the weak one may."""
        return any(
            nullable(rest) and (not self.strong[number].right or self.weak.right) for number, rest in place.strong
        )

    def _next(self, place: _Place) -> Iterable[_Place]:
        for code, sure in self.letters:
            left = derivatives(place.weak, code)
            if not left:
                continue
            self.steps += 1 + len(place.strong)
            if self.inside and place.last != -1 and self._closed(place, code, sure):
                continue  # a strong match lies before this character: whatever follows holds it
            going = frozenset((number, rest) for number, old in place.strong for rest in derivatives(old, code))
            if self.inside:
                going |= self._opened()
            yield from (_Place(rest, going, code if sure else -2) for rest in left)

    def _closed(self, place: _Place, code: int, sure: bool) -> bool:
        edge = sure and place.last >= 0 and is_word(chr(code)) != is_word(chr(place.last))
        return any(nullable(rest) and (edge or not self.strong[number].right) for number, rest in place.strong)

    def _opened(self) -> frozenset[tuple[int, Rest]]:
        """Return the strong branches that may start behind any character: those that ask for a word edge are left out.

        Leaving them out may miss a cover, never claim one.
        """
        return frozenset((number, (branch.body,)) for number, branch in self.strong.items() if not branch.left)


def _letters(nodes: Sequence[Node]) -> list[tuple[int, bool]]:
    """Return one code point for each set of characters that all nodes treat alike; whether its kind of word is sure."""
    sets = {ranges for node in nodes for ranges in _classes(node)}
    bounds = {bound for ranges in sets for low, high in ranges for bound in (low, high + 1)} | set(_WORD_BOUNDS)
    ordered = sorted(bound for bound in bounds if bound <= 0x10FFFF)
    found: dict[tuple[object, ...], tuple[int, bool]] = {}
    for low, end in zip(ordered, [*ordered[1:], 0x110000], strict=True):
        sure = low < 0x80 or end == low + 1
        held = tuple(any(first <= low <= last for first, last in ranges) for ranges in sets)
        if any(held):
            found.setdefault((held, sure, sure and is_word(chr(low))), (low, sure))
    return list(found.values())


def _classes(node: Node) -> Iterable[Ranges]:
    if isinstance(node, Chars):
        yield node.ranges
    elif isinstance(node, Series | Choice):
        for item in node.items if isinstance(node, Series) else node.options:
            yield from _classes(item)
    else:
        yield from _classes(node.item)


def _empty(node: Node) -> bool:
    if isinstance(node, Chars):
        return False
    if isinstance(node, Series):
        return all(_empty(item) for item in node.items)
    if isinstance(node, Choice):
        return any(_empty(option) for option in node.options)
    return node.low == 0 or _empty(node.item)


def _derive(node: Node, code: int) -> set[Rest]:
    if isinstance(node, Chars):
        return {()} if any(low <= code <= high for low, high in node.ranges) else set()
    if isinstance(node, Series):
        return derivatives(node.items, code)
    if isinstance(node, Choice):
        return {part for option in node.options for part in _derive(option, code)}
    left = (Repeat(node.item, max(0, node.low - 1), node.high - 1),) if node.high > 1 else ()
    return {part + left for part in _derive(node.item, code)}
