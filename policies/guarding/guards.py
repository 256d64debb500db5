"""Rules that code decides, on our side of the processes that run them. Whatever goes wrong, the text is held.

A pool keeps its processes and spares running: when one hangs or dies, its text is blocked, a spare takes its place at
once, and the next spare starts while traffic goes on. Validators are called directly, not through guardrails' `Guard`:
microseconds instead of milliseconds a text.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.enforcement.guard_rules import SURFACES, GuardRule
from policies.guarding.guard_process import GuardProcess
from registry.errors import EngineFailure

if TYPE_CHECKING:
    from policies.enforcement.engine import Enforcer

logger = logging.getLogger(__name__)

LONGEST_START_S = 120.0
MOST_WAITING = 256
"""Texts that may wait for a process; one more is blocked at once."""
LONGEST_PAUSE_S = 30.0
"""Between two starts, when processes keep failing to start."""


@dataclass(frozen=True, slots=True)
class GuardOutcome:
    """What the rules said. Not `ok`: `action` is `block` (no `text`), `redact` or `mask` (`text` is what is left).

    `rule` is the rule that decided, `reason` its own words, which may repeat parts of the text; `rules` are all that
    changed the text or blocked it.
    """

    ok: bool
    rule: str
    action: str
    text: str
    reason: str
    rules: tuple[str, ...] = ()


class GuardPool:
    """Processes that run the same rules. `start`, `validate` any number of texts, `close`."""

    def __init__(self, workers: int = 1, spares: int = 1) -> None:
        """Make a pool that checks up to `workers` texts at a time and keeps `spares` processes warm besides."""
        self._workers, self._spares = workers, spares
        self._rules: tuple[GuardRule, ...] = ()
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._idle: deque[GuardProcess] = deque()
        self._claimed: set[GuardProcess] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._failed_starts, self._not_before = 0, 0.0
        self.replaced = 0
        """Processes that hung, died or broke, and were replaced."""

    def start(self, rules: Sequence[GuardRule], ready_s: float = LONGEST_START_S) -> None:
        """Start the processes and wait until every worker has built its rules; spares become ready later.

        Raises:
            EngineFailure: a rule's code cannot be imported or built, or it took longer than `ready_s`.
        """
        self._rules = tuple(rules)
        if not self._rules:
            return
        until = time.monotonic() + ready_s
        try:
            self._idle.extend(self._spawn() for _ in range(self._workers))
            for process in self._idle:
                process.wait_ready(until)
            self._top_up()
        except (OSError, ValueError) as error:
            self.close()
            raise EngineFailure(
                f"the guard worker did not start: {error}", hint="check the `guardrails` and `python` rules"
            ) from None

    async def validate(self, text: str, deadline_s: float, *, exempt: frozenset[str] = frozenset()) -> GuardOutcome:
        """Return what the rules say of a text, in order, each on what the one before left; the first block ends it.

        Args:
            text: the whole text.
            deadline_s: seconds for all of it, waiting included; each rule has its own deadline besides.
            exempt: ids of rules that are not asked.
        """
        asked = [(number, rule) for number, rule in enumerate(self._rules) if rule.id not in exempt]
        if not asked:
            return GuardOutcome(True, "", "", text, "")
        until = time.monotonic() + min(deadline_s, sum(rule.deadline_s for _, rule in asked))
        try:
            async with asyncio.timeout(_left(until)):
                process = await self._take()
        except TimeoutError:
            return _held(asked[0][1], "no guard process was free in time")
        except Exception as error:  # noqa: BLE001 - whatever happened, the text was not validated
            return _held(asked[0][1], f"there is no guard process: {type(error).__name__}")
        try:
            return await self._run(process, asked, text, until)
        finally:
            self._give_back(process)

    def close(self) -> None:
        """Stop all processes."""
        for process in (*self._idle, *self._claimed):
            process.kill()
        self._idle.clear()
        self._claimed.clear()
        if self._home is not None:
            self._home.cleanup()
            self._home = None

    async def _run(
        self, process: GuardProcess, asked: list[tuple[int, GuardRule]], text: str, until: float
    ) -> GuardOutcome:
        """Ask one rule after another; a process that is late or breaks is marked broken."""
        outcome = GuardOutcome(True, "", "", text, "")
        for number, rule in asked:
            limit = min(rule.deadline_s, _left(until))
            try:
                async with asyncio.timeout(limit):
                    reply = await process.ask(number, outcome.text, rule.deadline_s)
                said = _read(rule, reply)
            except TimeoutError:
                process.broken = True
                return _held(rule, f"no answer within {limit:.3g} s")
            except Exception as error:  # noqa: BLE001 - whatever happened, the text was not validated
                process.broken = True
                return _held(rule, f"the guard worker failed: {type(error).__name__}")
            if said.ok:
                continue
            rules = (*outcome.rules, rule.id)
            if said.action == "block":
                return GuardOutcome(False, rule.id, "block", "", said.reason, rules)
            outcome = GuardOutcome(False, rules[0], said.action, said.text, said.reason, rules)
        return outcome

    async def _take(self) -> GuardProcess:
        """Return a process that is ready, once one of the workers' places is free."""
        while True:
            self._top_up()
            if self._idle and len(self._claimed) < self._workers:
                process = next((one for one in self._idle if one.ready), self._idle[0])
                self._idle.remove(process)
                self._claimed.add(process)
                if await self._made_ready(process):
                    return process
            elif len(self._waiting) >= MOST_WAITING:
                raise BlockingIOError("too many texts wait")
            else:
                await self._wait()

    async def _made_ready(self, process: GuardProcess) -> bool:
        """Wait until a claimed process is ready; when that fails it is given back, for good."""
        try:
            await process.become_ready()
        except asyncio.CancelledError:
            process.broken = time.monotonic() - process.started > LONGEST_START_S
            self._give_back(process)
            raise
        except (OSError, ValueError) as error:
            logger.warning("a guard process did not start: %s", type(error).__name__)
            self._failed_starts += 1
            self._not_before = time.monotonic() + min(LONGEST_PAUSE_S, 2.0**self._failed_starts / 4)
            process.broken = True
            self._give_back(process)
            return False
        self._failed_starts = 0
        return True

    async def _wait(self) -> None:
        """Wait until a process is given back, or for a while when starts are being put off."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        pause = None if self._claimed else max(0.01, self._not_before - time.monotonic())
        try:
            await asyncio.wait_for(turn, pause)
        except TimeoutError:
            if pause is None:
                raise
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._wake()  # the turn was ours and nobody took it
            raise
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def _give_back(self, process: GuardProcess) -> None:
        self._claimed.discard(process)
        if process.alive:
            self._idle.append(process)
        else:
            self._drop(process)
        self._top_up()
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done() and not turn.get_loop().is_closed():
                turn.set_result(None)
                return

    def _top_up(self) -> None:
        """Put away what died, and start what is missing; a start takes milliseconds here, the rest of it elsewhere."""
        for process in [one for one in self._idle if not one.alive]:
            self._idle.remove(process)
            self._drop(process)
        if self._home is not None and time.monotonic() >= self._not_before:
            while len(self._idle) + len(self._claimed) < self._workers + self._spares:
                self._idle.append(self._spawn())

    def _drop(self, process: GuardProcess) -> None:
        process.kill()
        self.replaced += 1

    def _spawn(self) -> GuardProcess:
        if self._home is None:
            self._home = tempfile.TemporaryDirectory(prefix="hallmark-guards-")
            Path(self._home.name, ".guardrailsrc").write_text("enable_metrics=false\nuse_remote_inferencing=false\n")
        return GuardProcess(self._rules, Path(self._home.name))


def workers_of(
    enforcer: Enforcer, *, workers: int = 1, spares: int = 1, progress: Callable[[str], None] = lambda names: None
) -> dict[str, GuardPool]:
    """Return started pools by surface of the answer, and by `input`; places with the same rules share one pool.

    Close each pool when its release ends. `progress` hears the rules' ids before a pool starts.

    Raises:
        EngineFailure: a rule's code cannot be imported or built; nothing is left running.
    """
    places = {surface: [rule for rule in enforcer.guard_rules if surface in rule.surfaces] for surface in SURFACES}
    places["input"] = list(enforcer.input_guards)
    pools: dict[tuple[str, ...], GuardPool] = {}
    try:
        for rules in places.values():
            names = tuple(rule.id for rule in rules)
            if names and names not in pools:
                progress(", ".join(names))
                pools[names] = GuardPool(workers, spares)
                pools[names].start(rules)
    except BaseException:
        for pool in pools.values():
            pool.close()
        raise
    return {place: pools[tuple(rule.id for rule in rules)] for place, rules in places.items() if rules}


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())


def _held(rule: GuardRule, reason: str) -> GuardOutcome:
    logger.warning("guard rule `%s` blocked a text: %s", rule.id, reason)
    return GuardOutcome(False, rule.id, "block", "", reason, (rule.id,))


def _read(rule: GuardRule, reply: dict[str, Any]) -> GuardOutcome:
    """Return a reply as an outcome; anything but a clear answer raises."""
    ok, action, text = reply["ok"], reply["action"], reply["text"]
    if ok not in (True, False) or not isinstance(text, str) or (not ok and action not in ("block", rule.action)):
        raise ValueError("the reply is not an outcome")
    return GuardOutcome(ok, rule.id, str(action), text, str(reply["reason"]))
