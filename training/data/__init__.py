"""Sources to curated, content-addressed rows: extract, dedupe, hold out, decontaminate, write; then mix and pack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.data.dataset import build, load_split

__all__ = ["build", "load_split"]


def __getattr__(name: str) -> Any:
    """Import `build` and `load_split` on first use, so that `import training.data` stays light."""
    if name in __all__:
        from training.data import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
