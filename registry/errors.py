"""Every error Hallmark raises on purpose, drawn by what the user can do about it.

HallmarkError                something the caller can act on; carries `hint` and an exit code
|-- SpecError        (2)     a YAML file or argument is wrong: file, line, field
|-- NotFound         (2)     an id, name or file that is not there
|   `-- UnknownName  (2)     a name outside a closed set: did you mean ...?
|-- MissingExtra     (2)     an optional package is not installed: the pip line
|-- Locked           (2)     another process holds the workspace, the port or the segment
|-- EngineFailure    (2)     an inference engine, harness or trainer child did not do its work
|-- Tampered         (1)     bytes differ from what was recorded: which ones
|-- Refused          (1)     a rule says no: which rule
`-- NotYet           (3)     a rule says not yet: what is still needed
    `-- BudgetSpent  (3)     a run used what it may cost; what it measured is kept
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HallmarkError(Exception):
    """Base of the tree. `message` is one lower-case line, `hint` the cure, `exit_code` what a command ends with."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SpecError(HallmarkError):
    """A spec or argument is wrong; says in which file, on which line and in which field."""

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        field: str | None = None,
        hint: str | None = None,
    ) -> None:
        place = ":".join(str(part) for part in (file, line) if part is not None)
        where = f"{place}: " if place else ""
        what = f"`{field}`: " if field else ""
        super().__init__(f"{where}{what}{message}", hint=hint)
        self.file, self.line, self.field = file, line, field


class NotFound(HallmarkError):
    """An id, a name or a file that is not there."""


class UnknownName(NotFound):
    """A name outside a closed set; the hint offers the nearest ones."""

    def __init__(self, what: str, name: str, known: Iterable[str], *, hint: str | None = None) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        cure = (
            f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else f"known: {', '.join(names) or 'none'}"
        )
        super().__init__(f"unknown {what} `{name}`", hint=hint or cure)
        self.name = name


class MissingExtra(HallmarkError):
    """An optional package is not installed; the hint is the line that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"`{package}` is not installed", hint=f"pip install 'hallmark-platform[{extra}]'")


class Locked(HallmarkError):
    """Another process holds what this one needs."""


class EngineFailure(HallmarkError):
    """An engine, harness or trainer child stopped or answered nonsense."""


class Tampered(HallmarkError):
    """Bytes differ from what was recorded."""

    exit_code = 1


class Refused(HallmarkError):
    """A rule says no."""

    exit_code = 1


class NotYet(HallmarkError):
    """A rule says not yet."""

    exit_code = 3


class BudgetSpent(NotYet):
    """A run has used what it may cost; everything measured so far is kept."""
