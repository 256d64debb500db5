"""Damaged extraction, on purpose and recorded: text as a reader hands it over that lost the layout of its pages."""

from __future__ import annotations

from itertools import zip_longest

from training.data.spec import Corruption


def corrupt(text: str, how: Corruption) -> str:
    """Return the text with its lines read in the wrong order; no character is invented, blank padding apart."""
    return interleave(text, how.lines) if how.mode == "interleave" else columns(text, how.lines)


def interleave(text: str, group: int) -> str:
    """Read each group of neighbouring lines column by column: characters of the lines alternate.

    Every group becomes one line with exactly the group's characters.
    """
    lines = text.splitlines()
    out = []
    for start in range(0, len(lines), group):
        out.append("".join("".join(cut) for cut in zip_longest(*lines[start : start + group], fillvalue="")))
    return "\n".join(out) + "\n"


def columns(text: str, page: int) -> str:
    """Read straight across the two columns of each page of `page` lines: line 1, line n/2+1, line 2, and so on."""
    lines = text.splitlines()
    out = []
    for start in range(0, len(lines), page):
        sheet = lines[start : start + page]
        half = (len(sheet) + 1) // 2
        out += [f"{left} {right}" for left, right in zip_longest(sheet[:half], sheet[half:], fillvalue="")]
    return "\n".join(out) + "\n"
