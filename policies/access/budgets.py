"""What callers have spent, kept on disk so that a restart or a kill is no new budget.

The file is a log of lines, each with a checksum: a principal, the most it may have spent, and when that was written.
The newest line of a principal counts. A line promises more than was spent, so most requests write nothing.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from registry.errors import Locked

log = logging.getLogger(__name__)

PERIODS = (60.0, 60.0, 86_400.0)
"""Seconds in which a budget refills: requests a minute, tokens a minute, tokens a day."""
INFINITE = float("inf")
NONE = (INFINITE,) * 3
SYNC_SECONDS = 1.0
REWRITE_BYTES = 1 << 20
VERSION = 1
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def since_boot() -> float:
    """Return seconds since the machine started, suspended time included: no change of the wall clock moves it."""
    return time.clock_gettime(_CLOCK)


def boot_id() -> str:
    """Return what tells this start of the machine from others, or `` where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(slots=True)
class Account:
    """What one principal has spent of each of `PERIODS` at a moment of the clock, and what the file says of it."""

    name: str
    moment: float
    spent: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    promised: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    limits: tuple[float, ...] = NONE
    rates: tuple[float, ...] = (0.0, 0.0, 0.0)
    limited: tuple[int, ...] = ()
    at_once: float = INFINITE
    running: int = 0
    fingerprint: str | None = None

    def limit(self, limits: tuple[float, ...], at_once: float) -> None:
        """Take other limits; what is spent stays spent."""
        self.limits, self.at_once = limits, at_once
        self.limited = tuple(kind for kind, limit in enumerate(limits) if limit != INFINITE)
        self.rates = tuple(0.0 if each == INFINITE else each / s for each, s in zip(limits, PERIODS, strict=True))

    def pass_time(self, now: float) -> None:
        """Give back what time gives back: a whole limit in its period. A clock that runs backwards gives nothing."""
        passed = now - self.moment
        if passed <= 0.0:
            return
        self.moment = now
        spent, promised, rates = self.spent, self.promised, self.rates
        for kind in self.limited:
            back = passed * rates[kind]
            left = promised[kind] - back
            promised[kind] = left if left > 0.0 else 0.0
            left = spent[kind] - back
            spent[kind] = left if left > 0.0 else 0.0

    def spend(self, requests: int, tokens: int) -> bool:
        """Spend from each limited budget; return whether more is spent now than the file says."""
        spent, promised, exceeds = self.spent, self.promised, False
        for kind in self.limited:
            more = spent[kind] + (tokens if kind else requests)
            spent[kind] = more if more > 0.0 else 0.0
            if more > promised[kind]:
                exceeds = True
        return exceeds

    @property
    def owes(self) -> bool:
        """Whether anything is spent or promised."""
        return any(self.spent) or any(self.promised)

    def promise(self, share: float) -> list[float]:
        """Return what to write: what is spent and a share of each limit on top, never more than limit or spent."""
        return [
            spent if limit == INFINITE else min(spent + limit * share, max(limit, spent))
            for spent, limit in zip(self.spent, self.limits, strict=True)
        ]


class BudgetFile:
    """The file of one endpoint; `accounts` is what it held at the start, `exhausted` whether it was damaged then."""

    def __init__(self, path: Path, clock: Callable[[], float], wall: Callable[[], float], boot: str) -> None:
        """Lock, read and rewrite. Raises Locked when another process spends from the same budgets, or OSError."""
        self._path, self._clock, self._wall, self._boot = path, clock, wall, boot
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise Locked("another process spends from these budgets", hint=f"stop it, or see `{path}.lock`") from None
        self.accounts: dict[str, Account] = {}
        self.exhausted: float | None = None
        self._file, self._end, self._most, self._dirty = -1, 0, REWRITE_BYTES, False
        self._guard, self._stopping = threading.Lock(), threading.Event()
        try:
            self._load()
            self.rewrite(self.accounts.values())
        except BaseException:
            os.close(self._lock)
            raise
        self._thread = threading.Thread(target=self._sync_often, name="budgets", daemon=True)
        self._thread.start()

    def save(self, account: Account, promise: list[float]) -> None:
        """Append what an account may have spent; it outlives this process from now on, a power cut in a second.

        Raises OSError when it cannot be written; the promise of before stands then.
        """
        line = self._line(account.name, account.moment, promise)
        if os.pwrite(self._file, line, self._end) != len(line):
            raise OSError(28, "No space left on device")  # what was written lies beyond the end, and is overwritten
        self._end += len(line)
        self._dirty = True
        account.promised = promise

    @property
    def grown(self) -> bool:
        """Whether the file is worth writing afresh."""
        return self._end > self._most

    def rewrite(self, accounts: Iterable[Account], *, exact: bool = False) -> None:
        """Replace the file by one with a line for each account; `exact`: with what is spent. Raises OSError."""
        head = [self._line("", self._clock(), [] if self.exhausted is None else [self._clock() - self.exhausted])]
        lines = [self._line(a.name, a.moment, a.spent if exact else a.promised) for a in accounts if a.owes]
        data = b"".join(head + lines)
        fresh = self._path.with_name(self._path.name + ".new")
        file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            fresh.replace(self._path)
        except BaseException:
            os.close(file)
            raise
        with self._guard:
            before, self._file = self._file, file
            if before >= 0:
                os.close(before)
        self._end, self._most, self._dirty = len(data), max(REWRITE_BYTES, 4 * len(data)), True

    def close(self, accounts: Iterable[Account]) -> None:
        """Write what is spent exactly, make it durable, and let go."""
        self._stopping.set()
        self._thread.join()
        try:
            self.rewrite(accounts, exact=True)
            self._sync()
        except OSError as error:
            log.warning("budgets are not written exactly: %s", error)
        os.close(self._file)
        os.close(self._lock)

    # ---- reading ---------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        *lines, _torn = data.split(b"\n")  # a kill tears at most the last line, whose request was never admitted
        try:
            for line in lines or [b""]:
                self._take(line)
        except (ValueError, TypeError) as error:
            log.warning("`%s` is damaged (%s): every budget starts exhausted", self._path, error)
            self.exhausted, self.accounts = self._clock(), {}

    def _take(self, line: bytes) -> None:
        checksum, _, text = line.partition(b" ")
        if int(checksum, 16) != zlib.crc32(text):
            raise ValueError("a checksum does not fit")
        version, name, wall, moment, boot, numbers = orjson.loads(text)
        if version != VERSION:
            raise ValueError(f"version {version}")
        passed = self._clock() - moment if boot and boot == self._boot else self._wall() - wall
        now = self._clock() - min(max(0.0, passed), PERIODS[2])
        if not name:
            since = now - numbers[0] if numbers else None
            self.exhausted = since if since is not None and self._clock() - since < PERIODS[2] else None
        else:
            self.accounts[name] = Account(name, now, list(numbers), list(numbers))

    def _line(self, name: str, moment: float, numbers: list[float]) -> bytes:
        wall = self._wall() - max(0.0, self._clock() - moment)
        text = orjson.dumps([VERSION, name, wall, moment, self._boot, numbers])
        return b"%08x %b\n" % (zlib.crc32(text), text)

    # ---- against a power cut ---------------------------------------------------------------------------------------

    def _sync_often(self) -> None:
        while not self._stopping.wait(SYNC_SECONDS):
            try:
                self._sync()
            except OSError as error:
                log.warning("budgets do not reach the disk: %s", error)

    def _sync(self) -> None:
        with self._guard:
            if not self._dirty:
                return
            self._dirty = False
            file = os.dup(self._file)
        try:
            os.fdatasync(file)
        finally:
            os.close(file)
