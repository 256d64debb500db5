"""How much a caller may use: requests a minute, tokens a minute and a day, requests at once, by principal.

A budget refills evenly and is one period deep, so in no period more than twice the limit is used. Every key and token
of a principal spends from the same budgets. With a file they outlive the process (`policies.access.budgets`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from time import time

from policies.access.authorize import Caller
from policies.access.budgets import INFINITE, PERIODS, Account, BudgetFile, boot_id, since_boot
from policies.wire.refusal import Refusal

log = logging.getLogger(__name__)

BUDGETS = ("requests_per_minute", "tokens_per_minute", "tokens_per_day")
AT_ONCE = "concurrent_requests"
ATTRIBUTES = frozenset({*BUDGETS, AT_ONCE})
"""The caller's attributes that set limits; a caller without one of them has no such limit."""
WORDS = ("requests a minute", "tokens a minute", "tokens a day")
NEVER_SECONDS = 3600
"""What `Retry-After` says where waiting does not help."""
SHARE = 1 / 16
"""Of each limit: so much more than was spent the file says, and so much a kill may cost a caller."""
MOST_ACCOUNTS, FIRST_SWEEP = 65_536, 1024
_ROUNDING = 1e-6


class Admission:
    """A request that was let in. `settle` ends it, once; what comes later is ignored."""

    __slots__ = ("_account", "_limits", "_tokens")

    def __init__(self, limits: Limits | None = None, account: Account | None = None, tokens: int = 0) -> None:
        self._limits, self._account, self._tokens = limits, account, tokens

    def settle(self, used: int | None) -> None:
        """Replace the reserved tokens by the used ones (None: what was reserved stands), and free the place."""
        limits, account = self._limits, self._account
        if limits is not None and account is not None:
            self._limits = None
            limits.settle(account, 0 if used is None else max(0, used) - self._tokens)


FREE = Admission()
"""What a caller without limits gets."""


