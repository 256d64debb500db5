"""The fast look at a whole text: which parts of it can hold a match at all, as they are and decoded.

Hyperscan scans the text once for all rules and reports where matches of their bodies end; the exact automaton then
reads only those parts. A text without a candidate costs one scan and nothing more. Encoded runs are decoded and
scanned, all in one go, where there is one that is long enough.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from policies.enforcement.closure import Automaton
from policies.enforcement.codings import Runs
from policies.enforcement.compiled import CompiledCache
from policies.enforcement.normalize import VIEWS
from policies.enforcement.prefilter import ESCAPE, Prefilter

MOST_REPLACED = 48
"""Different characters that a view changes up to which a text is taken to it character by character of these."""
_FOREIGN = re.compile(r"[^\x00-\x7f]+")

NOBODY = -1
"""The owner of a branch whose matches do not count on a lane."""
Region = tuple[int, int]
"""Half-open interval of code points of the original text."""


@dataclass(frozen=True, slots=True)
class Lane:
    """All branches that read one kind of text: the exact automaton, and what belongs to each of its branches."""

    automaton: Automaton
    owners: tuple[int, ...]
    """Number of the rule, or `NOBODY`."""
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

    def __init__(
        self, lane: Lane, coded: Sequence[Lane], url: Lane | None, views: Sequence[str], cache: CompiledCache | None
    ) -> None:
        self._lane, self._coded, self._url, self._views = lane, tuple(coded), url, tuple(views)
        branches = lane.automaton.branches
        self._count, self._longest = len(branches), [branch.longest for branch in branches]
        marks = [long_run(each.runs) for each in coded if each.runs is not None] + [ESCAPE] * (url is not None)
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


_TEXT = bytes(code if 32 <= code < 127 or 9 <= code <= 13 else 0 for code in range(256))
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
