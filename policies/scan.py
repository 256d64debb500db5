"""Compiled bundles, and the fast look at a whole text: which parts of it can hold a match at all.

Hyperscan scans the text once for all rules and reports where matches of their bodies end; the exact automaton then
reads only those parts. A rule set without a candidate costs one scan and nothing more.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from policies.closure import Automaton
from policies.compiled import CompiledCache
from policies.normalize import fold, origins
from policies.pattern import Branch, Chars, Choice, Node, Series
from policies.rules import (
    AnyRule,
    FormatRule,
    GuardrailsRule,
    JsonSchemaRule,
    LanguageRule,
    MaxLengthRule,
    PythonRule,
    SpanRule,
)
from registry.errors import SpecError

logger = logging.getLogger(__name__)

Region = tuple[int, int]
"""Half-open interval of code points of the original text."""


class Prefilter:
    """A Hyperscan database in block mode over the bodies of branches, without their word edges."""

    def __init__(self, branches: Sequence[Branch], cache: CompiledCache | None = None) -> None:
        """Compile, or load what was compiled before from `cache`.

        Raises:
            SpecError: a pattern is too large for the scanner.
        """
        import hyperscan

        sources = [expression(branch.body) for branch in branches]
        wide = [_is_wide(branch.body) for branch in branches]
        flags = [hyperscan.HS_FLAG_UTF8 if is_wide else 0 for is_wide in wide]
        key = hashlib.blake2b(repr((version("hyperscan"), sources, flags)).encode(), digest_size=20).hexdigest()
        self._scratch_lock = threading.Lock()
        self._database = _load(cache, key)
        if self._database is None:
            self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
            try:
                self._database.compile(
                    expressions=[source.encode() for source in sources],
                    ids=list(range(len(sources))),
                    elements=len(sources),
                    flags=flags,
                )
            except hyperscan.HyperscanError as error:
                raise SpecError(f"a pattern is too large to scan for: {error}", hint="lower its repeats") from None
            if cache is not None:
                cache.save(key, hyperscan.dumpb(self._database))
        self._database.scratch = hyperscan.Scratch(self._database)

    def ends(self, data: bytes) -> list[tuple[int, int]]:
        """Return (branch, byte offset) of every place where a branch's body ends; the order is the scanner's."""
        found: list[tuple[int, int]] = []
        append = found.append

        def report(branch: int, start: int, end: int, flags: int, context: Any) -> None:
            append((branch, end))

        with self._scratch_lock:
            self._database.scan(data, match_event_handler=report)
        return found


@dataclass(frozen=True, slots=True)
class Lane:
    """All branches that read one view: the exact automaton, the prefilter, and the rule each branch belongs to."""

    folded: bool
    branches: tuple[Branch, ...]
    owners: tuple[int, ...]
    automaton: Automaton
    prefilter: Prefilter

    def regions(self, text: str) -> list[Region]:
        """Return the parts of a text outside of which no branch matches, in order and disjoint."""
        view = fold(text) if self.folded else text
        data = view.encode("utf-8")
        ends = self.prefilter.ends(data)
        if not ends:
            return []
        characters = _characters(data, [end for _, end in ends])
        sources = origins(text) if self.folded else None
        found = []
        for branch, end in ends:
            stop = characters[end]
            start = max(0, stop - self.branches[branch].longest)
            found.append((start, stop) if sources is None else (sources[start], sources[stop - 1] + 1))
        return _union(found)


@dataclass(frozen=True, slots=True)
class CompiledSide:
    """What is enforced on one side: span rules by lanes, the shortest length limit, and rules on the whole text."""

    rules: tuple[AnyRule, ...]
    lanes: tuple[Lane, ...]
    limit: tuple[int, int] | None
    """(rule number, code points)."""
    whole: tuple[JsonSchemaRule | FormatRule | LanguageRule, ...]
    guards: tuple[GuardrailsRule | PythonRule, ...]

    def regions(self, text: str) -> list[tuple[int, Region]]:
        """Return (lane, region) of every part of a text that can hold a match."""
        return [(number, region) for number, lane in enumerate(self.lanes) for region in lane.regions(text)]


@dataclass(frozen=True, slots=True)
class CompiledBundle:
    """A bundle ready to enforce. `folder` is where its own files lie, `digest` names it in decisions."""

    name: str
    digest: str
    folder: Path
    input: CompiledSide
    output: CompiledSide


def compile_side(rules: Iterable[AnyRule], side: str, cache: CompiledCache | None = None) -> CompiledSide:
    """Return the rules of one side, `input` or `output`, ready to enforce."""
    here = tuple(rule for rule in rules if rule.applies_to(side))
    limits = [(rule.characters, number) for number, rule in enumerate(here) if isinstance(rule, MaxLengthRule)]
    return CompiledSide(
        rules=here,
        lanes=tuple(lane for folded in (False, True) if (lane := _lane(here, folded, cache)) is not None),
        limit=(min(limits)[1], min(limits)[0]) if limits else None,
        whole=tuple(rule for rule in here if isinstance(rule, JsonSchemaRule | FormatRule | LanguageRule)),
        guards=tuple(rule for rule in here if isinstance(rule, GuardrailsRule | PythonRule)),
    )


def _lane(rules: Sequence[AnyRule], folded: bool, cache: CompiledCache | None) -> Lane | None:
    pairs = [
        (branch, number)
        for number, rule in enumerate(rules)
        if isinstance(rule, SpanRule) and rule.folded == folded
        for branch in rule.branches()
    ]
    if not pairs:
        return None
    branches = tuple(branch for branch, _ in pairs)
    return Lane(
        folded=folded,
        branches=branches,
        owners=tuple(number for _, number in pairs),
        automaton=Automaton(branches, folded=folded),
        prefilter=Prefilter(branches, cache),
    )


def expression(node: Node) -> str:
    """Return a node in the scanner's syntax: only groups, classes of code points and bounded repeats."""
    if isinstance(node, Chars):
        return "[" + "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in node.ranges) + "]"
    if isinstance(node, Series):
        return "".join(expression(item) for item in node.items)
    if isinstance(node, Choice):
        return "(?:" + "|".join(expression(option) for option in node.options) + ")"
    return f"(?:{expression(node.item)}){{{node.low},{node.high}}}"


def _is_wide(node: Node) -> bool:
    """Say whether a node can match anything but ASCII."""
    if isinstance(node, Chars):
        return node.ranges[-1][1] > 0x7F
    if isinstance(node, Series):
        return any(_is_wide(item) for item in node.items)
    if isinstance(node, Choice):
        return any(_is_wide(option) for option in node.options)
    return _is_wide(node.item)


def _characters(data: bytes, ends: list[int]) -> dict[int, int]:
    """Return byte offset -> character offset."""
    out, last, count = {}, 0, 0
    for end in sorted(set(ends)):
        count += len(data[last:end].decode("utf-8"))
        last, out[end] = end, count
    return out


def _union(regions: list[Region]) -> list[Region]:
    out: list[Region] = []
    for start, end in sorted(regions):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def _load(cache: CompiledCache | None, key: str) -> Any:
    """Return the database kept under a key, or None."""
    import hyperscan

    data = cache.load(key) if cache is not None else None
    if data is None:
        return None
    try:
        return hyperscan.loadb(data, mode=hyperscan.HS_MODE_BLOCK)
    except hyperscan.HyperscanError as error:
        logger.warning("compiled rules `%s` are not usable (%s): compiling again", key, error)
        return None


__all__ = ["CompiledBundle", "CompiledSide", "Lane", "Prefilter", "compile_side", "expression"]
