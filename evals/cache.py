"""What was already measured: rows of finished KPIs and answers of the endpoint, so that a crash asks nothing twice.

Keys hold the model's identity (harness caches that leave it out hand one model's answers to another), what it was
generated with, and the instrument or request.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.samples import Row, decode, encode
from registry.errors import EngineFailure
from registry.records import digest_of


class RowCache:
    """Rows of finished KPIs under one folder, one Parquet file per key, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def key(model: dict[str, Any], instrument: str) -> str:
        """Return the key of a model's identity (weights, generation settings, ...) and an instrument digest."""
        return digest_of({"model": model, "instrument": instrument}).removeprefix("sha256:")

    def get(self, key: str) -> list[Row] | None:
        """Return the stored rows of a key, or None; a damaged file counts as not there and is removed."""
        path = self.folder / f"{key}.parquet"
        try:
            return decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except EngineFailure:
            path.unlink(missing_ok=True)
            return None

    def put(self, key: str, rows: Sequence[Row]) -> None:
        """Store the rows of a key; durable when it returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{key}.{secrets.token_hex(4)}"
        with temporary.open("xb") as sink:
            sink.write(encode(rows))
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(self.folder / f"{key}.parquet")


class AnswerCache:
    """Answers of one endpoint, one JSON line each; a line torn by a crash is skipped when the file is read.

    Args:
        path: the file; its folder must exist.
        model: what identifies the model behind the endpoint and its settings.
    """

    def __init__(self, path: Path, model: dict[str, Any]) -> None:
        self.path, self.model = path, model
        self._answers: dict[str, Any] = {}
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
                self._answers[entry["key"]] = entry["answer"]
            except (ValueError, KeyError, TypeError):
                continue

    def key(self, request: dict[str, Any], occurrence: int) -> str:
        """Return the key of the n-th time (from 0) that this request is asked: epochs repeat a request on purpose."""
        return digest_of({"model": self.model, "request": request, "occurrence": occurrence})

    def get(self, key: str) -> Any | None:
        """Return the stored answer, or None."""
        return self._answers.get(key)

    def put(self, key: str, answer: Any) -> None:
        """Append one answer. The leading newline ends a line that an earlier crash tore."""
        self._answers[key] = answer
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False)
        with self.path.open("ab") as sink:
            sink.write(b"\n" + line.encode("utf-8", "replace") + b"\n")
