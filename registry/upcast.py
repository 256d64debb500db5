"""Bodies of older journal records, brought to today's shape as they are read; the journal itself is never rewritten.

Version 1 (release 0.1) had no `sig`. A kind whose body changes gets one function here for each version it changed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from registry.errors import HallmarkError

CURRENT = 2
"""The version of frames written today."""

Body = dict[str, Any]
Table = Mapping[tuple[str, int], Callable[[Body], Body]]

UPCASTERS: Table = {}
"""(kind, version) to the function that makes a body of the next version; a missing pair leaves the body as it is."""


def upcast(kind: str, version: int, body: Body, table: Table = UPCASTERS, current: int = CURRENT) -> Body:
    """Return a record's body as version `current` has it, through every version between.

    Raises HallmarkError for a version that this release does not know.
    """
    if not 1 <= version <= current:
        raise HallmarkError(
            f"a journal record has version {version}, this release reads 1 to {current}",
            hint="use the release that wrote it, or a newer one",
        )
    for step in range(version, current):
        change = table.get((kind, step))
        if change:
            body = change(body)
    return body
