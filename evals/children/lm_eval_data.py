"""Where an lm-eval task's data comes from: files beside its YAML, or a local stand-in for the dataset it names."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import datasets

from registry.errors import SpecError

LOADERS = {"json", "csv", "parquet", "text", "arrow"}
"""Formats that `dataset_path` may name; their `data_files` are relative to the YAML."""
_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "text"}
_PART = re.compile(r"-\d{5}-of-\d{5}$")


class Splits(dict[str, Any]):
    """Splits by name; one that is not there is an error that lists those that are.

    `spare` names splits that lm-eval looks at but takes nothing from, as the task draws no few-shot examples: where
    they are not there, they are empty.
    """

    spare: frozenset[str] = frozenset()

    def __missing__(self, name: str) -> Any:
        """Raise SpecError."""
        if name in self.spare and self:
            return next(iter(self.values())).select([])
        known = ", ".join(f"`{each}`" for each in self) or "none"
        raise SpecError(f"the data has no split `{name}`", field="data", hint=f"a file is a split; there are: {known}")


class LocalData:
    """Loads tasks' data without a network.

    Args:
        stand_in: a file or folder that stands for the dataset which a task names. In a folder each file is a split
            (`test.jsonl`, `train.parquet`, `validation-00000-of-00002.parquet`); tasks of several datasets or subsets
            have folders named by the dataset's last part, the subset (`dataset_name`), or one in the other. A single
            file is the split that the task evaluates.
    """

    def __init__(self, stand_in: Path | None) -> None:
        self._stand_in = stand_in

    def take_over(self, task_class: Any) -> None:
        """Make tasks of a class load their data through this."""
        data = self

        def download(self: Any, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
            self.dataset = data.load(self, dict(dataset_kwargs or {}))

        task_class.download = download

    def load(self, task: Any, options: dict[str, Any]) -> Any:
        """Return a task's splits.

        Raises:
            SpecError: the dataset is not on this machine.
        """
        config, path = task.config, task.DATASET_PATH
        options.pop("trust_remote_code", None)
        if callable(config.custom_dataset):
            return config.custom_dataset(**(config.metadata or {}), **options)
        if self._stand_in is not None:
            return self._stand_in_of(task, options)
        if "://" in repr(options.get("data_files", "")):
            raise SpecError(f"`{config.task}` reads data from the network", field="task", hint="keep the files beside")
        if path in LOADERS or (path and Path(path).is_dir()):
            return datasets.load_dataset(path=path, name=task.DATASET_NAME, **options)
        raise SpecError(
            f"`{config.task}` needs the dataset `{path}` of a hub, and evaluations run offline", field="data",
            hint="fetch it once, and let `data:` name a folder with a file a split, such as `test.jsonl`",
        )  # fmt: skip

    def _stand_in_of(self, task: Any, options: dict[str, Any]) -> Any:
        assert self._stand_in is not None  # noqa: S101 - asked above
        if not self._stand_in.exists():
            raise SpecError(f"no data at `{self._stand_in.name}`", field="data", hint="relative to the suite file")
        config = task.config
        evaluated = config.test_split or config.validation_split or config.training_split or "test"
        single = self._stand_in.is_file()
        files = {evaluated: [self._stand_in]} if single else _split_files(self._folder(task))
        if not files:
            raise SpecError(f"`{self._stand_in.name}` holds no data", field="data", hint="a file a split: `test.jsonl`")
        splits = Splits({name: _read(name, paths, options) for name, paths in files.items()})
        if not config.num_fewshot:
            others = {config.training_split, config.validation_split, config.fewshot_split}
            splits.spare = frozenset(name for name in others if name and name != evaluated)
        return splits

    def _folder(self, task: Any) -> Path:
        """Return the most special folder that is there: by dataset and subset, dataset, subset, or the whole."""
        assert self._stand_in is not None  # noqa: S101 - asked above
        dataset, subset = str(task.DATASET_PATH or "").rsplit("/", 1)[-1], str(task.DATASET_NAME or "")
        wanted = [(dataset, subset), (dataset,), (subset,)]
        folders = [self._stand_in.joinpath(*parts) for parts in wanted if all(parts)]
        return next((folder for folder in folders if folder.is_dir()), self._stand_in)


def _split_files(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _FORMATS:
            found[_PART.sub("", path.stem)].append(path)
    return dict(found)


def _read(name: str, paths: list[Path], options: dict[str, Any]) -> Any:
    kind = paths[0].suffix
    given = {"sep": "\t"} if kind == ".tsv" else {}
    kept = {key: value for key, value in options.items() if key in ("field", "sep", "delimiter", "column_names")}
    return datasets.load_dataset(
        _FORMATS[kind], data_files={name: [str(path) for path in paths]}, split=name, **{**given, **kept}
    )
