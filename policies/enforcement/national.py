"""National identity and tax numbers: who issues which digits, and the check digits that tell them from plain numbers.

Each check takes the matched text; separators and the context words before the number are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date

from policies.enforcement import verhoeff

_DIGITS = {str(digit): digit for digit in range(10)}
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
"""The digit sum of twice each digit."""
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_NIE_FIRST = {"X": "0", "Y": "1", "Z": "2"}
_FISCAL_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16,
         10, 22, 25, 24, 23),
        strict=True,
    )
)  # fmt: skip
"""What a character on an odd place of a codice fiscale counts (decree of 23 December 1976)."""
_NINO = re.compile(r"([A-Z])([A-Z])[0-9]{6}[A-D]$")
_NINO_NEVER = {"BG", "GB", "NK", "KN", "TN", "NT", "ZZ"}
_SSN_PRINTED = {"078051120", "219099999"}
"""Numbers of specimen cards, void since."""


def digits_of(text: str) -> list[int]:
    """Return the ASCII digits of a text, in order."""
    return [_DIGITS[char] for char in text if char in _DIGITS]


def luhn_sum(digits: Sequence[int]) -> int:
    """Return the Luhn sum of digits, the check digit last: a multiple of 10 for a valid number."""
    return sum(digits[-1::-2]) + sum(_DOUBLED[digit] for digit in digits[-2::-2])


def us_ssn(text: str) -> bool:
    """Say whether nine digits can be a US social security number by the ranges the SSA issues (it has no check)."""
    number = "".join(map(str, digits_of(text)))
    area, group, serial = number[:3], number[3:5], number[5:]
    return (
        len(number) == 9
        and area not in ("000", "666")
        and area < "900"
        and group != "00"
        and serial != "0000"
        and number not in _SSN_PRINTED
    )


def uk_nino(text: str) -> bool:
    """Say whether a text is a UK national insurance number by HMRC's rules for its prefix; it has no check digit."""
    found = _NINO.search(_packed(text))
    if found is None:
        return False
    first, second = found.groups()
    return first not in "DFIQUV" and second not in "DFIOQUV" and first + second not in _NINO_NEVER


