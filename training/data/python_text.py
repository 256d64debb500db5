"""Python source as text: sections cut between statements, and the docstrings of everything that has one."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def decode(data: bytes) -> str:
    """Return source text, honouring its coding cookie and newline style.

    Raises:
        SyntaxError: the cookie names no codec.
        UnicodeDecodeError: the bytes are not in that codec.
    """
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return io.TextIOWrapper(io.BytesIO(data), encoding).read()


def parse(text: str) -> ast.Module:
    """Return the syntax tree; raises SyntaxError, ValueError (NUL byte) or RecursionError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code are theirs
        return ast.parse(text)


def sections(text: str, tree: ast.Module, limit: int) -> list[str]:
    """Cut source into sections of at most about `limit` bytes, between statements wherever possible.

    Cuts lie before a top-level statement (with its comments and decorators), before a member of a class that is itself
    too long, and between lines only inside a longer statement. Joined, the sections are the text again.
    """
    parts = text.split("\n")  # str.splitlines also cuts at form feeds and the like, where Python counts no line
    lines = [line + "\n" for line in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
    sizes = [len(line.encode("utf-8", "surrogatepass")) for line in lines]
    cuts = _cuts(tree.body, 0, len(lines), sizes, limit) or [0]
    out: list[str] = []
    start = 0
    for here, following in zip(cuts, [*cuts[1:], len(lines)], strict=True):
        if here > start and sum(sizes[start:following]) > limit:
            out.append("".join(lines[start:here]))
            start = here
    out.append("".join(lines[start:]))
    return [section for section in out if section]


def _cuts(body: list[ast.stmt], start: int, stop: int, sizes: list[int], limit: int) -> list[int]:
    """Return 0-based line numbers in [start, stop) before which the text may be cut, rising."""
    cuts: list[int] = []
    begin = start
    for index, node in enumerate(body):
        end = stop if index == len(body) - 1 else max(node.end_lineno or begin, begin)
        if end <= begin:
            continue  # shares its line with the statement before it
        cuts.append(begin)
        if sum(sizes[begin:end]) > limit:
            if isinstance(node, ast.ClassDef) and len(node.body) > 1:
                first = max(node.body[0].end_lineno or begin, begin)
                cuts += range(begin + 1, first) if sum(sizes[begin:first]) > limit else ()
                cuts += [cut for cut in _cuts(node.body[1:], first, end, sizes, limit) if cut > begin]
            else:
                cuts += range(begin + 1, end)
        begin = end
    return cuts


def docstrings(tree: ast.Module) -> list[str]:
    """Return the docstrings of module, classes and functions, in source order, indentation cleaned."""
    found = [(0, ast.get_docstring(tree))]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((node.lineno, ast.get_docstring(node)))
    return [text + "\n" for _, text in sorted(found, key=lambda pair: pair[0]) if text]


def topics(tree: ast.Module) -> list[str]:
    """Return the long string values of the dictionaries in a module, as `pydoc_data/topics.py` keeps its manual."""
    out = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            out += [v.value for v in node.values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
    return [text for text in out if len(text) >= 200]


def paragraphs(text: str, limit: int) -> list[str]:
    """Cut prose into pieces of at most about `limit` bytes, between paragraphs where possible, else between lines."""
    out: list[str] = []
    current, size = "", 0
    for block in _blocks(text, limit):
        length = len(block.encode("utf-8", "surrogatepass"))
        if current and size + length > limit:
            out.append(current)
            current, size = "", 0
        current += block
        size += length
    return [*out, current] if current else out


def _blocks(text: str, limit: int) -> list[str]:
    """Return paragraphs with the blank lines after them; one longer than `limit` comes line by line."""
    blocks, current = [], ""
    for line in text.splitlines(keepends=True):
        if current.endswith("\n\n") and line.strip():
            blocks.append(current)
            current = ""
        current += line if line.strip() else "\n"
    blocks += [current] if current else []
    return [part for b in blocks for part in (b.splitlines(keepends=True) if len(b) > limit else [b])]
