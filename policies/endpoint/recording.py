"""The texts of requests and answers, kept where a bundle says `record: texts`: for policy diffs and replays.

They lie outside of the journal, one file a day, so that they can be erased: a decision holds keyed hashes only, and
what is read back is compared with them. A recording that cannot be written is counted as lost; its request goes on.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.endpoint.answer import Ledger
from policies.endpoint.exchange import Exchange, Served
from registry.files import replace_file, sync_folder

if TYPE_CHECKING:
    from registry.workspace import Workspace

log = logging.getLogger(__name__)

WAITING = 10_000
"""Entries that may wait for the disk; what comes on top is lost, and counted."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One kept request. `outputs` are (channel, released text), the channel written `0/content`; `body` is JSON.

    `intact` says whether the texts are those that the decision's keyed hashes were made of.
    """

    request_id: str
    ts: str
    endpoint: str
    surface: str
    caller: str
    groups: tuple[str, ...]
    attributes: dict[str, Any]
    body: str
    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]
    action: str
    rules: tuple[str, ...]
    input_hash: str
    output_hash: str
    intact: bool = True


class Recorder:
    """Writes what bundles want recorded, from its own thread: the `Observer` of a desk. `lost` counts the rest."""

    def __init__(self, folder: Path, key: bytes) -> None:
        self.written = self.lost = 0
        self._folder, self._key = folder, key
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def decided(self, exchange: Exchange) -> None:
        """Keep a decided request if its bundle says so."""
        if exchange.desk is None or not exchange.desk.records:
            return
        try:
            self._queue.put_nowait(_entry(exchange, self._key))
        except queue.Full:
            self.lost += 1

    def close(self, timeout_s: float = 30.0) -> bool:
        """Write what waits, then stop; return whether nothing was lost."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self.lost and not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            while not self._queue.empty() and len(batch) < 500:
                batch.append(self._queue.get_nowait())
            entries = [entry for entry in batch if entry is not None]
            try:
                if entries:
                    self._append(entries)
                    self.written += len(entries)
            except OSError as error:
                self.lost += len(entries)
                log.warning("%s recorded texts were lost: %s", len(entries), error)
            if len(entries) < len(batch):
                return

    def _append(self, entries: list[dict[str, Any]]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        days: dict[str, list[bytes]] = {}
        for entry in entries:
            days.setdefault(entry["ts"][:10], []).append(json.dumps(entry).encode("ascii") + b"\n")
        with _held(self._folder):
            for day, lines in days.items():
                descriptor = os.open(self._folder / f"{day}.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                with os.fdopen(descriptor, "ab") as file:
                    size = os.fstat(descriptor).st_size
                    torn = size and os.pread(descriptor, 1, size - 1) != b"\n"  # a kill cut the last line
                    file.write(b"".join([b"\n" if torn else b"", *lines]))


def folder_of(ws: Workspace) -> Path:
    """Return where a workspace's recordings lie."""
    return ws.work("recordings")


def recorder_of(ws: Workspace) -> Recorder:
    """Return a recorder for a workspace's endpoint."""
    return Recorder(folder_of(ws), _key(ws))


def recorded(ws: Workspace, *, alias: str = "", since: str = "", until: str = "") -> Iterator[Recorded]:
    """Yield what was recorded, oldest first: of one endpoint or all, from `since` to before `until` (UTC, ISO 8601)."""
    key = _key(ws)
    for path in sorted(folder_of(ws).glob("*.jsonl")):
        if (since and path.stem < since[:10]) or (until and path.stem > until[:10]):
            continue
        for entry in _lines(path):
            if (alias and entry["endpoint"] != alias) or entry["ts"] < since or (until and entry["ts"] >= until):
                continue
            yield _read(entry, key)


def find(ws: Workspace, request_id: str) -> Recorded | None:
    """Return the recording of one request, None when there is none."""
    mark = json.dumps(request_id).encode()
    for path in sorted(folder_of(ws).glob("*.jsonl"), reverse=True):
        if mark in path.read_bytes():
            for entry in _lines(path):
                if entry["request_id"] == request_id:
                    return _read(entry, _key(ws))
    return None


def erase(ws: Workspace, *, caller: str = "", request_id: str = "", before: str = "") -> int:
    """Delete recordings that match all of what is named: a caller, a request, a time (UTC, ISO 8601); return how many.

    The decisions stay: their hashes are keyed and say nothing of the text.
    """
    if not (caller or request_id or before):
        raise ValueError("name a caller, a request or a time")
    folder, gone = folder_of(ws), 0
    with _held(folder):
        for path in sorted(folder.glob("*.jsonl")):
            entries = list(_lines(path))
            kept = [entry for entry in entries if not _matches(entry, caller, request_id, before)]
            gone += len(entries) - len(kept)
            if not kept:
                path.unlink()
            elif len(kept) < len(entries):
                replace_file(path, b"".join(json.dumps(entry).encode("ascii") + b"\n" for entry in kept), 0o600)
        sync_folder(folder)
    return gone


def _matches(entry: dict[str, Any], caller: str, request_id: str, before: str) -> bool:
    tests: list[tuple[str, Callable[[], bool]]] = [
        (caller, lambda: entry["caller"] == caller),
        (request_id, lambda: entry["request_id"] == request_id),
        (before, lambda: entry["ts"] < before),
    ]
    return all(holds() for named, holds in tests if named)


def _entry(exchange: Exchange, key: bytes) -> dict[str, Any]:
    caller, ledger = exchange.caller, exchange.ledger
    return {
        "request_id": exchange.request_id,
        "ts": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "endpoint": exchange.served.endpoint,
        "surface": exchange.surface,
        "caller": caller.name if caller else "",
        "groups": sorted(caller.groups) if caller else [],
        "attributes": dict(caller.attributes) if caller else {},
        "body": exchange.asked.decode("utf-8", "replace"),
        "inputs": exchange.inputs,
        "outputs": [[f"{index}/{name}", "".join(texts)] for (index, name), texts in sorted(ledger.released.items())],
        "action": exchange.action,
        "rules": list(exchange.rules),
        "input_hash": exchange.input_hash,
        "output_hash": ledger.digest(key) if ledger.released else "",
    }


def _read(entry: dict[str, Any], key: bytes) -> Recorded:
    """Return an entry; its texts are hashed again."""
    inputs, outputs = tuple(entry["inputs"]), tuple((channel, text) for channel, text in entry["outputs"])
    intact = input_hash(inputs, key) == entry["input_hash"] if inputs else not entry["input_hash"]
    intact = intact and (output_hash(outputs, key) == entry["output_hash"] if outputs else not entry["output_hash"])
    return Recorded(
        entry["request_id"], entry["ts"], entry["endpoint"], entry["surface"], entry["caller"], tuple(entry["groups"]),
        entry["attributes"], entry["body"], inputs, outputs, entry["action"], tuple(entry["rules"]),
        entry["input_hash"], entry["output_hash"], intact,
    )  # fmt: skip


def input_hash(texts: tuple[str, ...], key: bytes) -> str:
    """Return the decision log's keyed hash of a request's texts, as they arrived."""
    exchange = Exchange("", Served("", "", "", "", "", ""))
    exchange.note_input(list(texts), key)
    return exchange.input_hash


def output_hash(outputs: tuple[tuple[str, str], ...], key: bytes) -> str:
    """Return the decision log's keyed hash of an answer's released texts by channel (`0/content`)."""
    ledger = Ledger()
    for channel, text in outputs:
        index, _, name = channel.partition("/")
        ledger.release((int(index), name), text)
    return ledger.digest(key)


def _key(ws: Workspace) -> bytes:
    from policies.endpoint.hash_key import hash_key

    return hash_key(ws)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a file; a line that a kill has torn is passed over."""
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            log.warning("`%s` line %s is torn and left out", path.name, number)
            continue
        yield entry


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder: a writer and an eraser do not meet."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
