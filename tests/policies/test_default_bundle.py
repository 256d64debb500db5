"""The shipped bundles, rule by rule: what a rule's format gives is found, what is off by a character is not.

Secrets are sampled from the patterns when the test runs: none lies in the repository. What counts as a match is said by
Python's `re` and the rule's check, not by the automata.
"""

from __future__ import annotations

import pydoc_data.topics
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import policies
from policies.authoring import samples
from policies.authoring.cases import run_tests
from policies.authoring.sampled import run_samples
from policies.bundle import load
from policies.enforcement.engine import Enforcer
from policies.enforcement.normalize import is_word
from policies.enforcement.pattern import Chars, Node, Repeat, Series
from policies.enforcement.rules import RegexRule
from policies.enforcement.scan import CompiledBundle, compile_side

BUNDLES = Path(policies.__file__).parent / "bundles"
DRAWS = 3
RULES = {name: load(BUNDLES / name).spec.rules for name in ("default", "strict")}
PATTERNS = {rule.id: rule for rule in RULES["strict"] if isinstance(rule, RegexRule)}
SECRETS = [rule for rule in RULES["default"] if isinstance(rule, RegexRule) and rule.check not in ("card", "iban")]


@pytest.fixture(scope="module")
def enforcer() -> Enforcer:
    side = compile_side(RULES["strict"], "output")
    return Enforcer(CompiledBundle("strict", "sha256:strict", BUNDLES / "strict", side, side))


def drawn(rule: RegexRule) -> Iterator[tuple[str, str]]:
    """Yield (text, match in it) by the rule's id as seed."""
    rng = random.Random(rule.id)
    for _ in range(DRAWS):
        found = samples.draw_match(rule, rng)
        assert found is not None, f"no sample of `{rule.id}` passes its check"
        yield f"a {found[0]} b", found[0]


def matches(rule: RegexRule, text: str) -> bool:
    """Say whether any part of a text is a match, by `re`: every start, every end."""
    ends = [branch for branch in re.split(r"(?<=\\b)\|(?=\\b)", rule.pattern)]
    flags = re.ASCII | (re.IGNORECASE if rule.folded else 0)
    for pattern in ends:
        compiled = re.compile(pattern, flags)
        for start in range(len(text)):
            found = compiled.match(text, start)
            if found is not None and any(
                (part := compiled.fullmatch(text, start, end)) is not None and rule.passes(part[0])
                for end in range(found.end(), start, -1)
            ):
                return True
    return False


def near_misses(text: str, found: str) -> Iterator[str]:
    """Yield texts that differ from one with a match by a character: taken away or put for another."""
    start = text.index(found)
    for place in (len(found) - 1, 0, 1, 2, len(found) // 2):
        yield text[: start + place] + text[start + place + 1 :]
        yield text[: start + place] + "~" + text[start + place + 1 :]
    yield text.replace(found, found[: len(found) // 3])


def test_the_shipped_rules_count() -> None:
    assert len(SECRETS) >= 150
    assert len({rule.type for rule in SECRETS}) >= 150
    assert {rule.side for rule in SECRETS} == {"both"}


def test_the_strict_bundle_has_every_rule_of_the_default_one_and_the_same_access() -> None:
    strict = {rule.id: rule for rule in RULES["strict"]}
    assert all(strict[rule.id] == rule for rule in RULES["default"])
    for name in ("access.cedar", "access.cedarschema"):
        assert (BUNDLES / "strict" / name).read_bytes() == (BUNDLES / "default" / name).read_bytes()


@pytest.mark.slow
def test_the_strict_bundle_passes_its_own_tests() -> None:
    outcomes = run_tests(BUNDLES / "strict")
    assert [outcome for outcome in outcomes if not outcome.passed] == []
    assert len(outcomes) > 300


def test_every_format_is_found_and_nothing_of_it_is_left(enforcer: Enforcer) -> None:
    ids = frozenset(rule.id for rule in RULES["strict"])
    missed = []
    for rule in PATTERNS.values():
        for text, found in drawn(rule):
            piece = enforcer.check_output(text, exempt=ids - {rule.id})
            span = text.index(found), text.index(found) + len(found)
            if not any(hit.start <= span[0] and hit.end >= span[1] for hit in piece.hits):
                missed.append((rule.id, len(found)))
            if not enforcer.check_output(text).text.endswith("b") and rule.until is None:
                missed.append((rule.id, "end"))
    assert missed == []


def test_no_format_is_found_in_what_is_off_by_a_character(enforcer: Enforcer) -> None:
    ids = frozenset(rule.id for rule in RULES["strict"])
    without, wrong = [], []
    for rule in PATTERNS.values():
        text, found = next(drawn(rule))
        tried = [near for near in near_misses(text, found) if not matches(rule, near)][:2]
        if not tried:
            without.append(rule.id)
        wrong += [rule.id for near in tried if enforcer.check_output(near, exempt=ids - {rule.id}).hits]
    assert without == []
    assert wrong == []


def test_a_random_token_passes_the_check_that_tells_it_from_words() -> None:
    refused = []
    for rule in (rule for rule in SECRETS if rule.check in ("mixed", "random_value") and rule.id != "named-secret"):
        rng = random.Random(rule.id)
        texts = [samples.draw(rng.choice(rule.branches()).body, rng) for _ in range(60)]
        refused += [rule.id] * (sum(not rule.passes(text) for text in texts) > 6)
    assert refused == []


def test_no_format_may_begin_or_end_where_its_word_edge_cannot_hold() -> None:
    """A key that begins with `/` has no word edge after a space: the pattern would pass it by."""
    edges = [
        rule.id
        for rule in PATTERNS.values()
        for branch in rule.branches()
        if (branch.left and _strays(branch.body, 0)) or (branch.right and _strays(branch.body, -1))
    ]
    assert edges == []


def _strays(node: Node, place: int) -> bool:
    """Say whether the first (0) or last (-1) character of a node may be none of a word."""
    if isinstance(node, Chars):
        return any(not is_word(chr(code)) for low, high in node.ranges for code in range(low, min(high, low + 99) + 1))
    if isinstance(node, Series):
        return _strays(node.items[place], place)
    if isinstance(node, Repeat):
        return _strays(node.item, place)
    return any(_strays(option, place) for option in node.options)


def test_a_rule_that_does_not_act_on_its_own_texts_is_told(enforcer: Enforcer) -> None:
    other = [rule.model_copy(update={"pattern": r"\bnever[0-9]{9}"}) for rule in SECRETS[:2]]
    assert dict(run_samples(enforcer, SECRETS[:2], 2)) == {rule.id: "" for rule in SECRETS[:2]}
    assert all("does not act" in wrong for _, wrong in run_samples(enforcer, other, 1))
    assert list(run_samples(enforcer, SECRETS, 0)) == []


def test_prose_and_programs_pass_the_default_rules(enforcer: Enforcer) -> None:
    added = frozenset(rule.id for rule in RULES["strict"]) - {rule.id for rule in RULES["default"]}
    library = Path(sysconfig.get_path("stdlib"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(library.glob("*.py"))[:80]]
    texts += pydoc_data.topics.topics.values()
    found = [hit.rule for text in texts for hit in enforcer.check_output(text, exempt=added).hits]
    assert found == []
