"""Checksums: known good numbers pass, any changed digit does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.checksums import entropy, iban, luhn


@pytest.mark.parametrize("number", ["4111 1111 1111 1111", "5500-0000-0000-0004", "340000000000009", "79927398713"])
def test_luhn_accepts(number: str) -> None:
    assert luhn(number)


@given(st.integers(0, 15), st.integers(1, 9))
def test_luhn_finds_any_one_changed_digit(place: int, by: int) -> None:
    digits = list("4539578763621486")
    digits[place] = str((int(digits[place]) + by) % 10)
    assert not luhn("".join(digits))


def test_luhn_refuses_equal_digits() -> None:
    assert not luhn("0" * 16)


@pytest.mark.parametrize("text", ["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "no9386011117947"])
def test_iban_accepts(text: str) -> None:
    assert iban(text)


@pytest.mark.parametrize("text", ["GB82 WEST 1234 5698 7654 33", "GB00", "DE88370400440532013000"])
def test_iban_refuses(text: str) -> None:
    assert not iban(text)


def test_entropy_tells_random_from_written() -> None:
    assert entropy("q8Zr2LmX0vKd7TyB")
    assert not entropy("aaaaaaaabbbbbbbb")
