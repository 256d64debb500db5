"""Compiled bundles, and the fast look at a whole text: which parts of it can hold a match at all.

Hyperscan scans the text once for all rules and reports where matches of their bodies end; the exact automaton then
reads only those parts. A text without a candidate costs one scan and nothing more. Encoded runs are decoded and
scanned, all in one go, where there is one that is long enough.
"""

from __future__ import annotations

import binascii
import hashlib
import logging
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from policies.closure import Automaton
from policies.codings import Runs, RunWatch, as_ascii
from policies.compiled import CompiledCache
from policies.normalize import VIEWS
from policies.pattern import Branch, Chars, Choice, Node, Series
from policies.rules import (
    AnyRule,
    FormatRule,
    GuardrailsRule,
    JsonSchemaRule,
    LanguageRule,
    MaxLengthRule,
    PythonRule,
    RegexRule,
    SpanRule,
)
from registry.errors import SpecError

logger = logging.getLogger(__name__)

MOST_REPLACED = 48
"""Different characters that a view changes up to which a text is taken to it character by character of these."""
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
Region = tuple[int, int]
"""Half-open interval of code points of the original text."""


class Prefilter:
    """A Hyperscan database in block mode over the bodies of branches, without their word edges.

    `caseless` branches are those of views that ignore case: they match a text as well as its lower case. `marks` are
    more expressions, numbered after the branches.
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        cache: CompiledCache | None = None,
        *,
        caseless: Sequence[bool] = (),
        marks: Sequence[str] = (),
    ) -> None:
        """Compile, or load what was compiled before from `cache`.

        Raises:
            SpecError: a pattern is too large for the scanner.
        """
        import hyperscan

        lowers = list(caseless) or [False] * len(branches)
        sources = [*(expression(branch.body) for branch in branches), *marks]
        flags = [
            (hyperscan.HS_FLAG_UTF8 if _is_wide(branch.body) else 0) | (hyperscan.HS_FLAG_CASELESS if lower else 0)
            for branch, lower in zip(branches, lowers, strict=True)
        ]
        flags += [hyperscan.HS_FLAG_SINGLEMATCH if mark == _ESCAPE else hyperscan.HS_FLAG_DOTALL for mark in marks]
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
    """All branches that read one kind of text: the exact automaton, and what belongs to each of its branches."""

    automaton: Automaton
    owners: tuple[int, ...]
    """Number of the rule."""
    terms: tuple[int, ...]
    """Which of the rule's branches it is."""
    rights: tuple[bool, ...]
    runs: Runs | None = None
    """Of a lane that reads what encoded runs say."""


class Found(NamedTuple):
    """What of a whole text can hold a match: parts of it, runs (coded lane, start, run), whether its escapes can."""

    regions: list[Region]
    runs: list[tuple[int, int, str]]
    escaped: bool


