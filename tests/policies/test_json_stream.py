"""Tool arguments: what an escape hides is found, the same for every cut, and what a parser reads is safe."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.enforcement.engine import Enforcer
from policies.enforcement.json_stream import JsonStream, check_json
from tests.policies.enforcing import enforcer_of
from tests.policies.running import SECRET

KEY = {"kind": "regex", "type": "api_key", "pattern": "sk-[a-z0-9]{8,24}"}
ENFORCER = enforcer_of(
    KEY,
    {"kind": "terms", "type": "name", "terms": ["project orion"], "action": "mask"},
    {"kind": "regex", "type": "lines", "pattern": r"BEGIN\n{1,3}[A-Z]{2,4}"},
    {"kind": "terms", "type": "bomb", "terms": ["sarin"], "action": "block"},
)
NONE: frozenset[str] = frozenset()
RULE = frozenset({"r0"})


def spelled(text: str, escaped: list[bool]) -> str:
    """Return text inside a JSON string, the flagged characters as escapes."""
    out = []
    for number, char in enumerate(text):
        units = char.encode("utf-16-be", "surrogatepass")
        codes = [int.from_bytes(units[place : place + 2], "big") for place in range(0, len(units), 2)]
        hidden = escaped[number % len(escaped)] or char in '"\\' or char < " "
        out.append("".join(f"\\u{code:04x}" for code in codes) if hidden else char)
    return "".join(out)


def streamed(enforcer: Enforcer, pieces: list[str]) -> tuple[str, str | None]:
    stream = JsonStream(enforcer, NONE, NONE)
    out, blocked = "", None
    for piece in [*map(stream.push, pieces)]:
        out += piece.text
        blocked = blocked or piece.blocked
    last = stream.finish()
    return out + last.text, blocked or last.blocked


@pytest.mark.parametrize(
    ("arguments", "safe"),
    [
        ('{"a": "sk-\\u0061bcdefgh"}', '{"a": "[REDACTED:api_key]"}'),
        ('{"\\u0073k-abcdefgh": 1}', '{"[REDACTED:api_key]": 1}'),
        ('{"a": "BEGIN\\nABC"}', '{"a": "[REDACTED:lines]"}'),
        ('{"a": "\\u0070roject\\u0020orion"}', '{"a": "*************"}'),
        ('{"a": "\\u00e9 \\ud83d\\ude00 \\" \\\\ \\n \\/"}', '{"a": "é 😀 \\" \\\\ \\n /"}'),
        ("sk-abcdefgh is no JSON", "[REDACTED:api_key] is no JSON"),
        ('{"a": ["x", "sk-\\abcdefgh"]}', '{"a": ["x", "[REDACTED:api_key]"]}'),
        ('{"a": "open \\u00', '{"a": "open \\u00'),
    ],
)
def test_whole_arguments(arguments: str, safe: str) -> None:
    assert check_json(ENFORCER, arguments, NONE, NONE).text == safe


def test_a_blocking_rule_ends_the_arguments_before_the_match() -> None:
    for pieces in (['{"a": "make s\\u0061rin now"}'], list('{"a": "make s\\u0061rin now"}')):
        text, blocked = streamed(ENFORCER, pieces)
        assert (text, blocked) == ('{"a": "make ', "r3")
    assert check_json(ENFORCER, '"s\\u0061rin"', NONE, NONE).blocked == "r3"


TEXTS = st.text('abcdefgsk-019 BEGIN\nprojectorion"\\é😀', max_size=24) | st.sampled_from(
    [SECRET, f"the {SECRET} is", "project orion", "BEGIN\n\nABC", "a sarin b", "sk-abcdef", "project  orion x"]
)


@given(st.lists(TEXTS, max_size=4), st.lists(st.booleans(), min_size=1, max_size=7), st.lists(st.integers(1, 5)))
def test_every_cut_releases_the_same_and_nothing_of_a_match(
    texts: list[str], escaped: list[bool], sizes: list[int]
) -> None:
    arguments = '{"k": [' + ", ".join(f'"{spelled(text, escaped)}"' for text in texts) + "]}"
    whole = check_json(ENFORCER, arguments, NONE, NONE)
    pieces, place = [], 0
    for size in [*sizes, len(arguments)]:
        pieces.append(arguments[place : place + size])
        place += size
    assert streamed(ENFORCER, pieces) == streamed(ENFORCER, list(arguments)) == (whole.text, whole.blocked)
    if whole.blocked is None:
        for string in json.loads(whole.text)["k"]:
            assert not re.search(r"sk-[a-z0-9]{8}|BEGIN\n{1,3}[A-Z]{2}|sarin", string)
            assert "project orion" not in string


@given(st.dictionaries(st.text('ab"\\\né😀 ', max_size=6), st.text('xyz"\\\té 0', max_size=9)), st.booleans())
def test_clean_arguments_mean_the_same(value: dict[str, str], ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert json.loads(check_json(ENFORCER, text, NONE, NONE).text) == value
    assert check_json(ENFORCER, json.dumps(value, ensure_ascii=False), NONE, NONE).hits == ()


def test_an_exempt_rule_does_not_act() -> None:
    assert check_json(ENFORCER, '"sk-\\u0061bcdefgh"', RULE, RULE).text == '"sk-abcdefgh"'


def test_a_stream_holds_no_more_than_a_rule_claims() -> None:
    stream = JsonStream(ENFORCER, NONE, NONE)
    assert stream.push('{"a": "hello sk-abc').text == '{"a": "hello '
    assert stream.held == len("sk-abc")
    assert stream.push('"').text == 'sk-abc"'
