"""Suppress mode: from a match on everything is dropped up to `until`; aborts; and the work that a text may cost."""

from __future__ import annotations

import base64
import tracemalloc

import pytest

from policies.enforcement import judge
from policies.enforcement.judge import WORK_LIMIT
from policies.enforcement.stream import NOTHING
from tests.policies.enforcing import enforcer_of, streamed

PEM = {
    "kind": "regex",
    "type": "private_key",
    "pattern": "-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----",
    "until": "-----END [A-Z ]{0,20}PRIVATE KEY-----",
}
KEY = {"kind": "regex", "type": "key", "pattern": r"\bghp_[A-Za-z0-9]{8,36}"}
BLOCK = "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END RSA PRIVATE KEY-----"


def everywhere(enforcer, text: str) -> tuple:
    """Return what a text comes to, after every chunking that is tried has come to the same."""
    whole = enforcer.check_output(text)
    result = (whole.text, whole.hits, whole.blocked)
    assert streamed(enforcer, list(text)) == result
    for cut in range(len(text)):
        assert streamed(enforcer, [text[:cut], text[cut:]]) == result
    return result


def test_one_placeholder_stands_for_all_and_the_rest_goes_on() -> None:
    text, hits, blocked = everywhere(enforcer_of(PEM), f"key:\n{BLOCK}\nthe end")
    assert (text, blocked) == ("key:\n[REDACTED:private_key]\nthe end", None)
    assert [(hit.start, hit.end) for hit in hits] == [(5, 5 + len(BLOCK))]


def test_without_an_end_everything_is_dropped() -> None:
    text, hits, blocked = everywhere(enforcer_of(PEM), f"a {BLOCK[:-10]} and more")
    assert (text, blocked) == ("a [REDACTED:private_key]", None)
    assert hits[0].end == len(f"a {BLOCK[:-10]} and more")


def test_matches_inside_are_swallowed_and_those_after_are_found() -> None:
    inside = BLOCK.replace("hkiG", "ghp_Ab3dE6gH9kL2")
    text, hits, _ = everywhere(enforcer_of(KEY, PEM), f"{inside} ghp_Ab3dE6gH9kL2 {BLOCK}{BLOCK}")
    assert text == "[REDACTED:private_key] [REDACTED:key] [REDACTED:private_key][REDACTED:private_key]"
    assert [hit.rule for hit in hits] == ["r1", "r0", "r1", "r1"]


def test_a_match_that_touches_the_beginning_joins_the_placeholder() -> None:
    enforcer = enforcer_of({"kind": "regex", "type": "head", "pattern": "xx-{1,5}"}, PEM)
    assert everywhere(enforcer, f"a xx{BLOCK} b")[0] == "a [REDACTED:head] b"


def test_a_block_inside_is_swallowed_and_one_after_it_stands() -> None:
    enforcer = enforcer_of(PEM, {"kind": "terms", "terms": ["sarin"], "action": "block"})
    assert everywhere(enforcer, BLOCK.replace("MII", " sarin ") + " ok") == (
        "[REDACTED:private_key] ok",
        everywhere(enforcer, BLOCK.replace("MII", " sarin ") + " ok")[1],
        None,
    )
    assert everywhere(enforcer, f"{BLOCK} sarin ok")[::2] == ("[REDACTED:private_key] ", "r1")


@pytest.mark.parametrize("coding", ["base64", "hex", "url"])
def test_what_begins_in_an_encoded_run_is_dropped_there(coding: str) -> None:
    enforcer = enforcer_of({**PEM, "decoded": [coding]})
    data = f"see {BLOCK} so".encode()
    coded = {
        "base64": base64.b64encode(data).decode(),
        "hex": data.hex(),
        "url": "".join(f"%{byte:02x}" for byte in data),
    }[coding]
    text = everywhere(enforcer, f"a ({coded}) b")[0]
    end = "%20%73%6f) b" if coding == "url" else ") b" if "=" not in coded else "=" * coded.count("=") + ") b"
    assert text.startswith("a (")
    assert text.endswith("[REDACTED:private_key]" + end)


def test_word_edges_at_the_end_of_what_is_dropped() -> None:
    enforcer = enforcer_of({"kind": "regex", "type": "x", "pattern": "<<", "until": r"end\b"})
    assert everywhere(enforcer, "a << ending endless end, b")[0] == "a [REDACTED:x], b"
    assert everywhere(enforcer, "a << end")[0] == "a [REDACTED:x]"


def test_the_length_limit_counts_what_is_dropped() -> None:
    enforcer = enforcer_of(PEM, {"kind": "max_length", "characters": 50})
    assert everywhere(enforcer, f"{BLOCK}more")[::2] == ("[REDACTED:private_key]", "r1")
    assert everywhere(enforcer, BLOCK)[2] is None


def test_dropping_keeps_no_text() -> None:
    stream = enforcer_of(PEM).stream()
    stream.push("-----BEGIN PRIVATE KEY-----\n")
    for _ in range(50):
        stream.push("MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n" * 10)
    tracemalloc.start()
    for _ in range(500):
        assert stream.push("MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n" * 10).text == ""
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 50_000
    assert stream.held == 0


def test_an_abort_ends_an_answer_and_refuses_an_input() -> None:
    enforcer = enforcer_of({"kind": "terms", "terms": ["enough"], "action": "abort"})
    piece = enforcer.check_output("that is enough now")
    assert (piece.text, piece.blocked, piece.aborts) == ("that is ", "r0", True)
    stream = enforcer.stream()
    assert stream.push("that is eno").text == "that is "
    last = stream.push("ugh now")
    assert (last.text, last.blocked, last.aborts) == ("", "r0", True)
    assert stream.finish() == NOTHING
    entry = enforcer.check_input("that is enough now")
    assert (entry.blocked, entry.aborts) == ("r0", False)


def test_checks_that_a_text_makes_too_many_of_block_it_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "FREE_WORK", 2000)
    monkeypatch.setattr(judge, "WORK_PER_CHARACTER", 10)
    card = {"kind": "regex", "type": "card", "pattern": r"\b(?:[0-9][ -]?){12,18}[0-9]\b", "check": "luhn"}
    enforcer = enforcer_of(card)
    text = "so " + "4 " * 400
    whole = enforcer.check_output(text)
    assert whole.blocked == WORK_LIMIT
    assert whole.text.startswith("so ")
    for size in (1, 3, 7, 50, 900):
        pieces = [text[place : place + size] for place in range(0, len(text), size)]
        assert streamed(enforcer, pieces) == (whole.text, whole.hits, WORK_LIMIT)
    assert enforcer.check_output("so 4111 1111 1111 1111, 1 2 3 4 5 6 7").text == "so [REDACTED:card], 1 2 3 4 5 6 7"