class Scanner:
    """Looks over whole texts for everything that a side's lanes can match."""

    def __init__(self, lane: Lane, coded: Sequence[Lane], url: Lane | None, views: Sequence[str], cache: Any) -> None:
        self._lane, self._coded, self._url, self._views = lane, tuple(coded), url, tuple(views)
        branches = lane.automaton.branches
        self._count, self._longest = len(branches), [branch.longest for branch in branches]
        marks = [long_run(each.runs) for each in coded if each.runs is not None] + [_ESCAPE] * (url is not None)
        lowers = [VIEWS[view].lowers for view in views]
        self._prefilter = Prefilter(branches, cache, caseless=lowers, marks=marks)
        self._wide = [name for name in dict.fromkeys(views) if name != "exact"]
        self._rules = {id(other): set(other.owners) for other in (*coded, url) if other is not None}

    def look(self, text: str) -> Found | None:
        """Return what of a text can hold a match; None where nothing can."""
        data = (text + "\n").encode("utf-8")  # the line feed ends a run at the end of the text
        size, count = len(data) - 1, self._count
        plain = size == len(text)
        ends = self._prefilter.ends(data)
        if not ends and plain:
            return None
        marked = [end for end in ends if end[0] >= count]
        ends = [end for end in ends if end[0] < count and end[1] <= size]
        if plain:
            regions = [(max(0, end - self._longest[branch]), end) for branch, end in ends]
        else:
            regions = self._on_views(text, ends, data)
        runs: list[tuple[int, int, str]] = []
        escaped = False
        if marked:
            for number, lane in enumerate(self._coded):
                runs += self._decoded(number, lane, data, [end - 1 for mark, end in marked if mark == number + count])
            if self._url is not None and any(mark == count + len(self._coded) for mark, _ in marked):
                escaped = self._any(self._url, unescaped(data))
        if not regions and not runs and not escaped:
            return None
        return Found(_union(regions), runs, escaped)

    def _on_views(self, text: str, ends: list[tuple[int, int]], data: bytes) -> list[Region]:
        """Return the parts of a text with characters beyond ASCII that can hold a match; `ends` are those as it is.

        A view that changes none of these characters reads the text as it is, but for the case of ASCII letters.
        """
        regions = self._regions(text, "exact", ends, data) if ends else []
        foreign = set("".join(_FOREIGN.findall(text)))
        for view in self._wide:
            changed = [(char, seen) for char in foreign if (seen := VIEWS[view][ord(char)]) != char]
            if not changed:
                regions += self._regions(text, view, ends, data, text) if ends else []
                continue
            said = VIEWS[view].see(text) if len(changed) > MOST_REPLACED else _replaced(text, changed)
            bytes_said = said.encode("utf-8")
            found = self._prefilter.ends(bytes_said)
            regions += self._regions(text, view, found, bytes_said) if found else []
        return regions

    def _regions(
        self, text: str, view: str, ends: list[tuple[int, int]], data: bytes, same: str | None = None
    ) -> list[Region]:
        views = self._views
        ends = [end for end in ends if end[0] < self._count and views[end[0]] == view]
        if not ends:
            return []
        characters = _characters(data, [end for _, end in ends])
        sources = VIEWS[view].origins(text) if same is None else None
        found = []
        for branch, end in ends:
            stop = characters[end]
            start = max(0, stop - self._longest[branch])
            found.append((start, stop) if sources is None else (sources[start], sources[stop - 1] + 1))
        return found

    def _any(self, lane: Lane, data: bytes) -> bool:
        """Say whether a decoded text can hold a match of one of a lane's rules."""
        rules, owners = self._rules[id(lane)], self._lane.owners
        ends = self._prefilter.ends(data)
        if not data.isascii():
            text = data.decode("utf-8", "replace")
            for view in self._wide:
                ends = ends + self._prefilter.ends(VIEWS[view].see(text).encode("utf-8"))
        return any(branch < self._count and owners[branch] in rules for branch, _ in ends)

    def _decoded(self, number: int, lane: Lane, data: bytes, stops: list[int]) -> list[tuple[int, int, str]]:
        """Return the runs that a match may be in, out of those that stop at these bytes. One scan for all first.

        Each is (number of the lane, code point that it starts at, run).
        """
        if not stops or lane.runs is None:
            return []
        coding = lane.runs.coding
        view = data.translate(_TABLES[coding])
        found = [(view.rfind(b" ", 0, stop) + 1, stop) for stop in sorted(stops)]
        if not self._any(lane, _said([view[start:stop] for start, stop in found], coding)):
            return []
        found = [(start, stop) for start, stop in found if self._any(lane, _said([view[start:stop]], coding))]
        characters = _characters(data, [start for start, _ in found])
        return [(number, characters[start], data[start:stop].decode()) for start, stop in found]


