"""In which language and script a text is written, as far as its letters and function words tell.

Limits: eight languages of Latin script are told apart, by function words, so a part with fewer than two of them, code
and tables have no language; a few foreign sentences in a part that is mostly of another language are not seen. A script
is told for other writing systems, not a language.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Literal

from registry.traits import describe

Language = Literal["en", "de", "fr", "es", "it", "pt", "nl", "pl"]
"""The languages that are told apart (registry.traits)."""
Script = Literal[
    "latin", "greek", "cyrillic", "armenian", "hebrew", "arabic", "devanagari", "indic", "thai", "georgian", "hangul",
    "kana", "han",
]  # fmt: skip
PART = 2_000
"""Code points that are judged together: a long text cannot hide another language behind its beginning."""


def speaks(text: str, languages: Set[str], scripts: Set[str], *, unknown: bool) -> bool:
    """Say whether each part of a text is in allowed languages and scripts.

    Args:
        text: the whole text.
        languages: names out of `Language`.
        scripts: names out of `Script`; a part whose letters are mostly of another one fails.
        unknown: what to say of a part of Latin script in which no language prevails.
    """
    return all(_speaks(text[place : place + PART], languages, scripts, unknown) for place in range(0, len(text), PART))


def _speaks(part: str, languages: Set[str], scripts: Set[str], unknown: bool) -> bool:
    traits = describe(part)
    script, language = traits.get("script", ""), traits.get("language", "")
    if not script:
        return unknown
    if script not in scripts:
        return False
    if script != "latin":
        return True
    return language in languages if language else unknown
