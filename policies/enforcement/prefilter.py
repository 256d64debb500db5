"""The scanner in front of the automata: where the body of any pattern ends in a text, found by Hyperscan in one go."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from policies.enforcement.compiled import CompiledCache
from policies.enforcement.pattern import Branch, Chars, Choice, Node, Series, spelled
from registry.errors import SpecError

logger = logging.getLogger(__name__)

ESCAPE = "%[0-9A-Fa-f]{2}"
"""The mark of a percent escape: reported once a text."""


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
        flags += [hyperscan.HS_FLAG_SINGLEMATCH if mark == ESCAPE else hyperscan.HS_FLAG_DOTALL for mark in marks]
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


def expression(node: Node) -> str:
    """Return a node in the scanner's syntax: only groups, classes of code points and bounded repeats."""
    return spelled(node, _class)


def _class(chars: Chars) -> str:
    return "[" + "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in chars.ranges) + "]"


def _is_wide(node: Node) -> bool:
    """Say whether a node can match anything but ASCII."""
    if isinstance(node, Chars):
        return node.ranges[-1][1] > 0x7F
    if isinstance(node, Series):
        return any(_is_wide(item) for item in node.items)
    if isinstance(node, Choice):
        return any(_is_wide(option) for option in node.options)
    return _is_wide(node.item)


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
