"""Texts brought to pass a checksum: the characters that most formats keep for it are tried, in place."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import product

from policies.enforcement.checksums import crc32_base62_of

CRC_CHARS = 6
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def repaired(text: str, check: str, passes: Callable[[str], bool]) -> str | None:
    """Return a text like this one that passes a check, None where none of the tried ones does.

    Tried are other last characters (two where a check has two), and what the check characters of an IBAN, a CRC or a
    double hash must be.
    """
    return next((variant for variant in _variants(text, check) if passes(variant)), None)


def _variants(text: str, check: str) -> Iterator[str]:
    places = [place for place, char in enumerate(text) if char.isascii() and char.isalnum()]
    if check == "crc32_base62":
        head, mark, body = text.rpartition("_")
        if len(body) > CRC_CHARS and body.isascii():
            yield head + mark + body[:-CRC_CHARS] + crc32_base62_of(body[:-CRC_CHARS])
        return
    if check == "base58check":
        yield from _with_double_hash(text)
        return
    if check == "iban":
        yield _with_check_digits(text, places)
        return
    yield from _replaced(text, places[-1:])
    if check in ("br_cpf", "fr_nir"):
        yield from _replaced(text, places[-2:])


def _replaced(text: str, places: Sequence[int]) -> Iterator[str]:
    for chars in product(*(_kind(text[place]) for place in places)):
        out = list(text)
        for place, char in zip(places, chars, strict=True):
            out[place] = char
        yield "".join(out)


def _with_double_hash(text: str) -> Iterator[str]:
    """Yield a base 58 text whose last four bytes are the first four of the double SHA-256 of the others."""
    if not text or set(text) - set(BASE58):
        return
    number = 0
    for char in text:
        number = number * 58 + BASE58.index(char)
    payload = number.to_bytes((number.bit_length() + 7) // 8, "big")[:-4]
    number = int.from_bytes(payload + sha256(sha256(payload).digest()).digest()[:4], "big")
    out = ""
    while number:
        number, digit = divmod(number, 58)
        out = BASE58[digit] + out
    yield out


def _with_check_digits(text: str, places: Sequence[int]) -> str:
    """Return a text with the check digits that ISO 13616 asks for: 98 minus the number mod 97, digits counted as 00."""
    packed = "".join(text[place] for place in places).upper()
    number = int("".join(str(int(char, 36)) for char in packed[4:] + packed[:2]) + "00")
    out = list(text)
    for place, char in zip(places[2:4], f"{98 - number % 97:02d}", strict=False):
        out[place] = char
    return "".join(out)


def _kind(char: str) -> str:
    if char.isdigit():
        return string.digits
    return string.ascii_uppercase if char.isupper() else string.ascii_lowercase
