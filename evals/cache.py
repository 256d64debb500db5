"""What was already measured: rows by sample and answers of the endpoint, so that nothing is measured or asked twice.

Keys hold the model's identity (harness caches that leave it out hand one model's answers to another), what it was
generated with, and the instrument or request.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.samples import Row, decode, encode
from registry.artifacts import replace_file, sync_folder
from registry.errors import EngineFailure
from registry.records import digest_of


class RowCache:
    """Measured rows by sample under one folder: a folder a key, in it one Parquet file for each time rows were added.

    A file is written whole or not at all; what was added first counts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def key(model: dict[str, Any], ruler: str) -> str:
        """Return the key of a model's identity (weights, generation settings, ...) and an instrument's ruler.

        What a sample is worth does not depend on which others the plan has: appended to, it is not measured again.
        """
        return digest_of({"model": model, "instrument": ruler}).removeprefix("sha256:")

    def get(self, key: str, epochs: int = 1) -> dict[str, list[Row]]:
        """Return the stored rows of a key by sample, those with all epochs; a damaged file is removed.

        A sample that failed is not known: it is measured again, since nothing was learnt of it.
        """
        found: dict[str, list[Row]] = {}
        for part in sorted((self.folder / key).glob("[0-9]*.parquet")):
            try:
                rows = decode(part.read_bytes())
            except EngineFailure:
                part.unlink(missing_ok=True)
                continue
            here: dict[str, list[Row]] = {}
            for row in rows:
                here.setdefault(row.sample_id, []).append(row)
            whole = {
                name: rows for name, rows in here.items() if len(rows) == epochs and not any(r.error for r in rows)
            }
            found = {**whole, **found}
        return found

    def put(self, key: str, rows: Sequence[Row]) -> None:
        """Add whole samples, all epochs of each, to a key; durable when it returns."""
        if not rows:
            return
        folder = self.folder / key
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.parquet"
        temporary = folder / f".{name}"
        with temporary.open("xb") as sink:
            sink.write(encode(rows))
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(folder / name)
        sync_folder(folder)

    def note(self, key: str, value: dict[str, Any]) -> None:
        """Keep what is known of a key's rows as a whole, in place of what was kept before."""
        (self.folder / key).mkdir(parents=True, exist_ok=True)
        replace_file(self.folder / key / "note.json", json.dumps(value).encode())

    def noted(self, key: str) -> dict[str, Any]:
        """Return what `note` kept; empty where there is nothing."""
        try:
            found = json.loads((self.folder / key / "note.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


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
