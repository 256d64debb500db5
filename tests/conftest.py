"""For every test: Hypothesis without a stopwatch, as shared machines are slow at times; and what runs side by side."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

END_TO_END = "tests/e2e/"


class Rooms(LoadFileScheduling):  # type: ignore[misc]
    """A file's tests run in one process, and so do all end-to-end tests: they share one finished quickstart."""

    def _split_scope(self, nodeid: str) -> str:
        return END_TO_END if nodeid.startswith(END_TO_END) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Rooms:
    """Return who says which process runs what, in the order of collection."""
    config.option.loadscopereorder = False
    return Rooms(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first, so that no process waits for it in the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(END_TO_END))