@dataclass(frozen=True, slots=True)
class CompiledSide:
    """What is enforced on one side: span rules by lanes, length limits, and rules on the whole text."""

    rules: tuple[AnyRule, ...]
    lane: Lane | None
    """What reads the text itself, on every view."""
    coded: tuple[Lane, ...]
    url: Lane | None
    watch: RunWatch | None
    untils: Mapping[int, Automaton]
    """Rule number -> what ends the part that it drops."""
    scanner: Scanner | None
    limits: tuple[tuple[int, int], ...]
    """(rule number, code points), the shortest first."""
    whole: tuple[JsonSchemaRule | FormatRule | LanguageRule, ...]
    guards: tuple[GuardrailsRule | PythonRule, ...]
    all_active: tuple[bool, ...]

    def look(self, text: str) -> Found | None:
        """Return what of a text can hold a match of a span rule or of the length limit; None where nothing can."""
        found = self.scanner.look(text) if self.scanner is not None else None
        if found is None and self.limits and len(text) > self.limits[0][1]:
            return Found([], [], False)
        return found

    def limit(self, exempt: frozenset[str]) -> tuple[int, int] | None:
        """Return the shortest length limit that is not exempt: (rule number, code points)."""
        return next((limit for limit in self.limits if self.rules[limit[0]].id not in exempt), None)


@dataclass(frozen=True, slots=True)
class CompiledBundle:
    """A bundle ready to enforce. `folder` is where its own files lie, `digest` names it in decisions."""

    name: str
    digest: str
    folder: Path
    input: CompiledSide
    output: CompiledSide


def compile_side(
    rules: Iterable[AnyRule], side: str, cache: CompiledCache | None = None, like: CompiledSide | None = None
) -> CompiledSide:
    """Return the rules of one side, `input` or `output`, ready to enforce.

    What the side has in common with the side it is `like` is shared with it: compiled once and kept once.
    """
    here = tuple(rule for rule in rules if rule.applies_to(side))
    limits = [(rule.characters, number) for number, rule in enumerate(here) if isinstance(rule, MaxLengthRule)]
    compiled = CompiledSide(
        rules=here,
        lane=None,
        coded=(),
        url=None,
        watch=None,
        untils={},
        scanner=None,
        limits=tuple((number, characters) for characters, number in sorted(limits)),
        whole=tuple(rule for rule in here if isinstance(rule, JsonSchemaRule | FormatRule | LanguageRule)),
        guards=tuple(rule for rule in here if isinstance(rule, GuardrailsRule | PythonRule)),
        all_active=(True,) * len(here),
    )
    spans = [(number, rule) for number, rule in enumerate(here) if isinstance(rule, SpanRule)]
    if not spans:
        return compiled
    if like is not None and [rule for _, rule in spans] == [rule for rule in like.rules if isinstance(rule, SpanRule)]:
        return _sharing(compiled, like, [number for number, _ in spans])
    return _with_lanes(compiled, spans, cache)


def _sharing(side: CompiledSide, like: CompiledSide, numbers: Sequence[int]) -> CompiledSide:
    """Return a side with the lanes of another that has the same span rules, under this side's numbers."""
    theirs = [number for number, rule in enumerate(like.rules) if isinstance(rule, SpanRule)]
    known = dict(zip(theirs, numbers, strict=True))

    def mine(lane: Lane) -> Lane:
        return replace(lane, owners=tuple(known[number] for number in lane.owners))

    return replace(
        side,
        lane=mine(like.lane) if like.lane is not None else None,
        coded=tuple(mine(lane) for lane in like.coded),
        url=mine(like.url) if like.url is not None else None,
        watch=like.watch,
        untils={known[number]: automaton for number, automaton in like.untils.items()},
        scanner=like.scanner,
    )


