"""Signed notes: what was signed verifies, anything else is refused, and the published example is read."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import notes
from registry.errors import Refused, SpecError, Tampered
from registry.signers import KeySigner, generate

KEYS = [KeySigner(generate()) for _ in range(3)]
TEXT = "hallmark/w\n3\nAAAA\n"
PRINTED = st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"]), min_size=1, max_size=20)


def verifier(number, name="key"):
    return notes.Verifier(f"{name}{number}", KEYS[number].public)


def test_the_example_of_go_sumdb_verifies():
    """The note and key of golang.org/x/mod/sumdb/note's package documentation, made by another implementation."""
    key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    name, key_hash, data = key.split("+")
    raw = notes.from_base64(data)
    text = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
        "\n"
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    peter = notes.Verifier(name, raw[1:].hex())
    assert raw[:1] == notes.ED25519
    assert peter.key_hash.hex() == key_hash
    parsed, signers = notes.verify(text, [peter])
    assert signers == (peter,)
    assert parsed.text.endswith("your problem is.\n")


@settings(deadline=None)
@given(st.lists(PRINTED, min_size=1, max_size=5), st.sampled_from(range(3)))
def test_what_was_signed_verifies(lines, number):
    text = "\n".join(lines) + "\n"
    note = notes.sign(text, f"key{number}", KEYS[number])
    parsed, signers = notes.verify(note, [verifier(n) for n in range(3)])
    assert (parsed.text, signers) == (text, (verifier(number),))
    assert notes.verify(note.encode(), [verifier(number)])[0] == parsed


@settings(deadline=None)
@given(st.integers(0), st.integers(0, 7))
def test_a_flipped_bit_never_verifies(at, bit):
    data = bytearray(notes.sign(TEXT, "key0", KEYS[0]).encode())
    data[at % len(data)] ^= 1 << bit
    with pytest.raises((Tampered, Refused)):
        notes.verify(bytes(data), [verifier(0)])


def test_signatures_of_unknown_keys_are_ignored_and_of_known_keys_must_hold():
    note = notes.sign(TEXT, "key0", KEYS[0])
    other = notes.parse(notes.sign(TEXT, "key1", KEYS[1])).signatures[0]
    wrong = notes.parse(notes.sign("another\n", "key1", KEYS[1])).signatures[0]
    assert notes.verify(note + other.line(), [verifier(0)])[1] == (verifier(0),)
    assert notes.verify(note + other.line(), [verifier(0), verifier(1)])[1] == (verifier(0), verifier(1))
    assert notes.verify(note + wrong.line(), [verifier(0)])[1] == (verifier(0),)
    with pytest.raises(Tampered, match="`key1` does not verify"):
        notes.verify(note + wrong.line(), [verifier(0), verifier(1)])
    with pytest.raises(Refused, match="no known key"):
        notes.verify(note, [verifier(1), verifier(0, "other")])
    with pytest.raises(Refused, match="no known key"):
        notes.verify(note, [])


def test_a_text_with_empty_lines_is_split_at_the_last():
    note = notes.sign("a\n\nb\n", "key0", KEYS[0])
    assert notes.verify(note, [verifier(0)])[0].text == "a\n\nb\n"


GOOD = notes.sign(TEXT, "key0", KEYS[0])
LINE = notes.parse(GOOD).signatures[0].line()


@pytest.mark.parametrize("note", [
    "", "\n", "\n\n", TEXT, TEXT + "\n", GOOD[:-1], GOOD + "\n", GOOD.replace("—", "-"), GOOD.replace("— ", "—"),
    GOOD.replace("— key0", "—  key0"), GOOD.replace("key0", "ke+y0"), GOOD.replace("\n", "\r\n"), "\x01" + GOOD,
    GOOD[:-2] + "\n", TEXT + "\n— key0 AAAA\n", TEXT + "\n— key0 ????\n", GOOD + LINE * 100, "\n\n" + LINE, "\n" + LINE,
    GOOD.encode().replace(b"hallmark", b"hall\xffmark"), GOOD + "x" * (1 << 20), GOOD.replace("hallmark", "\ud800"),
])  # fmt: skip
def test_malformed_notes_are_refused(note):
    with pytest.raises(Tampered, match="malformed note"):
        notes.parse(note)


def test_what_cannot_be_signed_is_refused():
    with pytest.raises(SpecError, match="p256"):
        notes.sign(TEXT, "key", KeySigner(generate("p256")))
    with pytest.raises(SpecError, match="cannot name"):
        notes.sign(TEXT, "my key", KEYS[0])
    with pytest.raises(Tampered, match="control characters"):
        notes.sign("no newline", "key", KEYS[0])
