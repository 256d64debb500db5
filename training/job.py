"""One piece of work for a training child: everything it reads, where it writes, and what it hands back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.recipe import Recipe

Report = Callable[[str, float, float | None, str], None]


@dataclass(frozen=True, slots=True)
class Input:
    """One split with its share of the sequences; `path` is a verified Parquet file."""

    name: str
    path: Path
    share: float


@dataclass(frozen=True, slots=True)
class Job:
    """A recipe with its inputs as files. `folder` holds checkpoints, the finished model and the result.

    `vocabulary` lists the Parquet files that a new tokenizer learns from.
    """

    recipe: Recipe
    inputs: tuple[Input, ...]
    base: Path | None
    vocabulary: tuple[Path, ...]
    folder: Path

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        """Where the finished Hugging Face folder appears, whole."""
        return self.folder / "model"

    @property
    def result(self) -> Path:
        """The file written last; with it the job is done."""
        return self.folder / "result.json"

    def write(self, path: Path) -> None:
        """Write the job for the child."""
        body = {
            "recipe": self.recipe.model_dump(mode="json"),
            "inputs": [{**asdict(item), "path": str(item.path)} for item in self.inputs],
            "base": str(self.base) if self.base else None,
            "vocabulary": [str(file) for file in self.vocabulary],
            "folder": str(self.folder),
        }
        path.write_text(json.dumps(body, indent=1))

    @classmethod
    def read(cls, path: Path) -> Job:
        """Return the job in a file."""
        body = json.loads(path.read_text())
        return cls(
            Recipe.model_validate(body["recipe"]),
            tuple(Input(item["name"], Path(item["path"]), item["share"]) for item in body["inputs"]),
            Path(body["base"]) if body["base"] else None,
            tuple(Path(file) for file in body["vocabulary"]),
            Path(body["folder"]),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished job hands back, beside the model folder."""

    state_digest: str
    steps: int
    tokens: int
    metrics: dict[str, float]
    environment: dict[str, Any]
    architecture: str
    parameters: int


def read_texts(path: Path) -> list[str]:
    """Return the texts of a split's Parquet file, in order."""
    import pyarrow.parquet as pq

    return [str(text) for text in pq.read_table(path, columns=["text"])["text"].to_pylist()]
