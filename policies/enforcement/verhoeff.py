"""Verhoeff's check digit: finds every single wrong digit and every swap of neighbours, by the dihedral group D5.

J. Verhoeff, "Error Detecting Decimal Codes", Mathematical Centre Tracts 29, 1969.
"""

from __future__ import annotations

from collections.abc import Sequence


def _times(first: int, second: int) -> int:
    """Return the product in D5: 0 to 4 are rotations, 5 to 9 reflections."""
    turn = second % 5 if first < 5 else -second % 5
    return (first + turn) % 5 + (5 if (first < 5) != (second < 5) else 0)


_FIRST = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
_TURNS = [tuple(range(10))]
for _ in range(7):
    _TURNS.append(tuple(_FIRST[digit] for digit in _TURNS[-1]))


def holds(digits: Sequence[int]) -> bool:
    """Say whether digits, the check digit last, pass."""
    state = 0
    for place, digit in enumerate(reversed(digits)):
        state = _times(state, _TURNS[place % 8][digit])
    return state == 0
