"""Checks that a matched text must pass as well: they cut false hits of rules whose format has a checksum or a range.

Each check takes the matched text, separators and leading context words included, and answers yes or no.
"""

from __future__ import annotations

import ipaddress
import math
import re
import string
import zlib
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise

from policies.enforcement import national

_ENTROPY_BITS = 3.0
_TURNS = 0.3
"""Changes between small letters, capitals and digits, by character: random base 62 has 0.6, camelCase 0.25."""
_SEPARATORS = re.compile(r"[\s\"'=:,;]")
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_CRC_CHARS = 6
_BASE58 = {char: value for value, char in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}
_DOCUMENTED = [
    ipaddress.ip_network(block) for block in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]
"""Addresses that documentation uses (RFC 5737, RFC 3849)."""
_CARD_LENGTHS: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (340000, 349999, (15,)),
    (370000, 379999, (15,)),
    (300000, 305999, (14, 16)),
    (309500, 309599, (14, 16)),
    (360000, 369999, (14, 16)),
    (380000, 399999, (14, 16)),
    (222100, 272099, (16,)),
    (510000, 559999, (16,)),
    (400000, 499999, (13, 16, 19)),
    (352800, 358999, (16, 17, 18, 19)),
    (601100, 601199, (16, 17, 18, 19)),
    (622126, 622925, (16, 17, 18, 19)),
    (644000, 659999, (16, 17, 18, 19)),
    (620000, 629999, (16, 17, 18, 19)),
    (810000, 817199, (16, 17, 18, 19)),
    (500000, 509999, (12, 13, 14, 15, 16, 17, 18, 19)),
    (560000, 589999, (12, 13, 14, 15, 16, 17, 18, 19)),
    (600000, 600999, (16,)),
    (606000, 609999, (16,)),
    (670000, 679999, (12, 13, 14, 15, 16, 17, 18, 19)),
    (220000, 220499, (16, 17, 18, 19)),
)
"""First six digits (low, high) and lengths of the networks' published number ranges.

American Express, Diners Club, Mastercard, Visa, JCB, Discover, UnionPay, Maestro, RuPay, Mir.
"""
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
    "YE": 30,
}  # fmt: skip
"""Characters of an IBAN by country, from the IBAN registry that SWIFT keeps for ISO 13616."""


def luhn(text: str) -> bool:
    """Say whether the digits of a text pass the Luhn check (ISO/IEC 7812-1, annex B) and are not all the same."""
    digits = national.digits_of(text)
    return national.luhn_sum(digits) % 10 == 0 and len(set(digits)) > 1


def card(text: str) -> bool:
    """Say whether a text is a payment card number: Luhn, and a length that a network issues in that number range."""
    digits = "".join(char for char in text if char in string.digits)
    first = int(digits[:6] or "0")
    known = any(low <= first <= high and len(digits) in lengths for low, high, lengths in _CARD_LENGTHS)
    return known and luhn(digits)


def iban(text: str) -> bool:
    """Say whether a text is an IBAN: its country's length and its mod-97 check digits (ISO 13616)."""
    packed = "".join(char for char in text.upper() if char.isascii() and char.isalnum())
    if len(packed) != _IBAN_LENGTHS.get(packed[:2]):
        return False
    return int("".join(str(int(char, 36)) for char in packed[4:] + packed[:4])) % 97 == 1


def entropy(text: str) -> bool:
    """Say whether a text looks random: at least 3.0 bits of Shannon entropy a character."""
    return _bits(text) >= _ENTROPY_BITS


def random_value(text: str) -> bool:
    """Say whether the value at the end of a text looks drawn at random: 3.0 bits of entropy a character, and a digit.

    Made for `name = "value"` matches: what stands before the last separator is passed over.
    """
    value = _SEPARATORS.split(text.rstrip("\"' ="))[-1]
    return any(char.isdigit() for char in value) and _bits(value) >= _ENTROPY_BITS


def mixed(text: str) -> bool:
    """Say whether small letters, capitals and digits alternate as in a random token, not as in words or identifiers."""
    kinds = [char.isdigit() + 2 * char.isupper() for char in text if char.isalnum()]
    turns = sum(one != other for one, other in pairwise(kinds))
    return turns >= _TURNS * len(kinds) and _bits(text) >= _ENTROPY_BITS


def base58check(text: str) -> bool:
    """Say whether a text ends in the first four bytes of its double SHA-256, as Bitcoin's keys do."""
    number = 0
    for char in text:
        if char not in _BASE58:
            return False
        number = number * 58 + _BASE58[char]
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return len(data) > 4 and sha256(sha256(data[:-4]).digest()).digest()[:4] == data[-4:]


def ip_address(text: str) -> bool:
    """Say whether a text is an IPv4 or IPv6 address that says something of somebody.

    Not the unspecified, loopback and documentation addresses; an IPv6 address has a digit and at least three groups.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 6 and (text.count(":") < 3 or not any(char.isdigit() for char in text)):
        return False
    nobody = address.is_unspecified or address.is_loopback or str(address).startswith(("255.", "0."))
    return not nobody and not any(address in block for block in _DOCUMENTED if block.version == address.version)


def crc32_base62(text: str) -> bool:
    """Say whether a token ends in its own CRC-32: the last six characters, base 62, of what follows the last `_`.

    GitHub describes this form for its tokens ("Behind GitHub's new authentication token formats", 2021); npm has it.
    """
    body = text.rpartition("_")[2]
    return len(body) > _CRC_CHARS and body.isascii() and body[-_CRC_CHARS:] == crc32_base62_of(body[:-_CRC_CHARS])


def crc32_base62_of(body: str) -> str:
    """Return the CRC-32 of an ASCII text as six digits of base 62 (0-9, A-Z, a-z)."""
    rest, out = zlib.crc32(body.encode("ascii")), ""
    for _ in range(_CRC_CHARS):
        rest, digit = divmod(rest, 62)
        out = _BASE62[digit] + out
    return out


def _bits(text: str) -> float:
    counts = Counter(text)
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts.values())


CHECKS: dict[str, Callable[[str], bool]] = {
    "luhn": luhn,
    "card": card,
    "iban": iban,
    "entropy": entropy,
    "random_value": random_value,
    "mixed": mixed,
    "base58check": base58check,
    "crc32_base62": crc32_base62,
    "ip_address": ip_address,
    **national.CHECKS,
}
"""Every check that a rule may name."""
