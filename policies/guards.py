"""guardrails-ai validators as rules: our side of the process that runs them. Whatever goes wrong, the text is held.

Validators are called directly, not through `Guard`: microseconds instead of milliseconds a text.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from policies.engine import GuardRule
from registry.errors import EngineFailure

logger = logging.getLogger(__name__)

LONGEST_START_S = 120.0
LONGEST_REPLY = 16 * 1024 * 1024
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class GuardOutcome:
    """What the validators said. Not `ok`: `action` is `block` (`text` is empty) or `redact` (`text` is what is left).

    `rule` is the rule that decided, `reason` the validator's own words, which may repeat parts of the text.
    """

    ok: bool
    rule: str
    action: str
    text: str
    reason: str


class GuardWorker:
    """One worker process. `start` it, `validate` any number of texts (they queue), `close` it."""

    def __init__(self) -> None:
        self._rules: tuple[GuardRule, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._buffer = b""
        self._ready = False
        self._turn = asyncio.Lock()
        self._number = 0
        self._started = 0.0

    def start(self, rules: Sequence[GuardRule], ready_s: float = LONGEST_START_S) -> None:
        """Start the process and wait until its validators are built.

        Raises:
            EngineFailure: a validator cannot be imported or built, or it took longer than `ready_s`.
        """
        self._rules = tuple(rules)
        if not self._rules:
            return
        channel = self._spawn()
        channel.settimeout(ready_s)
        try:
            while b"\n" not in self._buffer:
                data = channel.recv(65_536)
                if not data:
                    raise ConnectionError("the process ended")
                self._buffer += data
            self._note_ready(self._take_line())
        except (OSError, ValueError) as error:
            self.close()
            raise EngineFailure(f"the guard worker did not start: {error}", hint="check the guardrails rules") from None
        channel.setblocking(False)

    async def validate(self, text: str, deadline_s: float) -> GuardOutcome:
        """Return what the validators say of a text, within `deadline_s` and the rules' own deadlines, all told."""
        if not self._rules:
            return GuardOutcome(True, "", "", text, "")
        limit = min(deadline_s, sum(rule.deadline_s for rule in self._rules))
        asked = False
        try:
            async with asyncio.timeout(limit), self._turn:
                asked = True
                return await self._ask(text)
        except TimeoutError:
            reason = f"no answer within {limit:g} s"
        except Exception as error:  # noqa: BLE001 - whatever happened, the text was not validated
            reason = f"the guard worker failed: {type(error).__name__}"
        logger.warning("guard rules blocked a text: %s", reason)
        if asked and (self._ready or time.monotonic() - self._started > LONGEST_START_S):
            self._restart()
        return GuardOutcome(False, self._rules[0].id, "block", "", reason)

    def close(self) -> None:
        """Stop the process."""
        self._stop()
        if self._home is not None:
            self._home.cleanup()
            self._home = None

    async def _ask(self, text: str) -> GuardOutcome:
        """Send one text and wait for its answer; answers to texts that nobody waits for any more are passed over."""
        if self._process is None or self._process.poll() is not None:
            self._restart()
        if not self._ready:
            self._note_ready(await self._line())
        self._number += 1
        number, sent = self._number, False
        message = json.dumps({"id": number, "text": text}).encode() + b"\n"
        try:
            await asyncio.get_running_loop().sock_sendall(self._channel(), message)
            sent = True
        finally:
            if not sent:
                self._restart()  # half a message is in the pipe
        while True:
            reply = await self._line()
            if reply.pop("id") == number:
                return _outcome(reply)

    async def _line(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            data = await asyncio.get_running_loop().sock_recv(self._channel(), 1 << 20)
            if not data:
                raise ConnectionError("the process ended")
            self._buffer += data
            if len(self._buffer) > LONGEST_REPLY:
                raise ValueError("the reply is too long")
        return self._take_line()

    def _take_line(self) -> dict[str, Any]:
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _note_ready(self, reply: dict[str, Any]) -> None:
        if reply.get("ready") is not True:
            raise ValueError(reply.get("failed", "no ready message"))
        self._ready = True

    def _channel(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionError("the process is not running")
        return self._socket

    def _restart(self) -> None:
        self._stop()
        self._spawn().setblocking(False)

    def _spawn(self) -> socket.socket:
        """Start the process with one end of a socket pair, and send it its rules."""
        if self._home is None:
            self._home = tempfile.TemporaryDirectory(prefix="hallmark-guards-")
            Path(self._home.name, ".guardrailsrc").write_text("enable_metrics=false\nuse_remote_inferencing=false\n")
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "policies.guard_worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env=_environment(self._home.name),
                cwd=self._home.name,
                stdin=subprocess.DEVNULL,
            )
        self._socket, self._buffer, self._ready = ours, b"", False
        self._started = time.monotonic()
        ours.sendall(json.dumps({"rules": [asdict(rule) for rule in self._rules]}).encode() + b"\n")
        return ours

    def _stop(self) -> None:
        self._ready = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _environment(home: str) -> dict[str, str]:
    """Return the worker's environment: nothing of ours but what finds the interpreter and its libraries."""
    found = {name: os.environ[name] for name in _KEPT if name in os.environ}
    paths = [str(Path(__file__).resolve().parent.parent), found.get("PYTHONPATH", "")]
    return {
        **found,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "HOME": home,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OTEL_SDK_DISABLED": "true",
        "DO_NOT_TRACK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _outcome(reply: dict[str, Any]) -> GuardOutcome:
    """Return a reply as an outcome; anything but a clear answer raises."""
    outcome = GuardOutcome(
        reply["ok"], str(reply["rule"]), str(reply["action"]), str(reply["text"]), str(reply["reason"])
    )
    if outcome.ok not in (True, False) or (not outcome.ok and outcome.action not in ("block", "redact")):
        raise ValueError("the reply is not an outcome")
    return outcome
