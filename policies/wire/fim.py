"""Fill-in-the-middle: which tokens a tokenizer has for it, and the prompt that they make of a prefix and a suffix."""

from __future__ import annotations

import json
from pathlib import Path

FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),  # DeepSeek
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),  # Code Llama
    ("[PREFIX]", "[SUFFIX]", ""),  # Mistral, Codestral: suffix first, no mark for the middle
)
"""(prefix, suffix, middle token) of the families that mark them, most common first."""


def tokens_of(folder: Path) -> tuple[str, str, str] | None:
    """Return the prefix, suffix and middle token of a model folder, from `tokenizer.json`; None where it has none.

    An empty middle token means that the suffix comes first and the prefix last, as Mistral's models are trained.
    """
    try:
        added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")).get("added_tokens", [])
        known = {token["content"] for token in added}
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return None
    return next((family for family in FAMILIES if known.issuperset(token for token in family if token)), None)


def prompt(tokens: tuple[str, str, str], before: str, after: str) -> str:
    """Return the prompt after which the model writes what belongs between two texts."""
    prefix, suffix, middle = tokens
    if middle:
        return f"{prefix}{before}{suffix}{after}{middle}"
    return f"{suffix}{after}{prefix}{before}"
