"""Checks that a matched text must pass as well: they cut false hits of rules whose format has a checksum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

_ENTROPY_BITS = 3.0
_DIGITS = {str(digit): digit for digit in range(10)}
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
"""The digit sum of twice each digit."""


def luhn(text: str) -> bool:
    """Say whether the digits of a text pass the Luhn check (ISO/IEC 7812-1, annex B) and are not all the same."""
    digits = [_DIGITS[char] for char in text if char in _DIGITS]
    total = sum(digits[-1::-2]) + sum(_DOUBLED[digit] for digit in digits[-2::-2])
    return total % 10 == 0 and len(set(digits)) > 1


def iban(text: str) -> bool:
    """Say whether a text is an IBAN by its mod-97 check digits (ISO 13616)."""
    packed = "".join(char for char in text.upper() if char.isascii() and char.isalnum())
    if len(packed) < 15:
        return False
    return int("".join(str(int(char, 36)) for char in packed[4:] + packed[:4])) % 97 == 1


def entropy(text: str) -> bool:
    """Say whether a text looks random: at least 3.0 bits of Shannon entropy a character."""
    counts = Counter(text)
    bits = -sum(count / len(text) * math.log2(count / len(text)) for count in counts.values())
    return bits >= _ENTROPY_BITS


CHECKS: dict[str, Callable[[str], bool]] = {"luhn": luhn, "iban": iban, "entropy": entropy}
