"""The enforcer: sides, whole-text rules, streams that wait for the whole text."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.enforcement import engine as engine_module
from policies.enforcement.engine import Enforcer
from policies.enforcement.scan import CompiledBundle, compile_side
from policies.enforcement.stream import OVERFLOW
from tests.policies.enforcing import enforcer_of, rules_of, streamed

JSON = {"kind": "json_schema", "side": "output", "schema": {"type": "object"}}
GUARD = {"kind": "guardrails", "side": "output", "validator": "checks.py:Calm", "surfaces": ["completions"]}


def test_sides_are_apart() -> None:
    enforcer = enforcer_of(
        {"kind": "terms", "terms": ["in"], "side": "input"}, {"kind": "terms", "terms": ["out"], "side": "output"}
    )
    assert enforcer.check_input("in out").text == "[REDACTED:t0] out"
    assert enforcer.check_output("in out").text == "in [REDACTED:t1]"


def test_a_clean_text_comes_back_as_it_is() -> None:
    piece = enforcer_of({"kind": "terms", "terms": ["x"]}).check_output("nothing here")
    assert (piece.text, piece.hits, piece.blocked) == ("nothing here", (), None)


def test_length_limits() -> None:
    enforcer = enforcer_of({"kind": "max_length", "characters": 5})
    assert enforcer.check_input("12345").blocked is None
    piece = enforcer.check_input("123456")
    assert (piece.text, piece.blocked, [(hit.start, hit.end) for hit in piece.hits]) == ("12345", "r0", [(5, 6)])


def test_whole_text_rules_hold_the_stream_until_its_end() -> None:
    enforcer = enforcer_of(JSON, {"kind": "regex", "pattern": "k[0-9]{2}"})
    stream = enforcer.stream()
    assert [stream.push(piece).text for piece in ('{"a": "k', '12"', "}")] == ["", "", ""]
    assert stream.held == len('{"a": "[REDACTED:t1]"}')
    last = stream.finish()
    assert (last.text, last.blocked, [hit.rule for hit in last.hits]) == ('{"a": "[REDACTED:t1]"}', None, ["r1"])


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"k12": 1}'])
def test_whole_and_streamed_agree_under_whole_text_rules(text: str) -> None:
    enforcer = enforcer_of(JSON, {"kind": "regex", "pattern": "k[0-9]{2}"})
    whole = enforcer.check_output(text)
    assert streamed(enforcer, list(text)) == (whole.text, whole.hits, whole.blocked)
    assert (whole.blocked is None) == text.startswith("{") * text.endswith("}")


def test_a_block_under_whole_text_rules_releases_nothing() -> None:
    enforcer = enforcer_of(JSON, {"kind": "terms", "terms": ["stop"], "action": "block"})
    text = '{"a": "stop"}'
    assert enforcer.check_output(text).text == ""
    stream = enforcer.stream()
    pieces = [stream.push(char) for char in text]
    assert [piece.blocked for piece in pieces if piece.blocked] == ["r1"]
    assert "".join(piece.text for piece in pieces) + stream.finish().text == ""


def test_exempt_whole_text_rules_do_not_hold() -> None:
    stream = enforcer_of(JSON).stream(exempt=frozenset({"r0"}))
    assert stream.push("plain").text == "plain"


def test_a_text_too_long_to_hold_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MOST_HELD", 10)
    stream = enforcer_of(JSON).stream()
    assert stream.push("{" + " " * 9).blocked is None
    last = stream.push("  ")
    assert (last.text, last.blocked, stream.finish().text) == ("", OVERFLOW, "")


def test_guard_rules_find_their_files_and_surfaces() -> None:
    side = compile_side(rules_of(GUARD), "output")
    enforcer = Enforcer(CompiledBundle("b", "", Path("/bundles/one"), compile_side([], "input"), side))
    (rule,) = enforcer.guard_rules
    assert rule.validator == "/bundles/one/checks.py:Calm"
    assert enforcer.guards_off("chat") == {"r0"}
    assert enforcer.guards_off("completions") == frozenset()
    assert enforcer.holds_whole_text()
    assert not enforcer.holds_whole_text(enforcer.guards_off("chat"))
