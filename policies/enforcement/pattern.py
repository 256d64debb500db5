r"""The bounded pattern language: the part of Python's regular expressions for which streaming enforcement is exact.

Allowed: literals, classes, `.`, groups, alternatives, `?`, `{m}`, `{m,n}`, and `\b` at the outer ends of the pattern or
of a top-level alternative. Refused, by name: unbounded repeats, look-around, back-references, anchors, inline flags.
`\d`, `\w`, `\s` mean ASCII; `\b` is an edge between a letter, digit or underscore of any script and anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from policies.enforcement.normalize import VIEWS, View, has_word_edges

LONGEST_MATCH = 4096
"""Code points a match may have at most."""
LARGEST_REPEAT = 2048
_TOP = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_SPACE = ((9, 13), (32, 32))
_CATEGORIES = {
    "CATEGORY_DIGIT": ((48, 57),),
    "CATEGORY_WORD": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "CATEGORY_SPACE": _SPACE,
}

Ranges = tuple[tuple[int, int], ...]


class PatternError(ValueError):
    """A pattern is outside the language; the message says which part and what to write instead."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of sorted, disjoint ranges of code points."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Series:
    """One item after another."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """An item, `low` to `high` times."""

    item: Node
    low: int
    high: int


Node = Chars | Series | Choice | Repeat


@dataclass(frozen=True, slots=True)
class Branch:
    """One alternative of a rule; `left` and `right` ask for a word edge there. Lengths count characters of its view."""

    body: Node
    left: bool
    right: bool
    longest: int


def parse(pattern: str, *, view: str = "exact") -> tuple[Branch, ...]:
    """Return the branches of a pattern as it reads on a view.

    Raises:
        PatternError: the pattern is outside the language, may match nothing, or may match too much.
    """
    try:
        tree = import_module("re._parser").parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"not a regular expression: {error}") from None
    if tree.state.flags != re.UNICODE:
        raise PatternError(_REFUSALS["SUBPATTERN"])
    return tuple(_branches(list(tree), VIEWS[view], left=False, right=False))


def literal(text: str, *, view: str, whole_words: bool) -> Branch:
    """Return the branch of a word or phrase; white space in it stands for one to eight white-space characters.

    Raises:
        PatternError: nothing is left of it on its view.
    """
    words = VIEWS[view].see(text).split()
    if not words:
        raise PatternError(f"the term {text!r} is empty on its view")
    gap = Repeat(Chars(_SPACE), 1, 8)
    items: list[Node] = []
    for number, word in enumerate(words):
        items += [gap] if number else []
        items += [Chars(((ord(char), ord(char)),)) for char in word]
    edges = whole_words and has_word_edges(words[0][0]), whole_words and has_word_edges(words[-1][-1])
    return _branch(Series(tuple(items)), *edges)


def spelled(node: Node, chars: Callable[[Chars], str]) -> str:
    """Return a node in the syntax that all engines share; `chars` spells a class of characters for one of them."""
    if isinstance(node, Chars):
        return chars(node)
    if isinstance(node, Series):
        return "".join(spelled(item, chars) for item in node.items)
    if isinstance(node, Choice):
        return "(?:" + "|".join(spelled(option, chars) for option in node.options) + ")"
    item = spelled(node.item, chars)
    times = f"{node.low}" if node.low == node.high else f"{node.low},{node.high}"
    return f"{item}{{{times}}}" if isinstance(node.item, Chars) else f"(?:{item}){{{times}}}"


def _branches(items: list[tuple[Any, Any]], view: View, *, left: bool, right: bool) -> Iterable[Branch]:
    if items and _is_edge(items[0]):
        left, items = True, items[1:]
    if items and _is_edge(items[-1]):
        right, items = True, items[:-1]
    options = [list(option) for option in items[-1][1][1]] if items and str(items[-1][0]) == "BRANCH" else []
    if options and (len(items) == 1 or any(option and _is_edge(option[-1]) for option in options)):
        for option in options:  # Python's parser takes common prefixes of alternatives out of them: put them back
            yield from _branches([*items[:-1], *option], view, left=left, right=right)
    elif len(items) == 1 and str(items[0][0]) == "SUBPATTERN" and not any(items[0][1][1:3]):
        yield from _branches(list(items[0][1][3]), view, left=left, right=right)
    else:
        yield _branch(_node(items, view), left, right)


def _is_edge(item: tuple[Any, Any]) -> bool:
    return str(item[0]) == "AT" and str(item[1]) == "AT_BOUNDARY"


def _branch(body: Node, left: bool, right: bool) -> Branch:
    shortest, longest = lengths(body)
    if shortest == 0:
        raise PatternError("an alternative may match nothing: make at least one part of it required")
    if longest > LONGEST_MATCH:
        raise PatternError(f"a match may be {longest} characters long, {LONGEST_MATCH} is the most: lower the repeats")
    return Branch(body, left, right, longest)


def lengths(node: Node) -> tuple[int, int]:
    """Return the shortest and longest match of a node, in characters of its view."""
    if isinstance(node, Chars):
        return 1, 1
    if isinstance(node, Repeat):
        low, high = lengths(node.item)
        return low * node.low, high * node.high
    if isinstance(node, Series):
        sizes = [lengths(item) for item in node.items]
        return sum(low for low, _ in sizes), sum(high for _, high in sizes)
    sizes = [lengths(option) for option in node.options]
    return min(low for low, _ in sizes), max(high for _, high in sizes)


def _node(items: Sequence[tuple[Any, Any]], view: View) -> Node:
    nodes = [_item(str(name), value, view) for name, value in items]
    return nodes[0] if len(nodes) == 1 else Series(tuple(nodes))


def _item(name: str, value: Any, view: View) -> Node:
    if name == "LITERAL":
        return _text(view[value])
    if name == "NOT_LITERAL":
        return _complement(_seen(((value, value),), view)[0])
    if name == "ANY":
        return _complement(((10, 10),))
    if name == "IN":
        return _class(value, view)
    if name == "SUBPATTERN" and not any(value[1:3]):
        return _node(list(value[3]), view)
    if name == "BRANCH":
        return Choice(tuple(_node(list(option), view) for option in value[1]))
    if name in {"MAX_REPEAT", "MIN_REPEAT"}:
        return _repeat(value, view)
    raise PatternError(_REFUSALS.get(name, f"{name.lower().replace('_', ' ')} is not in the language"))


_REFUSALS = {
    "AT": "anchors are not in the language; `\\b` may stand only at the outer ends of the pattern or an alternative",
    "ASSERT": "look-around is not in the language",
    "ASSERT_NOT": "look-around is not in the language",
    "GROUPREF": "back-references are not in the language",
    "SUBPATTERN": "inline flags are not in the language: set `view: folded` to ignore case",
}


def _repeat(value: tuple[Any, Any, Any], view: View) -> Repeat:
    low, high, item = value
    if "MAXREPEAT" in str(high) or int(high) > LARGEST_REPEAT:
        raise PatternError(
            f"unbounded repeat: write `{{m,n}}` with n of at most {LARGEST_REPEAT} instead of `*`, `+`, `{{m,}}`"
        )
    if int(high) == 0:
        raise PatternError("a repeat of zero times matches nothing")
    return Repeat(_node(list(item), view), int(low), int(high))


def _text(text: str) -> Node:
    if not text:
        raise PatternError("a character of the pattern is invisible on its view")
    nodes = tuple(Chars(((ord(char), ord(char)),)) for char in text)
    return nodes[0] if len(nodes) == 1 else Series(nodes)


def _class(items: Sequence[tuple[Any, Any]], view: View) -> Node:
    negated, ranges = False, []
    for name, value in ((str(name), value) for name, value in items):
        if name == "NEGATE":
            negated = True
        elif name == "LITERAL":
            ranges.append((value, value))
        elif name == "RANGE":
            ranges.append(value)
        else:
            category = str(value)
            positive = _CATEGORIES[category.replace("_NOT", "")]
            ranges += _complement(positive).ranges if "_NOT" in category else positive
    merged = _merge(ranges)
    single, longer = _seen(merged, view)
    if negated:
        return _complement(single)
    options = ([Chars(single)] if single else []) + [_text(text) for text in longer]
    if not options:
        raise PatternError("a class of the pattern is invisible on its view")
    return options[0] if len(options) == 1 else Choice(tuple(options))


def _seen(ranges: Ranges, view: View) -> tuple[Ranges, list[str]]:
    """Return what ranges are on a view: single characters as ranges, and longer texts."""
    if view.name == "exact":
        return ranges, []
    single: list[tuple[int, int]] = []
    longer: set[str] = set()
    for low, high in ranges:
        for code in range(low, min(high, 0x2FFFF) + 1):
            seen = view[code]
            if len(seen) == 1:
                single.append((ord(seen), ord(seen)))
            elif seen:
                longer.add(seen)
    return _merge(single), sorted(longer)


def _merge(ranges: Iterable[tuple[int, int]]) -> Ranges:
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(high, out[-1][1]))
        else:
            out.append((low, high))
    return tuple(out)


def _complement(ranges: Ranges) -> Chars:
    """Return every code point outside of ranges; surrogates are no characters and in neither."""
    out, next_low = [], 0
    for low, high in _merge([*ranges, _SURROGATES]):
        if low > next_low:
            out.append((next_low, low - 1))
        next_low = high + 1
    if next_low <= _TOP:
        out.append((next_low, _TOP))
    if not out:
        raise PatternError("a class of the pattern excludes every character")
    return Chars(tuple(out))
