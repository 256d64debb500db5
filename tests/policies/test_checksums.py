"""Checksums: numbers that offices and standards print as examples pass, any changed digit does not."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.enforcement.checksums import CHECKS, crc32_base62_of

EXAMPLES = {
    "luhn": ["4111 1111 1111 1111", "5500-0000-0000-0004", "340000000000009", "79927398713"],
    "card": ["4111 1111 1111 1111", "3782-822463-10005", "30569309025904", "6011111111111117", "3530111333300000",
             "2223003122003222", "6759649826438453", "4222222222222"],
    "iban": ["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "no9386011117947", "FR1420041010050500013M02606",
             "MT84MALT011000012345MTLCAST001S"],
    "us_ssn": ["123-45-6789", "ssn: 001010001"],
    "uk_nino": ["AB 12 34 56 C", "zy987654d"],
    "de_tax": ["86 095 742 719", "47036892816", "65929970489", "57549285017"],
    "fr_nir": ["2 55 08 14 168 025 38", "180126955222380"],
    "es_dni": ["12345678Z", "12345678-z", "X1234567L"],
    "it_fiscal": ["RSSMRA85T10A562S", "MRTMTT91D08F205J"],
    "nl_bsn": ["BSN: 111222333", "123456782"],
    "pl_pesel": ["44051401359", "02070803628"],
    "se_personnummer": ["811218-9876", "670919-9530"],
    "ch_ahv": ["756.9217.0769.85", "7561234567897"],
    "br_cpf": ["111.444.777-35", "52998224725"],
    "in_aadhaar": ["9999 4105 7058", "999971658847"],
    "cn_resident": ["11010519491231002X", "11010519491231002x", "440524188001010014"],
    "au_tfn": ["TFN 123 456 782"],
    "ca_sin": ["130 692 544"],
    "base58check": ["5HueCGU8rMjxEXxiPuD5BDku4MkFqeZyd4dZ1jvhTVqvbTLvyTJ"],
    "crc32_base62": ["pre_" + "zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ" + "0mLq17"],
    "ip_address": ["8.8.4.4", "10.1.2.3", "fe80::5054:ff:fe9", "2a00:1450:4001:82f::200e"],
    "entropy": ["q8Zr2LmX0vKd7TyB"],
    "random_value": ['api_key = "q8zr2lmx0vkd7tyb"', "TOKEN: 0123456789abcdef0123456789abcdef"],
    "mixed": ["cioq8Zr2LmX0vKd7TyBq8Zr2LmX0vKd7T"],
}  # fmt: skip
REFUSED = {
    "luhn": ["0" * 16, "4111 1111 1111 1112"],
    "card": ["9111111111111116", "41111111111111", "4111 1111 1111 1112", "0" * 16, ""],
    "iban": ["GB82 WEST 1234 5698 7654 33", "GB00", "DE88370400440532013000", "XX82WEST12345698765432", "DE8937040044"],
    "us_ssn": ["000-45-6789", "666-45-6789", "900-45-6789", "123-00-6789", "123-45-0000", "078-05-1120", "12345678"],
    "uk_nino": ["QQ123456C", "GB123456A", "AO123456A", "AB123456E", "AB12345"],
    "de_tax": ["06095742719", "12345678901", "8609574271", "11111111111"],
    "fr_nir": ["255131416802538", "2550814168025", "2 55 08 AA 168 025 38"],
    "es_dni": ["12345678A", "Y1234567L", "1234567L", "ABCDEFGHI"],
    "it_fiscal": ["RSSMRA85T10A562T", "RSSMRA85T10A562"],
    "nl_bsn": ["111222334", "000000000", "11122233"],
    "pl_pesel": ["44131401355", "44051401358", "4405140135"],
    "se_personnummer": ["811318-9870", "811218-9875", "811218"],
    "ch_ahv": ["756.9217.0769.84", "757.9217.0769.82", "756"],
    "br_cpf": ["111.111.111-11", "111.444.777-34", "111.444.777-25"],
    "in_aadhaar": ["1999 4105 7058", "9999 4105 7059", "99994105705"],
    "cn_resident": ["110105194912310021", "11010519491331002X", "1101051949"],
    "au_tfn": ["123 456 783", "000000000", "12345678"],
    "ca_sin": ["046 454 286", "130 692 545", "830 692 54"],
    "base58check": ["5HueCGU8rMjxEXxiPuD5BDku4MkFqeZyd4dZ1jvhTVqvbTLvyTK", "0OIl", "5", ""],
    "crc32_base62": ["pre_" + "zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ" + "0mLq18", "pre_0mLq17", "none"],
    "ip_address": ["127.0.0.1", "0.0.0.0", "255.255.255.0", "192.0.2.1", "256.1.1.1", "::1", "abc::def"],
    "entropy": ["aaaaaaaabbbbbbbb"],
    "random_value": ['password = "correct horse"', 'token = "configuration"', 'x = "aaaaaaaaaaaaaaa1"', '""'],
    "mixed": ["cio_a_long_name_of_some_function_here", "cioConfigurationListenerDescription", "cio" + "a" * 32],
}  # fmt: skip
CHECK_DIGITS = (
    "luhn", "card", "iban", "de_tax", "fr_nir", "es_dni", "it_fiscal", "nl_bsn", "pl_pesel", "se_personnummer",
    "ch_ahv", "br_cpf", "in_aadhaar", "cn_resident", "au_tfn", "ca_sin", "base58check",
)  # fmt: skip


def test_every_check_has_examples() -> None:
    assert set(EXAMPLES) == set(REFUSED) == set(CHECKS)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_examples_pass_and_others_do_not(name: str) -> None:
    assert [text for text in EXAMPLES[name] if not CHECKS[name](text)] == []
    assert [text for text in REFUSED[name] if CHECKS[name](text)] == []


@pytest.mark.parametrize("name", CHECK_DIGITS)
def test_any_one_changed_digit_is_found(name: str) -> None:
    passed = []
    for text in EXAMPLES[name]:
        for place, char in enumerate(text):
            others = set(string.digits) - {char} if char in string.digits else ()
            passed += [changed for other in others if CHECKS[name](changed := text[:place] + other + text[place + 1 :])]
    assert passed == []


@given(st.lists(st.integers(0, 9), min_size=11, max_size=11), st.integers(0, 10))
def test_verhoeff_finds_every_swap_of_neighbours(digits: list[int], place: int) -> None:
    check = CHECKS["in_aadhaar"]
    number = [2, *digits[:10]]
    whole = next(text for last in range(10) if check(text := "".join(map(str, [*number, last]))))
    swapped = list(whole)
    swapped[place], swapped[place + 1] = swapped[place + 1], swapped[place]
    assert check("".join(swapped)) == ("".join(swapped) == whole)


@given(st.text(alphabet=string.ascii_letters + string.digits, min_size=1, max_size=40))
def test_a_token_passes_with_its_own_checksum_only(body: str) -> None:
    check = crc32_base62_of(body)
    assert len(check) == 6
    assert CHECKS["crc32_base62"](f"pre_{body}{check}")
    assert not CHECKS["crc32_base62"](f"pre_{body}{check[:-1]}{'0' if check[-1] != '0' else '1'}")


@pytest.mark.parametrize(
    "alphabet", [string.ascii_letters + string.digits, string.ascii_letters + string.digits + "_-"]
)
def test_random_tokens_are_mixed(alphabet: str) -> None:
    rng = random.Random(7)
    tokens = ["".join(rng.choices(alphabet, k=32)) for _ in range(1000)]
    assert sum(CHECKS["mixed"](token) for token in tokens) >= 995


@given(st.text(max_size=40), st.sampled_from(sorted(CHECKS)))
def test_checks_take_any_text(text: str, name: str) -> None:
    assert CHECKS[name](text) in (True, False)
