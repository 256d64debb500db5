"""Speaks with systemd: readiness, status and watchdog over NOTIFY_SOCKET, and sockets that it opened for us.

Protocols: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

FIRST_SOCKET = 3


class Notifier:
    """Tells the service manager how the endpoint fares; does nothing where none listens, and never raises.

    `watchdog_s` is how often it wants to hear that we live, 0.0 for never.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        found = os.environ if environment is None else environment
        self._address = found.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # Linux's abstract names
            self._address = "\0" + self._address[1:]
        meant = found.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        period = found.get("WATCHDOG_USEC", "0")
        self.watchdog_s = int(period) / 1e6 if meant and period.isdigit() and self._address else 0.0

    def ready(self, status: str) -> None:
        """Requests are answered from now on, or again."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """Show one line in `systemctl status`."""
        self._send(f"STATUS={text}")

    def reloading(self) -> None:
        """Releases are looked at again; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Running requests end, then the endpoint."""
        self._send("STOPPING=1\nSTATUS=running requests end")

    async def feed(self) -> None:
        """Say that the event loop runs, for ever; ends at once where nobody watches."""
        while self.watchdog_s:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.setblocking(False)
                line.connect(self._address)
                line.send(text.replace("\r", " ").encode())
        except OSError as error:
            log.warning("cannot notify the service manager: %s", error)


def inherited_socket(environment: dict[str, str] | None = None) -> socket.socket | None:
    """Return the listening socket that systemd passed to this process, None when it passed none.

    The variables are taken away, so that no child believes the socket to be its own.
    """
    found: dict[str, str] | os._Environ[str] = os.environ if environment is None else environment
    pid, count = found.pop("LISTEN_PID", ""), found.pop("LISTEN_FDS", "")
    found.pop("LISTEN_FDNAMES", "")
    if pid != str(os.getpid()) or not count.isdigit() or int(count) < 1:
        return None
    os.set_inheritable(FIRST_SOCKET, False)
    given = socket.socket(fileno=FIRST_SOCKET)
    if given.type != socket.SOCK_STREAM or given.family not in (socket.AF_INET, socket.AF_INET6):
        given.detach()
        log.warning("the socket that was passed is no TCP socket: it is not used")
        return None
    return given
