"""Decoded views: what runs of base64 and hex say, and a text with its percent escapes read, character by character.

A run is a longest stretch of characters of the coding's alphabet (for base64 both alphabets, so `+/-_`). What it says
is read at every alignment: the run without its first 0 to 3 (base64) or 0 to 1 (hex) characters. Bytes that are not
printable ASCII or white space belong to no match. Padding only ends a run. Each decoded character
comes from the original characters that carry a bit of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from policies.enforcement.closure import Accept, Automaton, Forward
from policies.enforcement.pattern import Branch, Chars, Choice, Node, Repeat, Series, lengths

BREAK = "\ud800"
"""What a byte that is not text decodes to: a surrogate, which no character class holds."""
SYMBOLS = [chr(code) if 32 <= code < 127 or 9 <= code <= 13 else BREAK for code in range(256)]
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_VALUES = {char: value for value, char in enumerate(_BASE64)} | {"-": 62, "_": 63}
_HEX = "0123456789abcdefABCDEF"
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})|([^%]+|%)")
_OPEN_ESCAPE = re.compile(r"%[0-9A-Fa-f]?\Z")
_MOST_REMEMBERED = 20_000

Entry = tuple[int, tuple[Accept, ...]]
"""(place in the strand's text, matches that end there)."""


class Strand:
    """A decoded text with its automaton's state. Places count from the strand's start; `text` begins at `shift`."""

    __slots__ = ("automaton", "before", "ended", "shift", "state", "text")

    def __init__(self, automaton: Automaton, before: str = "") -> None:
        self.automaton, self.before, self.text, self.shift, self.ended = automaton, before, "", 0, False
        self.state: Forward = automaton.enter(before)

    @property
    def size(self) -> int:
        """The place up to which it is decoded."""
        return self.shift + len(self.text)

    def feed(self, chars: str) -> list[Entry]:
        """Take in original characters; return where matches end."""
        raise NotImplementedError

    def source(self, place: int) -> int:
        """Return where the original characters of the decoded one at a place begin."""
        raise NotImplementedError

    def source_end(self, place: int) -> int:
        """Return where the original characters of the decoded one before a place end."""
        raise NotImplementedError

    def step(self, decoded: str) -> list[Entry]:
        """Run the automaton over decoded characters."""
        found, place, state = [], self.size, self.state
        for char in decoded:
            place += 1
            state = state[char]
            if state.accepts:
                found.append((place, state.accepts))
        self.state = state
        self.text += decoded
        return found

    def earliest(self) -> tuple[int | None, int]:
        """Return the original place of the earliest live partial match, or None, and the steps it took to find."""
        if not self.state.live:
            return None, 0
        text = self.text
        start, steps = self.automaton.leftmost(text, len(text), self.before, self.state.places)
        return (None if start is None else self.source(self.shift + start)), steps

    def forget(self, cut: int) -> None:
        """Forget decoded characters whose original ones begin before a place that was released."""
        size = len(self.text)
        if size > 512 and self.source(self.shift + size // 2) < cut:
            gone = size // 2
            self.before, self.text, self.shift = self.text[gone - 1], self.text[gone:], self.shift + gone


class Base64Strand(Strand):
    """A run of base64 at one alignment; `start` is the original place of its first character."""

    __slots__ = ("carry", "count", "start")

    def __init__(self, automaton: Automaton, start: int) -> None:
        super().__init__(automaton)
        self.start, self.carry, self.count = start, 0, 0

    def feed(self, chars: str) -> list[Entry]:
        """Take in characters of the alphabet."""
        out, carry, count = [], self.carry, self.count
        if count < 0:
            skipped = min(-count, len(chars))
            chars, count = chars[skipped:], count + skipped
        for char in chars:
            value, index = _VALUES[char], count & 3
            if index:
                out.append(SYMBOLS[(carry << 2 * index | value >> 6 - 2 * index) & 255])
            carry, count = value, count + 1
        self.carry, self.count = carry, count
        return self.step("".join(out))

    def source(self, place: int) -> int:
        """Return where the two original characters of a byte begin."""
        return self.start + place // 3 * 4 + place % 3

    def source_end(self, place: int) -> int:
        """Return where the original characters of the byte before a place end."""
        return self.source(place - 1) + 2


class HexStrand(Strand):
    """A run of hex digits at one alignment."""

    __slots__ = ("carry", "start")

    def __init__(self, automaton: Automaton, start: int) -> None:
        super().__init__(automaton)
        self.start, self.carry = start, ""

    def feed(self, chars: str) -> list[Entry]:
        """Take in hex digits."""
        digits = self.carry + chars
        whole = len(digits) & ~1
        self.carry = digits[whole:]
        return self.step("".join([SYMBOLS[byte] for byte in bytes.fromhex(digits[:whole])]))

    def source(self, place: int) -> int:
        """Return where a byte's two digits begin."""
        return self.start + 2 * place

    def source_end(self, place: int) -> int:
        """Return where the digits of the byte before a place end."""
        return self.start + 2 * place


class UrlStrand(Strand):
    """A text in which every `%XX` is read as the character that it stands for, and all else as it is."""

    __slots__ = ("ends", "literal", "place", "starts", "tail")

    def __init__(self, automaton: Automaton, start: int, before: str) -> None:
        super().__init__(automaton, before)
        self.place, self.tail, self.literal = start, "", True
        self.starts: list[int] = []
        self.ends: list[int] = []

    def feed(self, chars: str) -> list[Entry]:
        """Take in any characters; an escape that has only begun waits for the rest of it."""
        text = self.tail + chars
        begun = _OPEN_ESCAPE.search(text, max(0, len(text) - 2))
        self.tail = begun[0] if begun else ""
        return self._read(text[: begun.start()] if begun else text)

    def finish(self) -> list[Entry]:
        """Take what is left of an escape for what it is."""
        text, self.tail = self.tail, ""
        return self._read(text)

    def _read(self, text: str) -> list[Entry]:
        out, place = [], self.place
        for match in _ESCAPE.finditer(text):
            code, plain = match.groups()
            if code is not None:
                out.append(SYMBOLS[int(code, 16)])
                self.starts.append(place)
                place += 3
                self.ends.append(place)
            else:
                out.append(plain)
                self.starts += range(place, place + len(plain))
                place += len(plain)
                self.ends += range(place - len(plain) + 1, place + 1)
            self.literal = code is None
        self.place = place
        return self.step("".join(out))

    def source(self, place: int) -> int:
        """Return where the character at a place begins in the original."""
        return self.starts[place - self.shift]

    def source_end(self, place: int) -> int:
        """Return where the character before a place ends in the original."""
        return self.ends[place - self.shift - 1]

    def forget(self, cut: int) -> None:
        """Forget decoded characters that were released, with where they came from."""
        size, shift = len(self.text), self.shift
        super().forget(cut)
        gone = self.shift - shift
        if gone and size:
            del self.starts[:gone], self.ends[:gone]


class Runs:
    """What is known of the runs of one coding: alphabet, automaton, and how long a run with a match is at least."""

    def __init__(self, coding: str, automaton: Automaton) -> None:
        self.coding, self.automaton = coding, automaton
        self.alphabet = "".join(_VALUES) if coding == "base64" else _HEX
        self.alignments = 4 if coding == "base64" else 2
        shortest = min(lengths(branch.body)[0] for branch in automaton.branches)
        self.least = (8 * shortest + 5) // 6 if coding == "base64" else 2 * shortest
        klass = "[" + re.escape(self.alphabet) + "]"
        self.long_run = re.compile(f"{klass}{{{self.least},}}")
        self.stretch = re.compile(f"{klass}*")
        self._strand: Callable[[Automaton, int], Strand] = Base64Strand if coding == "base64" else HexStrand
        self._held: dict[str, int] = {"": 0}

    def strands(self, start: int, run: str) -> list[tuple[Strand, list[Entry]]]:
        """Return the strands of a run, one an alignment, with where matches end in them."""
        out = []
        for skipped in range(self.alignments):
            strand = self._strand(self.automaton, start + skipped)
            if isinstance(strand, Base64Strand):
                strand.count = min(0, len(run) - skipped)  # characters that are still to be skipped, as less than none
            out.append((strand, strand.feed(run[skipped:])))
        return out

    def held(self, run: str) -> int:
        """Return how many characters at the end of a run too short for a match a longer one may still make part of one.

        The last character always counts: its bits are not all read yet.
        """
        found = self._held.get(run)
        if found is None:
            starts = [strand.earliest()[0] for strand, _ in self.strands(0, run)]
            found = max([1, *(len(run) - start for start in starts if start is not None)])
            if len(self._held) < _MOST_REMEMBERED:
                self._held[run] = found
        return found


class RunReader:
    """The runs of all codings in one stream: short ones as text, long ones as strands.

    A run of one coding may lie inside of a run of another (hex in base64): each has its own `_Run`, but as long as what
    came in is too short for a match of any, one look at the end of the text serves all.
    """

    __slots__ = ("_open", "_short", "_tail", "_watch")

    def __init__(self, watch: RunWatch) -> None:
        self._watch, self._tail, self._short = watch, "", True
        self._open = [_Run(runs) for runs in watch.all]

    def take(self, delta: str, place: int) -> list[tuple[int, Strand, list[Entry]]]:
        """Take in more text, which begins at `place` of the original; return (coding's number, strand, its matches)."""
        watch = self._watch
        if self._short:
            known = self._tail + delta
            if len(known) < watch.least or watch.any_long.search(known) is None:
                self._tail = known[len(known.rstrip(watch.alphabet)) :]
                return []
            for run in self._open:
                run.begin(self._tail)
            self._short = False
        found = [
            (number, strand, entries)
            for number, run in enumerate(self._open)
            for strand, entries in run.take(delta, place)
        ]
        if not any(run.strands for run in self._open):
            self._short = True
            self._tail = max((run.tail for run in self._open), key=len)
        return found

    def held(self) -> int:
        """Return how many characters at the end may be part of a decoded match that begins with them."""
        if self._short:
            return self._watch.held(self._tail) if self._tail else 0
        return max(run.held() for run in self._open)

    def strands(self) -> list[Strand]:
        """Return the strands that go on."""
        return [] if self._short else [strand for run in self._open for strand in run.strands]

    def finish(self) -> None:
        """Take note that the text ends here."""
        for strand in self.strands():
            strand.ended = True


class RunWatch:
    """What the codings of one side have in common: the shortest run that any can match in, and what short ones hold."""

    def __init__(self, codings: Sequence[Runs]) -> None:
        self.all = tuple(codings)
        self.least = min(runs.least for runs in codings)
        self.alphabet = max((runs.alphabet for runs in codings), key=len)
        self.any_long = re.compile("|".join(f"(?:{runs.long_run.pattern})" for runs in codings))
        self._held: dict[str, int] = {"": 0}

    def held(self, tail: str) -> int:
        """Return how many characters at the end of a short run a longer one may still make part of a match."""
        found = self._held.get(tail)
        if found is None:
            found = max(runs.held(tail[len(tail.rstrip(runs.alphabet)) :]) for runs in self.all)
            if len(self._held) < _MOST_REMEMBERED:
                self._held[tail] = found
        return found


class _Run:
    """The run of one coding at the end of a stream: `tail` while it is short, `strands` once it is long."""

    __slots__ = ("_runs", "strands", "tail")

    def __init__(self, runs: Runs) -> None:
        self._runs, self.tail = runs, ""
        self.strands: list[Strand] = []

    def begin(self, tail: str) -> None:
        """Start from the end of a short run, of whatever coding."""
        self.tail = tail[len(tail.rstrip(self._runs.alphabet)) :]

    def held(self) -> int:
        """Return how many characters at the end may be part of a decoded match that begins with them."""
        return 1 if self.strands else self._runs.held(self.tail)

    def take(self, delta: str, place: int) -> list[tuple[Strand, list[Entry]]]:
        """Take in more text; return where matches end."""
        runs, out, at = self._runs, [], 0
        while at < len(delta) or self.tail:
            if self.strands:
                stop = runs.stretch.match(delta, at).end()  # type: ignore[union-attr]
                out += [(strand, strand.feed(delta[at:stop])) for strand in self.strands]
                at = stop
                if stop == len(delta):
                    break
                for strand in self.strands:
                    strand.ended = True
                self.strands = []
            known = self.tail + delta[at:]
            found = runs.long_run.search(known)
            if found is None:
                self.tail = known[len(known.rstrip(runs.alphabet)) :]
                break
            before = at - len(self.tail)
            opened = runs.strands(place + before + found.start(), found[0])
            out += opened
            self.strands, self.tail, at = [strand for strand, _ in opened], "", before + found.end()
        return out


def as_ascii(branch: Branch, *, lowers: bool) -> Branch:
    """Return a branch of a view as it reads ASCII text directly; `lowers`: the view ignores case."""
    return Branch(_ascii(branch.body, lowers), branch.left, branch.right, branch.longest)


def _ascii(node: Node, lowers: bool) -> Node:
    if isinstance(node, Chars):
        ranges = [(low, min(high, 0x7F)) for low, high in node.ranges if low <= 0x7F]
        if lowers:
            ranges = [(low, high) for low, high in _without_capitals(ranges)]
            ranges += [(max(low, 97) - 32, min(high, 122) - 32) for low, high in ranges if high >= 97 and low <= 122]
        return Chars(tuple(sorted(ranges)))
    if isinstance(node, Series):
        return Series(tuple(_ascii(item, lowers) for item in node.items))
    if isinstance(node, Choice):
        return Choice(tuple(_ascii(option, lowers) for option in node.options))
    return Repeat(_ascii(node.item, lowers), node.low, node.high)


def _without_capitals(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out = []
    for low, high in ranges:
        out += [(low, min(high, 64))] if low <= 64 else []
        out += [(max(low, 91), high)] if high >= 91 else []
    return out