class Limits:
    """The budgets of an endpoint, by caller name; called from one thread."""

    def __init__(
        self, path: Path | None = None, clock: Callable[[], float] | None = None, wall: Callable[[], float] = time,
        boot: str | None = None,
    ) -> None:  # fmt: skip
        """Take up the budgets in a file, if one is named. `boot` tells for which start of the machine `clock` counts.

        Raises Locked when another process spends from the same file, OSError when it cannot be written.
        """
        self._clock = clock or since_boot
        boot = boot if boot is not None else "" if clock else boot_id()
        self._file = BudgetFile(path, self._clock, wall, boot) if path is not None else None
        self._accounts = self._file.accounts if self._file is not None else {}
        self._sweep_at = max(FIRST_SWEEP, 2 * len(self._accounts))

    def admit(self, caller: Caller, tokens: int) -> Admission:
        """Count one request, one place, and `tokens` that are reserved until `Admission.settle`.

        Raises Refusal: 429 over a budget, of which nothing is then spent; 403 when an attribute is not a number >= 0;
        503 when the budgets cannot be written.
        """
        if ATTRIBUTES.isdisjoint(caller.attributes):
            return FREE
        account = self._account(caller)
        if account.running >= account.at_once:
            wait = NEVER_SECONDS if account.at_once < 1 else 1
            raise _over(f"more than {account.at_once:g} requests at once", wait)
        self._spend(account, 1, tokens)
        account.running += 1
        return Admission(self, account, tokens)

    def take(self, caller: Caller) -> None:
        """Count one request that uses no engine; raises as `admit` does."""
        if not ATTRIBUTES.isdisjoint(caller.attributes):
            self._spend(self._account(caller), 1, 0)

    def settle(self, account: Account, more: int) -> None:
        """End an admitted request that used so many tokens more than were reserved (fewer: negative)."""
        account.running -= 1
        if not more:
            return
        account.pass_time(self._clock())
        exceeds = account.spend(0, more)
        if self._file is not None and (exceeds or _promises_much(account)):
            try:
                self._file.save(account, account.promise(SHARE))
            except OSError as error:  # the next admission writes it, or is refused
                log.warning("what a request used is not written: %s", error)

    def close(self) -> None:
        """Write what is spent."""
        if self._file is not None:
            self._file.close(self._accounts.values())
            self._file = None

    @property
    def accounts(self) -> int:
        """How many principals are kept in memory."""
        return len(self._accounts)

    # ---- one account -----------------------------------------------------------------------------------------------

    def _account(self, caller: Caller) -> Account:
        """Return the caller's account under its present limits, at this moment."""
        now = self._clock()
        account = self._accounts.get(caller.name)
        if account is not None and account.fingerprint == caller.fingerprint:
            account.pass_time(now)
            return account
        limits, at_once = tuple(_limit(caller, name) for name in BUDGETS), _limit(caller, AT_ONCE)
        if account is None:
            account = self._open(caller.name, limits, now)
        account.limit(limits, at_once)
        account.fingerprint = caller.fingerprint
        account.pass_time(now)
        return account

    def _open(self, name: str, limits: tuple[float, ...], now: float) -> Account:
        if len(self._accounts) >= self._sweep_at:
            self._sweep(now)
        account = self._accounts[name] = Account(name, now)
        exhausted = self._file.exhausted if self._file is not None else None
        if exhausted is not None:
            account.moment = min(now, exhausted)
            account.spent = [limit if limit != INFINITE else 0.0 for limit in limits]
        return account

    def _sweep(self, now: float) -> None:
        """Forget whoever owes nothing any more; refuse new callers while there is no room."""
        for name, account in list(self._accounts.items()):
            if account.fingerprint is None:  # from the file, not seen since: after a day nothing can be left
                idle = now - account.moment >= PERIODS[2]
            else:
                account.pass_time(now)
                idle = not account.running and not any(account.spent[kind] for kind in account.limited)
            if idle:
                del self._accounts[name]
        if len(self._accounts) >= MOST_ACCOUNTS:
            raise Refusal(503, "budgets_full", "too many callers at once", action="error", retry_after=60)
        self._sweep_at = min(MOST_ACCOUNTS, max(FIRST_SWEEP, 2 * len(self._accounts)))

    def _spend(self, account: Account, requests: int, tokens: int) -> None:
        """Spend from every budget, or from none; raises Refusal."""
        spent, limits = account.spent, account.limits
        for kind in account.limited:
            amount = tokens if kind else requests
            if spent[kind] + amount > limits[kind] + _ROUNDING and amount:
                raise _refused(account, (requests, tokens, tokens))
        if account.spend(requests, tokens) and self._file is not None:
            self._write(self._file, account, requests, tokens)

    def _write(self, file: BudgetFile, account: Account, requests: int, tokens: int) -> None:
        """Put on disk what is about to be used; what cannot be written is not used."""
        try:
            file.save(account, account.promise(SHARE))
        except OSError as error:
            account.spend(-requests, -tokens)
            log.warning("budgets cannot be written: %s", error)
            message = "the budgets cannot be written"
            raise Refusal(503, "budgets_unavailable", message, action="error", retry_after=5) from None
        if file.grown:
            try:
                file.rewrite(self._accounts.values())
            except OSError as error:
                log.warning("the file of budgets grows, it cannot be written afresh: %s", error)


def _promises_much(account: Account) -> bool:
    """Say whether the file says so much more than is spent that a kill would cost the caller dear."""
    spent, promised, limits = account.spent, account.promised, account.limits
    return any(promised[kind] - spent[kind] > 4 * SHARE * limits[kind] for kind in account.limited)


def _refused(account: Account, amounts: tuple[int, ...]) -> Refusal:
    """Return the refusal that names the budget with the longest wait."""
    wait, text = 0.0, ""
    for kind, amount in enumerate(amounts):
        limit = account.limits[kind]
        over = account.spent[kind] + amount - limit
        if not amount or over <= _ROUNDING:
            continue
        mine = over * PERIODS[kind] / limit if amount <= limit else INFINITE
        if mine > wait:
            wait, text = mine, f"more than {limit:g} {WORDS[kind]}"
    if wait == INFINITE:
        return _over(f"{text}, which this request alone asks for", NEVER_SECONDS)
    return _over(text, max(1, math.ceil(wait)))


def _over(message: str, seconds: int) -> Refusal:
    return Refusal(429, "rate_limit_exceeded", message, retry_after=seconds)


def _limit(caller: Caller, name: str) -> float:
    """Return a limit, infinite where there is none; raises Refusal 403 when it is not a number >= 0."""
    value = caller.attributes.get(name)
    if value is None:
        return INFINITE
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise Refusal(403, "bad_limit", f"the attribute `{name}` of this caller is not a number")
    return float(value)
