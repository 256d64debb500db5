"""Tables of named implementations, imported on first use; third parties add to them by entry point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from registry.errors import UnknownName


class Plugins(Mapping[str, str]):
    """Maps a name to `"module:attribute"`. `group` is the entry-point group read for more, e.g. `hallmark.trainer`."""

    def __init__(self, what: str, group: str, builtin: Mapping[str, str]) -> None:
        self.what, self.group, self._builtin = what, group, dict(builtin)

    @cached_property
    def _table(self) -> dict[str, str]:
        found = {point.name: point.value for point in entry_points(group=self.group)}
        return {**found, **self._builtin}

    def __getitem__(self, name: str) -> str:
        """Return `"module:attribute"` of a name; raises UnknownName with the nearest ones."""
        try:
            return self._table[name]
        except KeyError:
            raise UnknownName(self.what, name, self._table) from None

    def __contains__(self, name: object) -> bool:
        """Say whether a name is in the table."""
        return name in self._table

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._table)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._table)

    def load(self, name: str) -> Any:
        """Import and return the implementation of a name."""
        module, _, attribute = self[name].partition(":")
        return getattr(import_module(module), attribute)