def de_tax(text: str) -> bool:
    """Say whether a text is a German Steuer-ID: one digit of the first ten repeats, ISO 7064 MOD 11,10 holds."""
    digits = digits_of(text)
    if len(digits) != 11 or digits[0] == 0:
        return False
    counts = sorted((digits[:10].count(digit) for digit in set(digits[:10])), reverse=True)
    if counts[0] not in (2, 3) or counts[1] != 1:
        return False
    product = 10
    for digit in digits[:10]:
        total = (digit + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == digits[10]


def fr_nir(text: str) -> bool:
    """Say whether a text is a French NIR: 13 characters and the key 97 - N mod 97; 2A is read as 19, 2B as 18."""
    packed = _packed(text)[-15:]
    number = packed[:5] + packed[5:7].replace("2A", "19").replace("2B", "18") + packed[7:]
    if len(number) != 15 or not number.isdigit():
        return False
    month = int(number[3:5])
    return (1 <= month <= 12 or month >= 20) and 97 - int(number[:13]) % 97 == int(number[13:])


def es_dni(text: str) -> bool:
    """Say whether a text is a Spanish DNI or NIE: its letter is the number mod 23."""
    packed = _packed(text)[-9:]
    number = _NIE_FIRST.get(packed[:1], packed[:1]) + packed[1:8]
    return len(packed) == 9 and number.isdigit() and _DNI_LETTERS[int(number) % 23] == packed[8]


def it_fiscal(text: str) -> bool:
    """Say whether a text is an Italian codice fiscale by its check letter."""
    packed = _packed(text)[-16:]
    if len(packed) != 16 or not packed.isascii():
        return False
    even = sum(int(char, 36) - (0 if char.isdigit() else 10) for char in packed[1:15:2])
    return chr(ord("A") + (even + sum(_FISCAL_ODD[char] for char in packed[:15:2])) % 26) == packed[15]


def nl_bsn(text: str) -> bool:
    """Say whether nine digits are a Dutch BSN by the eleven test."""
    digits = digits_of(text)
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    return len(digits) == 9 and any(digits) and _weighted(digits, weights) % 11 == 0


def pl_pesel(text: str) -> bool:
    """Say whether eleven digits are a Polish PESEL: a date of birth, and a weighted sum that ends in 0."""
    digits = digits_of(text)
    if len(digits) != 11 or _weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10:
        return False
    century, month = divmod(digits[2] * 10 + digits[3], 20)
    year = (1900, 2000, 2100, 2200, 1800)[century] + digits[0] * 10 + digits[1]
    return _is_date(year, month, digits[4] * 10 + digits[5])


def se_personnummer(text: str) -> bool:
    """Say whether a text is a Swedish personnummer or samordningsnummer (day + 60): a date, and Luhn on ten digits."""
    digits = digits_of(text)
    if len(digits) not in (10, 12) or luhn_sum(digits[-10:]) % 10:
        return False
    year, month, day = (digits[-10 + place] * 10 + digits[-9 + place] for place in (0, 2, 4))
    return _is_date(2000 + year, month, day - 60 if day > 60 else day)


def ch_ahv(text: str) -> bool:
    """Say whether thirteen digits are a Swiss AHV number: 756 first, and the check digit of EAN-13."""
    digits = digits_of(text)
    return len(digits) == 13 and digits[:3] == [7, 5, 6] and _weighted(digits, (1, 3) * 6 + (1,)) % 10 == 0


def br_cpf(text: str) -> bool:
    """Say whether eleven digits, not all the same, are a Brazilian CPF by its two check digits mod 11."""
    digits = digits_of(text)
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    for size in (9, 10):
        rest = _weighted(digits[:size], range(size + 1, 1, -1)) % 11
        if digits[size] != (11 - rest if rest > 1 else 0):
            return False
    return True


def in_aadhaar(text: str) -> bool:
    """Say whether twelve digits are an Indian Aadhaar number: 2 to 9 first, and Verhoeff's check digit."""
    digits = digits_of(text)
    return len(digits) == 12 and digits[0] > 1 and verhoeff.holds(digits)


def cn_resident(text: str) -> bool:
    """Say whether a text is a Chinese resident identity number: a date of birth, ISO 7064 MOD 11-2 (GB 11643-1999)."""
    packed = _packed(text)[-18:]
    if len(packed) != 18 or not packed[:17].isdigit() or packed[17] not in "0123456789X":
        return False
    total = sum(int(char) * (1 << (17 - place)) for place, char in enumerate(packed[:17]))
    year, month, day = int(packed[6:10]), int(packed[10:12]), int(packed[12:14])
    return "10X98765432"[total % 11] == packed[17] and 1800 <= year < 2100 and _is_date(year, month, day)


def au_tfn(text: str) -> bool:
    """Say whether nine digits are an Australian tax file number by its sum mod 11."""
    digits = digits_of(text)
    return len(digits) == 9 and any(digits) and _weighted(digits, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def ca_sin(text: str) -> bool:
    """Say whether nine digits are a Canadian social insurance number: not 0 or 8 first, and Luhn."""
    digits = digits_of(text)
    return len(digits) == 9 and digits[0] not in (0, 8) and luhn_sum(digits) % 10 == 0


def _packed(text: str) -> str:
    return "".join(char for char in text.upper() if char.isascii() and char.isalnum())


def _weighted(digits: Sequence[int], weights: Sequence[int]) -> int:
    return sum(digit * weight for digit, weight in zip(digits, weights, strict=True))


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


CHECKS: dict[str, Callable[[str], bool]] = {
    check.__name__: check
    for check in (
        us_ssn, uk_nino, de_tax, fr_nir, es_dni, it_fiscal, nl_bsn, pl_pesel, se_personnummer, ch_ahv, br_cpf,
        in_aadhaar, cn_resident, au_tfn, ca_sin,
    )
}  # fmt: skip
"""The checks by name."""
