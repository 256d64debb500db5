"""One guard process as its parent sees it: started with the rules, asked one rule about one text at a time, killed."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policies.enforcement.guard_rules import GuardRule

LONGEST_REPLY = 16 * 1024 * 1024
MEMORY_MB = {"python": 1024, "guardrails": 8192}
"""Address space of a process by the kinds of its rules; the libraries of guardrails-ai map a good deal of it."""
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")


class GuardProcess:
    """A process and its end of a socket pair. Once a call raises anything but a cancellation, it is of no more use."""

    def __init__(self, rules: Sequence[GuardRule], home: Path) -> None:
        """Start the process; it imports and builds its rules on its own. `home` is its home folder."""
        self._buffer = b""
        self._number = 0
        self.ready, self.broken = False, False
        self.started = time.monotonic()
        ours, theirs = socket.socketpair()
        with theirs:
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "policies.guarding.guard_worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env=_environment(home),
                cwd=home,
                stdin=subprocess.DEVNULL,
            )
        self.socket = ours
        memory = max((rule.memory_mb or MEMORY_MB[rule.kind] for rule in rules), default=0)
        self._send_all({"memory_mb": memory, "rules": [rule.message() for rule in rules]})
        ours.setblocking(False)

    @property
    def alive(self) -> bool:
        """Whether the process runs and may be asked."""
        return not self.broken and self.popen.poll() is None

    def wait_ready(self, until: float) -> None:
        """Block until the rules are built or `until` (monotonic seconds); raises OSError or ValueError."""
        self.socket.settimeout(max(0.001, until - time.monotonic()))
        try:
            while b"\n" not in self._buffer:
                self._take_in(self.socket.recv(65_536))
        finally:
            self.socket.setblocking(False)
        self._note_ready()

    async def become_ready(self) -> None:
        """Wait until the rules are built; may be cancelled and called again."""
        if not self.ready:
            await self._fill()
            self._note_ready()

    async def ask(self, rule: int, text: str, cpu_s: float) -> dict[str, Any]:
        """Return what one rule says of a text.

        Answers to texts that nobody waits for any more are passed over.

        Args:
            rule: its number in the list that the process was started with.
            text: the text.
            cpu_s: seconds of CPU after which the kernel ends the process.
        """
        self._number += 1
        number = self._number
        message = {"id": number, "rule": rule, "text": text, "cpu_s": cpu_s}
        try:
            await asyncio.get_running_loop().sock_sendall(self.socket, json.dumps(message).encode() + b"\n")
        except BaseException:
            self.broken = True  # half a message may be in the pipe
            raise
        while True:
            await self._fill()
            reply = self._line()
            if reply.pop("id") == number:
                return reply

    def kill(self) -> None:
        """End the process and release what it held."""
        self.broken = True
        self.socket.close()
        self.popen.kill()
        self.popen.wait()

    async def _fill(self) -> None:
        while b"\n" not in self._buffer:
            self._take_in(await asyncio.get_running_loop().sock_recv(self.socket, 1 << 20))

    def _take_in(self, data: bytes) -> None:
        if not data:
            raise ConnectionError("the process ended")
        self._buffer += data
        if len(self._buffer) > LONGEST_REPLY:
            raise ValueError("the reply is too long")

    def _line(self) -> dict[str, Any]:
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _note_ready(self) -> None:
        reply = self._line()
        if reply.get("ready") is not True:
            raise ValueError(reply.get("failed", "no ready message"))
        self.ready = True

    def _send_all(self, message: dict[str, Any]) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")


def _environment(home: Path) -> dict[str, str]:
    """Return the process's environment: nothing of ours but what finds the interpreter and its libraries."""
    found = {name: os.environ[name] for name in _KEPT if name in os.environ}
    paths = [str(Path(__file__).resolve().parents[2]), found.get("PYTHONPATH", "")]
    return {
        **found,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OTEL_SDK_DISABLED": "true",
        "DO_NOT_TRACK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
