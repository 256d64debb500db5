"""Docstring-to-signature pairs for supervised fine-tuning, read from rows of Python source."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable, Iterator

from training.data.python_text import parse

SHORTEST, LONGEST = 16, 400


def signature_pairs(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (first paragraph of a docstring, the signature it belongs to) of every documented function.

    A section that does not parse by itself (the middle of a long statement) gives none.
    """
    for text in texts:
        try:
            tree = parse(textwrap.dedent(text))
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                summary = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                if SHORTEST <= len(summary) <= LONGEST:
                    yield summary, _signature(node)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{word} {node.name}({ast.unparse(node.args)}){returns}:"
