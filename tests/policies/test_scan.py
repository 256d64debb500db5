"""The prefilter: it may point at too much, never at too little; and its cache."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.enforcement.compiled import CompiledCache
from policies.enforcement.pattern import parse
from policies.enforcement.prefilter import Prefilter, expression
from policies.enforcement.rules import SpanRule
from policies.enforcement.scan import compile_side
from registry.errors import SpecError
from tests.policies.enforcing import model_matches, rules_of

RULES = rules_of(
    {"kind": "regex", "pattern": r"\bgh[po]_[a-z0-9]{4,6}"},
    {"kind": "regex", "pattern": "[^a-z ]{2}x"},
    {"kind": "regex", "pattern": "caf[\u00e9e]{1,2}", "view": "folded"},
    {"kind": "terms", "terms": ["stra\u00dfe", "fi a"]},
    {"kind": "regex", "pattern": "[Kc]a", "view": "lookalike"},
    {"kind": "regex", "pattern": "fc", "view": "plain"},
)
SIDE = compile_side(RULES, "output")


def regions(text: str) -> list[tuple[int, int]]:
    found = SIDE.look(text)
    return [] if found is None else found.regions


@settings(max_examples=150, deadline=None)
@given(st.text("ghp_a1x \u00e9\u00df\ufb01SsTRae\u200bcf\u0430\u041a", max_size=40))
def test_every_match_lies_in_one_region(text: str) -> None:
    found = regions(text)
    for rule in RULES:
        assert isinstance(rule, SpanRule)
        for match in model_matches(rule, text):
            assert any(first <= match.start and match.end <= last for first, last in found)


def test_regions_are_small() -> None:
    assert regions("x" * 5000 + " ghp_a1b2c3 " + "y" * 5000) == [(4999, 5011)]
    assert SIDE.look("plain words, \u00e9 and \u200b, nothing more") is None


def test_encoded_runs_are_pointed_at() -> None:
    rules = rules_of({"kind": "regex", "pattern": r"\bgh[po]_[a-z0-9]{4,6}", "decoded": ["base64", "hex", "url"]})
    side = compile_side(rules, "output")
    said = base64.b64encode(b"xx ghp_a1b2c3").decode()
    found = side.look(f"\u00e9 see {said}, {b'ghp_a1b2c3'.hex()}: nothing_of_note_here")
    assert found is not None
    assert [(lane, run) for lane, _, run in found.runs] == [(0, said.rstrip("=")), (1, b"ghp_a1b2c3".hex())]
    assert found.runs[0][1] == 6
    assert not found.escaped
    escaped = side.look("\u00e9 ghp%5Fa1b2c3")
    assert escaped is not None
    assert escaped.escaped
    assert side.look("100%, 50%20 and AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA") is None


def test_expression_is_bounded_and_explicit() -> None:
    assert expression(parse("a{2,3}(?:bb|c)")[0].body) == (
        r"[\x{61}-\x{61}]{2,3}(?:[\x{62}-\x{62}][\x{62}-\x{62}]|[\x{63}-\x{63}])"
    )


def test_cache_is_used_private_and_optional(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path / "compiled", b"secret")
    branches = parse("abc[0-9]{3}")
    first = Prefilter(branches, cache)
    (kept,) = cache.folder.glob("*.hs")
    assert kept.stat().st_mode & 0o077 == 0
    assert Prefilter(branches, cache).ends(b"abc123") == first.ends(b"abc123") == [(0, 6)]
    kept.write_bytes(b"not a database")
    assert Prefilter(branches, cache).ends(b"abc123") == [(0, 6)]
    kept.chmod(0o666)
    before = kept.read_bytes()
    assert Prefilter(branches, cache).ends(b"abc123") == [(0, 6)]
    assert before[:4] == kept.read_bytes()[:4]
    assert kept.stat().st_mode & 0o077 == 0


def test_rules_are_not_switched_off_by_swapping_what_was_compiled(tmp_path: Path) -> None:
    """Another database under the same name, whole and valid, but made by somebody without the secret."""
    mine, theirs = CompiledCache(tmp_path / "mine", b"secret"), CompiledCache(tmp_path / "theirs", b"guess")
    branches = parse("abc[0-9]{3}")
    Prefilter(branches, mine)
    (kept,) = mine.folder.glob("*.hs")
    Prefilter(parse("xyz"), theirs)
    (harmless,) = theirs.folder.glob("*.hs")
    theirs.save(kept.stem, harmless.read_bytes()[32:])
    kept.write_bytes((theirs.folder / kept.name).read_bytes())
    assert Prefilter(branches, mine).ends(b"abc123") == [(0, 6)]
    Prefilter(parse("xyz"), mine)
    (own,) = set(mine.folder.glob("*.hs")) - {kept}
    kept.write_bytes(own.read_bytes())  # made here, but of other patterns
    assert Prefilter(branches, mine).ends(b"abc123") == [(0, 6)]


def test_a_pattern_too_large_for_the_scanner_is_a_spec_error() -> None:
    with pytest.raises(SpecError, match="too large"):
        Prefilter(parse("(?:" + "|".join(f"[a-f]{{1,200}}{n}[a-f]{{1,200}}{n}" for n in range(400)) + "){4,8}"))