def _with_lanes(side: CompiledSide, spans: Sequence[tuple[int, SpanRule]], cache: CompiledCache | None) -> CompiledSide:
    rows = [(branch, number, term, rule) for number, rule in spans for term, branch in enumerate(rule.branches())]
    views = [rule.view for *_, rule in rows]
    lane = _lane([row[:3] for row in rows], views)
    url_rows = [row for row in rows if "url" in row[3].decoded]
    url = _lane([row[:3] for row in url_rows], [rule.view for *_, rule in url_rows]) if url_rows else None
    coded: list[Lane] = []
    for coding in ("base64", "hex"):
        ascii_rows = [
            (as_ascii(branch, lowers=VIEWS[rule.view].lowers), number, term)
            for branch, number, term, rule in rows
            if coding in rule.decoded
        ]
        if ascii_rows:
            same = next(
                (other for other in coded if list(other.automaton.branches) == [r[0] for r in ascii_rows]), None
            )
            made = replace(same, runs=None) if same is not None else _lane(ascii_rows, ["exact"] * len(ascii_rows))
            coded.append(replace(made, runs=Runs(coding, made.automaton)))
    untils = {
        number: Automaton(rule.until_branches(), [rule.view] * len(rule.until_branches()))
        for number, rule in spans
        if isinstance(rule, RegexRule) and rule.until is not None
    }
    scanner = Scanner(lane, coded, url, views, cache)
    watch = RunWatch([each.runs for each in coded if each.runs is not None]) if coded else None
    return replace(side, lane=lane, coded=tuple(coded), url=url, watch=watch, untils=untils, scanner=scanner)


def _lane(rows: Sequence[tuple[Branch, int, int]], views: Sequence[str]) -> Lane:
    branches = tuple(branch for branch, _, _ in rows)
    return Lane(
        automaton=Automaton(branches, views),
        owners=tuple(number for _, number, _ in rows),
        terms=tuple(term for _, _, term in rows),
        rights=tuple(branch.right for branch in branches),
    )


_TEXT = bytes(code if 32 <= code < 127 or code in (9, 10, 13) else 0 for code in range(256))
"""What bytes that are not text become between decoded texts: a zero, which belongs to no match that counts."""


def _table(alphabet: bytes, *, url_safe: bool) -> bytes:
    table = bytearray(b" " * 256)
    for code in alphabet:
        table[code] = code
    if url_safe:
        table[ord("-")], table[ord("_")] = ord("+"), ord("/")
    return bytes(table)


_TABLES = {
    "base64": _table(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", url_safe=True),
    "hex": _table(b"0123456789abcdefABCDEF", url_safe=False),
}
"""To one alphabet, and everything else to spaces."""


def _replaced(text: str, changed: list[tuple[str, str]]) -> str:
    for char, seen in changed:
        text = text.replace(char, seen)
    return text


_ESCAPE = "%[0-9A-Fa-f]{2}"


def long_run(runs: Runs) -> str:
    """Return the expression that ends one character after every run that is long enough for a match."""
    alphabet = "".join(f"\\x{ord(char):02x}" for char in runs.alphabet)
    return f"[{alphabet}]{{{runs.least},}}[^{alphabet}]"


def _said(stretches: Iterable[bytes], coding: str) -> bytes:
    """Return what runs say at every alignment, with zeros between; a few bytes too many do no harm."""
    out = []
    for run in stretches:
        if coding == "base64":
            for skipped in range(4):
                part = run[skipped:]
                out.append(binascii.a2b_base64(part + b"A" * (-len(part) % 4)))
        else:
            out += [bytes.fromhex(run[skipped : len(run) - (len(run) - skipped) % 2].decode()) for skipped in range(2)]
    return b"\0".join(out).translate(_TEXT)


def unescaped(data: bytes) -> bytes:
    """Return a text with its percent escapes taken out; what is not text becomes a zero."""
    from urllib.parse import unquote_to_bytes

    out = unquote_to_bytes(data)
    return out if data.isascii() and out.isascii() else out.decode("utf-8", "replace").encode("utf-8")


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


__all__ = ["CompiledBundle", "CompiledSide", "Found", "Lane", "Prefilter", "Scanner", "compile_side", "expression"]
