"""Sources to datasets to trained model versions; every run can be resumed, reproduced and traced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.launch import TrainResult, train

__all__ = ["TrainResult", "train"]


def __getattr__(name: str) -> Any:
    """Import `train` on first use, so that `import training` stays light."""
    if name in __all__:
        from training import launch

        return getattr(launch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
